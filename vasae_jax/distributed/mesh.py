"""The device mesh and the one place that says how each array lies on it."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vasae_jax.config import MeshConfig
from vasae_jax.utils.errors import UserError

MEMBER, DATA, MODEL = "member", "data", "model"
AXES = (MEMBER, DATA, MODEL)
"""Axes of every mesh of a run, the slowest first."""


@dataclass(frozen=True)
class Rules:
    """Sharding by logical axis: a mesh axis name, or None for a copy on every device."""

    members: str | None = MEMBER
    """Runs of a pack: parts of the leading axis of everything that each has its own of."""
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
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: P(*self._axes(path, np.ndim(leaf))), tree
        )

    def pack(self, tree: Any) -> Any:
        """A PartitionSpec for every leaf of several states like ``tree``, laid end to end.

        Leading axes then hold one run after the other, and within a run its parts as alone.
        """
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: P((self.members, *self._axes(path, np.ndim(leaf)))), tree
        )

    def _axes(self, path: tuple[Any, ...], ndim: int) -> tuple[str | None, ...]:
        """Mesh axes of a leaf of one state that has ``ndim`` axes."""
        whole = ndim == 0 or _last_name(path) in _SHARED
        return () if whole else (self.features,)


_SHARED = {"b_dec"}


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh of ``config`` over this program's devices, with the axes AXES.

    Raises:
        UserError: the product of the axes is not a number of devices there are.
    """
    devices = jax.devices()
    member, model = config.member, config.model
    data = config.rows_over or max(1, len(devices) // max(member * model, 1))
    sizes = (member, data, model)
    said = f"mesh member={member} x data={data} x model={model}"
    size = member * data * model
    if min(sizes) < 1 or size > len(devices):
        raise UserError(
            f"{said} cannot be laid out: found {len(devices)} device(s), expected axes of at "
            "least 1 whose product is at most that"
        )
    if jax.process_count() > 1 and size != len(devices):
        raise UserError(
            f"{said} uses {size} of {len(devices)} devices; "
            "expected all of them where a run has several processes"
        )
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices[:size])


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


# Host arrays on a mesh that may span processes.


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
