"""The state of a pack: rounds of runs, one run for each place of the axis ``member``."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vasae_jax.devices.mesh import MEMBER, Rules, shardings
from vasae_jax.training.state import TrainState
from vasae_jax.training.step import Metrics

PackState = tuple[TrainState, ...]
"""A state for each round. Leaves are those of its runs, end to end along their leading axis
(numbers become vectors), split over ``member``: [runs * F, d] for a matrix of [F, d]. So each
device holds arrays of a single run's shapes, and its step is a single run's to the last
instruction; an axis of its own for the runs made XLA copy Adam's moments at every step.
Run i of the pack is run i % n of round i // n, where n is the size of ``member``."""


class Layout:
    """Puts the states of single runs into that of a pack and takes them out again.

    The state of a single run lies on the pack's mesh by the rules of one, so each device along
    ``member`` has a copy of it: they are handled one at a time.
    """

    def __init__(self, state: TrainState, runs: int, mesh: Mesh) -> None:
        """For ``runs`` states like ``state`` (its shapes only); ``member`` divides them."""
        rules, self._over = Rules(), mesh.shape[MEMBER]
        self._runs = runs
        self.specs = rules.pack(state)
        """A PartitionSpec for every leaf of a round."""
        split, alone = shardings(mesh, self.specs), shardings(mesh, rules.state(state))
        self.single = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            state,
            alone,
        )
        """The state of one run, as shapes with their places on the mesh."""
        self._empty = jax.jit(self._zeros, out_shardings=split)
        self._put = jax.jit(_put, out_shardings=split, donate_argnums=0)
        self._take = jax.jit(self._part, out_shardings=alone)
        self._copy = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))

    def gather(self, states: Iterator[TrainState]) -> PackState:
        """The pack's state, born sharded, out of its runs', which are asked for in turn."""
        return tuple(self._round(states) for _ in range(self._runs // self._over))

    def take(self, pack: PackState, run: int) -> TrainState:
        """The state of one run."""
        state: TrainState = self._take(pack[run // self._over], jnp.int32(run % self._over))
        return state

    def read(self, metrics: tuple[Metrics, ...]) -> list[Metrics]:
        """Every run's metrics as numbers on the host; waits for the device."""
        host = jax.device_get(self._copy(metrics))
        return [
            Metrics(*(values[place] for values in found))
            for found in host
            for place in range(self._over)
        ]

    def _round(self, states: Iterator[TrainState]) -> TrainState:
        made: TrainState = self._empty()
        for place in range(self._over):
            made = self._put(made, next(states), jnp.int32(place))
        return made

    def _zeros(self) -> TrainState:
        def zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
            first, *others = leaf.shape or (1,)
            return jnp.zeros((self._over * first, *others), leaf.dtype)

        made: TrainState = jax.tree.map(zeros, self.single)
        return made

    def _part(self, state: TrainState, place: jax.Array) -> TrainState:
        def part(leaf: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
            size = leaf.shape[0] // self._over
            return jax.lax.dynamic_slice_in_dim(leaf, place * size, size).reshape(like.shape)

        alone: TrainState = jax.tree.map(part, state, self.single)
        return alone


def _put(into: TrainState, state: TrainState, place: jax.Array) -> TrainState:
    def put(leaf: jax.Array, own: jax.Array) -> jax.Array:
        own = jnp.atleast_1d(own)
        return jax.lax.dynamic_update_slice_in_dim(leaf, own, place * own.shape[0], 0)

    both: TrainState = jax.tree.map(put, into, state)
    return both
