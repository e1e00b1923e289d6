"""The device mesh, and how each array is sharded over it."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import keystr, tree_map_with_path

from vasae_jax.config import MeshConfig
from vasae_jax.utils.errors import UserError

MEMBER, DATA, MODEL = "member", "data", "model"
AXES = (MEMBER, DATA, MODEL)
"""Axes of every mesh, from the slowest to the fastest varying device number."""
_NOT_BY_FEATURE = {"b_dec"}
"""Names of arrays without a feature axis."""
_TPU_TILE_KIB = "65536"
"""On-chip memory of a TPU for the tiles of one operation, in KiB; XLA's default is 16384, and a
v5e or v6e has twice this. With the default, a matrix product that also masks or converts takes up
to half as long again."""


@dataclass(frozen=True)
class Rules:
    """The mesh axis that splits each kind of axis; None keeps a copy on every device."""

    members: str | None = MEMBER
    """Runs of a pack, laid end to end along the leading axis of their arrays."""
    rows: str | None = DATA
    """Rows of a batch."""
    features: str | None = MODEL
    """Features: rows of W_enc and W_dec, their moments, anchor state and counters."""

    def batch(self) -> P:
        """The PartitionSpec of a [rows, ...] array."""
        return P(self.rows)

    def state(self, tree: Any) -> Any:
        """A PartitionSpec for every leaf of a train state, or of a part of one.

        Arrays are split along their leading axis, the features, except scalars and b_dec.
        """
        return tree_map_with_path(lambda path, leaf: P(*self._axes(path, leaf)), tree)

    def pack(self, tree: Any) -> Any:
        """A PartitionSpec for every leaf of a pack's states, concatenated along the leading axis.

        ``tree`` is the state of one run. Each run's part is sharded as :meth:`state` shards it.
        """
        return tree_map_with_path(
            lambda path, leaf: P((self.members, *self._axes(path, leaf))), tree
        )

    def _axes(self, path: tuple[Any, ...], leaf: Any) -> tuple[str | None, ...]:
        """Mesh axes that split a leaf of one run's state."""
        by_feature = np.ndim(leaf) > 0 and keystr(path[-1:], simple=True) not in _NOT_BY_FEATURE
        return (self.features,) if by_feature else ()


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh that ``config`` describes, over this program's devices and with the axes AXES.

    Raises:
        UserError: there are not enough devices, or a run on several hosts leaves some unused.
    """
    devices, member, model = jax.devices(), config.member, config.model
    data = config.rows_over or max(1, len(devices) // max(member * model, 1))
    sizes, size = (member, data, model), member * data * model
    layout = f"mesh member={member} x data={data} x model={model}"
    if min(sizes) < 1 or size > len(devices):
        raise UserError(
            f"{layout} cannot be laid out: found {len(devices)} device(s), expected axes of at "
            "least 1 whose product is at most that"
        )
    if jax.process_count() > 1 and size != len(devices):
        raise UserError(
            f"{layout} uses {size} of {len(devices)} devices; "
            "expected all of them where a run has several processes"
        )
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices[:size])


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """XLA options for a training step over ``mesh``; none except on a TPU."""
    on_tpu = mesh.devices.flat[0].platform == "tpu"
    return {"xla_tpu_scoped_vmem_limit_kib": _TPU_TILE_KIB} if on_tpu else {}


def shardings(mesh: Mesh, specs: Any) -> Any:
    """A NamedSharding for every PartitionSpec of the tree ``specs``."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, P)
    )


# NumPy arrays to a mesh that may span processes.


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Copy every array of ``tree`` to every device; it must be equal on all processes."""
    sharding = NamedSharding(mesh, P())
    return jax.tree.map(lambda a: _to_devices(sharding, np.asarray(a), np.shape(a)), tree)


def seed_key(seed: int, mesh: Mesh) -> jax.Array:
    """``jax.random.key(seed)`` on every device."""
    make = jax.jit(lambda: jax.random.key(seed), out_shardings=NamedSharding(mesh, P()))
    key: jax.Array = make()
    return key


def check_rows(batch: int, mesh: Mesh) -> None:
    """Raise UserError if the processes of this run cannot divide a batch between them."""
    if _processes_share_rows(mesh) and batch % mesh.size:
        raise UserError(
            f"--data.batch is {batch}; expected a multiple of the {mesh.size} devices, which each "
            "take a part of it where the mesh's model or member axis spans processes"
        )


def rows_on_mesh(mesh: Mesh, tree: Any) -> Any:
    """Batch arrays sharded over ``data``, from the rows that each process has read.

    Every array of ``tree`` is this process's part, [rows / processes, ...]. If devices of several
    processes need the same rows, each process sends its rows to its own devices and the devices
    exchange them, so each row is read by one host only. The order of the rows then differs from
    that of the processes; no result depends on it.
    """
    shared = _processes_share_rows(mesh)
    sharding = NamedSharding(mesh, P(AXES) if shared else Rules().batch())
    count = jax.process_count()
    arrays = jax.tree.map(lambda a: _to_devices(sharding, a, (len(a) * count, *a.shape[1:])), tree)
    return _gather_rows(mesh)(arrays) if shared else arrays


@functools.cache
def _gather_rows(mesh: Mesh) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, Rules().batch()))


def _to_devices(sharding: NamedSharding, array: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    result: jax.Array = jax.make_array_from_process_local_data(sharding, array, shape)
    return result


def _processes_share_rows(mesh: Mesh) -> bool:
    """Whether devices of more than one process hold the same rows."""
    groups = np.moveaxis(mesh.devices, AXES.index(DATA), 0).reshape(mesh.shape[DATA], -1)
    return any(len({device.process_index for device in group}) > 1 for group in groups)
