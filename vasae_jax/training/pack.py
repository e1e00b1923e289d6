"""How the runs of a pack are put in rounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vasae_jax.config import Config
from vasae_jax.distributed.mesh import MEMBER, Rules, compiler_options, shardings
from vasae_jax.sae.config import Execution
from vasae_jax.sites import Site
from vasae_jax.training.hparams import Given, knobs_of, phases
from vasae_jax.training.loss import Batch, Context
from vasae_jax.training.state import TrainState
from vasae_jax.training.step import Metrics, local_step

Rounds = tuple[tuple[int, ...], ...]
"""The runs of each round, by number: at most as many as the mesh has places for runs."""


def rounds_of(configs: Sequence[Config], places: int) -> Rounds:
    """Rounds of ``places`` runs of one layer each, the last of a layer with what is left."""
    by_layer: dict[Site, list[int]] = {}
    for run, config in enumerate(configs):
        by_layer.setdefault(config.data.input_site, []).append(run)
    return tuple(
        tuple(runs[start : start + places])
        for runs in by_layer.values()
        for start in range(0, len(runs), places)
    )


# The state of a pack: rounds of runs, one run for each place of the axis ``member``.


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


# One training step of every run of a pack, on the rows of its layer.
#
# The runs go in rounds: one for each place of the mesh's axis ``member``. All rounds are steps
# of the same compiled program, which is given each run's own numbers where they differ; runs never
# meet, so nothing is sent along ``member``. A ``vmap`` or a loop over the runs of a device takes
# longer than a round for each, as docs/scale.md has it: it copies their state, and under ``vmap``
# the loops that look for anchors again go on for all runs until the last has done.


PackMetrics = tuple[Metrics, ...]
"""[runs of a round] each, for every round."""


class PackStep:
    """The step of a pack: its new state, the one passed in being donated, and metrics."""

    def __init__(
        self, configs: Sequence[Config], mesh: Mesh, layout: Layout, execution: Execution
    ) -> None:
        widest_run = widest(configs)
        self._programs = phases(
            widest_run, lambda turn: make_round(turn(widest_run), mesh, layout, execution)
        )
        self._number = widest_run.run.steps
        places = [layout.places(number) for number in range(len(layout.rounds))]
        self._layers = [configs[runs[0]].data.input_site for runs in places]
        given = _given(configs)
        spread = NamedSharding(mesh, P(Rules().members))
        self._given = [
            {name: _placed(values[runs], spread) for name, values in given.items()}
            for runs in places
        ]
        self._going = [set(runs) for runs in places]
        self._last: dict[int, Metrics] = {}

    def at(self, number: int) -> "PackStep":
        """The step of that number, from 1; one of a pull that has set in until this is asked."""
        self._number = number
        return self

    def __call__(
        self, pack: PackState, batches: Mapping[Site, Batch], contexts: Mapping[Site, Context]
    ) -> tuple[PackState, PackMetrics]:
        """One step on a batch of each layer; rounds whose runs have all ended are left alone."""
        states, program = list(pack), self._programs(self._number)
        for number, layer in enumerate(self._layers):
            if self._going[number] or number not in self._last:
                states[number], self._last[number] = program(
                    states[number], batches[layer], contexts[layer], self._given[number]
                )
        return tuple(states), tuple(self._last[number] for number in range(len(states)))

    def end(self, run: int) -> None:
        """Step a run no more, once no run of its round goes on."""
        for going in self._going:
            going.discard(run)


def make_round(
    config: Config, mesh: Mesh, layout: Layout, execution: Execution
) -> jax.stages.Wrapped:
    """The jitted step of one round: (state, batch, context, given) -> (state, metrics).

    The state passed in is donated. ``given`` are knobs by name, [runs] each; they take the place
    of the config's.

    Args:
        config: any run's but with the largest k: all but what is given is taken from it.
        mesh: of the pack.
        layout: of the pack's state.
        execution: how the active features are multiplied.
    """
    rules = Rules()
    members = P(rules.members)

    def step(
        state: TrainState, batch: Batch, context: Context, given: Given
    ) -> tuple[TrainState, Metrics]:
        own = jax.tree.map(lambda leaf, like: leaf if like.ndim else leaf[0], state, layout.single)
        numbers = {name: values[0] for name, values in given.items()}
        alone = local_step(own, batch, context._replace(given=numbers), config, execution)
        found: tuple[TrainState, Metrics] = jax.tree.map(jnp.atleast_1d, alone)
        return found

    local = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(layout.specs, rules.batch(), P(), members),
        out_specs=(layout.specs, members),
        check_vma=False,
    )
    return jax.jit(local, donate_argnums=0, compiler_options=compiler_options(mesh))


def widest(configs: Sequence[Config]) -> Config:
    """The first config with the largest k of all."""
    first = configs[0]
    return replace(first, sae=replace(first.sae, k=max(config.sae.k for config in configs)))


def _given(configs: Sequence[Config]) -> dict[str, np.ndarray]:
    """The knobs in which the runs differ, [runs] each."""
    knobs = [knobs_of(config)._asdict() for config in configs]
    return {
        name: np.array([own[name] for own in knobs], np.int32 if name == "k" else np.float32)
        for name, value in knobs[0].items()
        if any(own[name] != value for own in knobs)
    }


def _placed(values: np.ndarray, spread: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(values.shape, spread, lambda part: values[part])
