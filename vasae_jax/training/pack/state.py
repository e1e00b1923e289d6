"""The state of a pack: rounds of runs, one run for each place of the axis ``member``."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vasae_jax.devices.mesh import MEMBER, Rules, shardings
from vasae_jax.training.pack.rounds import Rounds
from vasae_jax.training.state import TrainState
from vasae_jax.training.step import Metrics

PackState = tuple[TrainState, ...]
"""A state for each round. Leaves are those of its runs, end to end along their leading axis
(numbers become vectors), split over ``member``: [runs * F, d] for a matrix of [F, d]. So each
device holds arrays of a single run's shapes, and its step is a single run's to the last
instruction; an axis of its own for the runs made XLA copy Adam's moments at every step.
A round of fewer runs than ``member`` has places is filled up with its last run again."""


class Layout:
    """Puts the states of single runs into that of a pack and takes them out again.

    The state of a single run lies on the pack's mesh by the rules of one, so each device along
    ``member`` has a copy of it: they are handled one at a time.
    """

    def __init__(self, state: TrainState, rounds: Rounds, mesh: Mesh) -> None:
        """For a state like ``state`` (its shapes only) of each run of ``rounds``."""
        rules, self._over = Rules(), mesh.shape[MEMBER]
        self.rounds = rounds
        self._found = {
            run: (number, place)
            for number, runs in enumerate(rounds)
            for place, run in enumerate(runs)
        }
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

    def places(self, number: int) -> list[int]:
        """The run at each place of a round."""
        runs = self.rounds[number]
        return [*runs, *[runs[-1]] * (self._over - len(runs))]

    def gather(self, state_of: Callable[[int], TrainState]) -> PackState:
        """The pack's state, born sharded, out of its runs', which are asked for in turn."""
        return tuple(self._round(number, state_of) for number in range(len(self.rounds)))

    def take(self, pack: PackState, run: int) -> TrainState:
        """The state of one run."""
        number, place = self._found[run]
        state: TrainState = self._take(pack[number], jnp.int32(place))
        return state

    def read(self, metrics: tuple[Metrics, ...]) -> list[Metrics]:
        """Every run's metrics as numbers on the host, in order of run; waits for the device."""
        host = jax.device_get(self._copy(metrics))
        return [
            Metrics(*(values[place] for values in host[number]))
            for _, (number, place) in sorted(self._found.items())
        ]

    def _round(self, number: int, state_of: Callable[[int], TrainState]) -> TrainState:
        made: TrainState = self._empty()
        runs = self.rounds[number]
        for place, run in enumerate(runs):
            state = state_of(run)
            same = range(place, self._over if run == runs[-1] else place + 1)
            for each in same:
                made = self._put(made, state, jnp.int32(each))
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
