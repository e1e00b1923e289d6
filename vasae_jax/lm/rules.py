"""Where each logical axis of a weight or activation lies on the mesh."""

from dataclasses import dataclass, field

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@dataclass(frozen=True)
class Rules:
    """Mesh axis of each logical axis; an axis without a field is never split."""

    batch: str = "data"
    vocab: str = "model"
    heads: str = "model"
    kv_heads: str = "model"
    ff: str = "model"


@dataclass(frozen=True)
class Placement:
    """A mesh with the rules; without a mesh all arrays lie on the default device."""

    mesh: Mesh | None = None
    rules: Rules = field(default_factory=Rules)

    def spec(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> PartitionSpec:
        """The partition of an array.

        An axis is replicated where the mesh lacks its mesh axis or does not divide it
        (such as 3 key heads on 8 devices): slower, never wrong.
        """
        return PartitionSpec(*map(self._mesh_axis, axes, shape))

    def parts(self, axis: str) -> int:
        """Parts that a logical axis is split into where its size allows."""
        name = getattr(self.rules, axis, None)
        return 1 if self.mesh is None else int(self.mesh.shape.get(name, 1))

    def put(self, host: np.ndarray, axes: tuple[str, ...]) -> jax.Array:
        """Place ``host`` [*axes], the same on every process, on the devices."""
        if self.mesh is None:
            placed: jax.Array = jax.device_put(host)
            return placed
        sharding = NamedSharding(self.mesh, self.spec(axes, host.shape))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    def constrain(self, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        """``x`` with its partition fixed, inside a jitted function."""
        if self.mesh is None:
            return x
        sharding = NamedSharding(self.mesh, self.spec(axes, x.shape))
        constrained: jax.Array = jax.lax.with_sharding_constraint(x, sharding)
        return constrained

    def _mesh_axis(self, axis: str, size: int) -> str | None:
        name = getattr(self.rules, axis, None)
        if self.mesh is None or name not in self.mesh.shape or size % self.mesh.shape[name]:
            return None
        return str(name)
