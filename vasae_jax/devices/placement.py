"""Host arrays on a mesh that may span processes."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vasae_jax.devices.mesh import AXES, DATA, Rules
from vasae_jax.system.errors import UserError


def on_all(mesh: Mesh, tree: Any) -> Any:
    """A copy of every array of ``tree`` on every device; all processes give equal arrays."""
    layout = NamedSharding(mesh, P())
    return jax.tree.map(lambda a: _place(layout, np.asarray(a), np.shape(a)), tree)


def seed_key(seed: int, mesh: Mesh) -> jax.Array:
    """``jax.random.key(seed)`` on every device."""
    make = jax.jit(lambda: jax.random.key(seed), out_shardings=NamedSharding(mesh, P()))
    key: jax.Array = make()
    return key


def check_rows(batch: int, mesh: Mesh) -> None:
    """Raise UserError where this program's processes cannot split a batch between them."""
    if not _share_rows(mesh):
        return
    if batch % mesh.size:
        raise UserError(
            f"--data.batch is {batch}; expected a multiple of the {mesh.size} devices, which each "
            "take a part of it where the mesh's model or member axis spans processes"
        )


def rows_on_mesh(mesh: Mesh, tree: Any) -> Any:
    """Rows split over ``data``, from the part of them that this process has read.

    Every array of ``tree`` is this process's [rows / processes, ...]. Where devices of
    several processes share rows, each process sends its own to its own devices and they are
    gathered from there, so that no host reads rows that another has read. Rows then lie in
    another order over the mesh than over the processes, which no result depends on.
    """
    rules = Rules()
    spread = _share_rows(mesh)
    layout = NamedSharding(mesh, P(AXES) if spread else rules.batch())
    count = jax.process_count()
    placed = jax.tree.map(lambda a: _place(layout, a, (len(a) * count, *a.shape[1:])), tree)
    return _gather(mesh)(placed) if spread else placed


@functools.cache
def _gather(mesh: Mesh) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, Rules().batch()))


def _place(layout: NamedSharding, array: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    placed: jax.Array = jax.make_array_from_process_local_data(layout, array, shape)
    return placed


def _share_rows(mesh: Mesh) -> bool:
    """Whether devices of more than one process hold the same rows."""
    by_rows = np.moveaxis(mesh.devices, AXES.index(DATA), 0).reshape(mesh.shape[DATA], -1)
    return any(len({device.process_index for device in same}) > 1 for same in by_rows)
