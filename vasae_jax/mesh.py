"""The device mesh and the one place that says how each array lies on it."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vasae_jax.config import MeshConfig
from vasae_jax.errors import UserError

DATA, MODEL = "data", "model"


@dataclass(frozen=True)
class Rules:
    """Sharding by logical axis: a mesh axis name, or None for a copy on every device."""

    rows: str | None = DATA
    """Rows of a batch."""
    features: str | None = MODEL
    """Features: rows of W_enc and W_dec, their moments, anchor state and counters."""

    def batch(self) -> P:
        """Any [rows, ...] array."""
        return P(self.rows)

    def state(self, tree: Any) -> Any:
        """A PartitionSpec for every leaf of a train state (or any part of one).

        A leaf is split by feature unless it is a scalar or bears the name of something
        that all features share.
        """
        return jax.tree_util.tree_map_with_path(self._leaf, tree)

    def _leaf(self, path: tuple[Any, ...], leaf: Any) -> P:
        name = _last_name(path)
        return P() if np.ndim(leaf) == 0 or name in _SHARED else P(self.features)


_SHARED = {"b_dec"}


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh of ``config`` over this program's devices, axes ``data`` and ``model``.

    Raises:
        UserError: the product of the axes is not a number of devices there are.
    """
    devices = jax.devices()
    model = config.model
    data = config.data or max(1, len(devices) // max(model, 1))
    if model < 1 or data < 1 or data * model > len(devices):
        raise UserError(
            f"mesh data={config.data} x model={config.model} cannot be laid out: found "
            f"{len(devices)} device(s), expected data * model of them at most"
        )
    if jax.process_count() > 1 and data * model != len(devices):
        raise UserError(
            f"mesh data={data} x model={model} uses {data * model} of {len(devices)} devices; "
            "expected all of them where a run has several processes"
        )
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(
        (data, model), (DATA, MODEL), axis_types=types, devices=devices[: data * model]
    )


def shardings(mesh: Mesh, specs: Any) -> Any:
    """NamedSharding for every PartitionSpec of a tree."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, P)


def _last_name(path: tuple[Any, ...]) -> str:
    if not path:
        return ""
    entry = path[-1]
    return str(getattr(entry, "name", getattr(entry, "key", entry)))
