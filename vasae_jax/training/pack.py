"""How the states of runs lie on a mesh, and the step of all of them.

Runs go in rounds: in each, one run of the same site at every place of the mesh's axis ``member``.
A single run is one round of one place. All rounds are steps of the same compiled program; runs
never meet, so nothing is sent along ``member``. A ``vmap`` or a loop over the runs of a device
takes longer than a round for each (docs/scale.md): it copies their state, and under ``vmap`` the
loops that search anchors go on for all runs until the last has done.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vasae_jax.config import Config
from vasae_jax.distributed.mesh import MEMBER, Rules, shardings
from vasae_jax.sae.config import Execution
from vasae_jax.sites import Site
from vasae_jax.training.hparams import differing
from vasae_jax.training.loss import Batch, StepInputs
from vasae_jax.training.state import TrainState
from vasae_jax.training.step import Metrics, make_steps

Rounds = tuple[tuple[int, ...], ...]
"""The runs of each round, by number: at most as many as the mesh has places for runs."""
States = tuple[TrainState, ...]
"""A state for each round.

With one place along ``member`` it is that of the run itself. With several, leaves are those of the
round's runs, end to end along their leading axis (scalars become vectors), split over ``member``:
[places * F, d] for a matrix of [F, d]. So each device holds arrays of a single run's shapes, and
its step is a single run's to the last instruction; an axis of its own for the runs made XLA copy
Adam's moments at every step. A round of fewer runs than places is filled up with its last run."""
RoundMetrics = tuple[Metrics, ...]
"""Of each round: [] with one place along ``member``, else [places]."""


def sites_of(configs: Sequence[Config]) -> list[Site]:
    """The sites of runs, in the order in which they come first."""
    return list(dict.fromkeys(config.data.input_site for config in configs))


def widest(configs: Sequence[Config]) -> Config:
    """The first config with the largest k of all."""
    first = configs[0]
    return replace(first, sae=replace(first.sae, k=max(config.sae.k for config in configs)))


def rounds_of(configs: Sequence[Config], places: int) -> Rounds:
    """Rounds of ``places`` runs of one site each, the last of a site with what is left."""
    by_site: dict[Site, list[int]] = {}
    for run, config in enumerate(configs):
        by_site.setdefault(config.data.input_site, []).append(run)
    return tuple(
        tuple(runs[start : start + places])
        for runs in by_site.values()
        for start in range(0, len(runs), places)
    )


class Layout:
    """Puts the states of single runs into those of rounds and takes them out again.

    The state of a single run lies on the mesh by the rules of one, so each device along ``member``
    has a copy of it: they are handled one at a time. With one place nothing is copied.
    """

    def __init__(self, state: TrainState, rounds: Rounds, mesh: Mesh) -> None:
        """For a state like ``state`` (its shapes only) of each run of ``rounds``."""
        rules, self._places = Rules(), mesh.shape[MEMBER]
        self.rounds = rounds
        self._place_of = {
            run: (number, place)
            for number, runs in enumerate(rounds)
            for place, run in enumerate(runs)
        }
        single = shardings(mesh, rules.state(state))
        self.single = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            state,
            single,
        )
        """The state of one run, as shapes with their shardings."""
        split = shardings(mesh, rules.pack(state))
        self._empty = jax.jit(self._zeros, out_shardings=split)
        self._put = jax.jit(_put, out_shardings=split, donate_argnums=0)
        self._take = jax.jit(self._part, out_shardings=single)
        self._copy = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))

    def places(self, number: int) -> list[int]:
        """The run at each place of a round."""
        runs = self.rounds[number]
        return [*runs, *[runs[-1]] * (self._places - len(runs))]

    def gather(self, state_of: Callable[[int], TrainState]) -> States:
        """The states of all rounds, created sharded, from those of runs, asked for in turn."""
        return tuple(self._round(number, state_of) for number in range(len(self.rounds)))

    def take(self, states: States, run: int) -> TrainState:
        """The state of one run."""
        number, place = self._place_of[run]
        if self._places == 1:
            return states[number]
        return cast(TrainState, self._take(states[number], jnp.int32(place)))

    def read(self, metrics: RoundMetrics) -> list[Metrics]:
        """Every run's metrics as numbers on the host, in order of run; waits for the device."""
        host = jax.device_get(metrics if self._places == 1 else self._copy(metrics))
        return [
            Metrics(*(np.atleast_1d(values)[place] for values in host[number]))
            for _, (number, place) in sorted(self._place_of.items())
        ]

    def _round(self, number: int, state_of: Callable[[int], TrainState]) -> TrainState:
        runs = self.rounds[number]
        if self._places == 1:
            return state_of(runs[0])
        state: TrainState = self._empty()
        for place, run in enumerate(runs):
            of_run = state_of(run)
            for filled in range(place, self._places if run == runs[-1] else place + 1):
                state = self._put(state, of_run, jnp.int32(filled))
        return state

    def _zeros(self) -> TrainState:
        def zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
            first, *others = leaf.shape or (1,)
            return jnp.zeros((self._places * first, *others), leaf.dtype)

        return cast(TrainState, jax.tree.map(zeros, self.single))

    def _part(self, state: TrainState, place: jax.Array) -> TrainState:
        def part(leaf: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
            size = leaf.shape[0] // self._places
            return jax.lax.dynamic_slice_in_dim(leaf, place * size, size).reshape(like.shape)

        return cast(TrainState, jax.tree.map(part, state, self.single))


def _put(into: TrainState, state: TrainState, place: jax.Array) -> TrainState:
    def put(leaf: jax.Array, part: jax.Array) -> jax.Array:
        part = jnp.atleast_1d(part)
        return jax.lax.dynamic_update_slice_in_dim(leaf, part, place * part.shape[0], 0)

    return cast(TrainState, jax.tree.map(put, into, state))


class PackStep:
    """The step of all runs: their new states, those passed in being donated, and metrics."""

    def __init__(
        self, configs: Sequence[Config], mesh: Mesh, layout: Layout, execution: Execution
    ) -> None:
        self._program = make_steps(widest(configs), mesh, layout.single, execution)
        places = [layout.places(number) for number in range(len(layout.rounds))]
        self._sites = [configs[runs[0]].data.input_site for runs in places]
        traced, spread = differing(configs, _d_sae(layout)), NamedSharding(mesh, P(Rules().members))
        self._traced = [
            {name: _spread(values[runs], spread) for name, values in traced.items()}
            for runs in places
        ]
        self._active = [set(runs) for runs in places]
        self._last: dict[int, Metrics] = {}

    def __call__(
        self,
        number: int,
        states: States,
        batches: Mapping[Site, Batch],
        inputs: Mapping[Site, StepInputs],
    ) -> tuple[States, RoundMetrics]:
        """Step ``number``, from 1, on a batch of each site; rounds without active runs rest."""
        stepped, program = list(states), self._program(number)
        for round_, site in enumerate(self._sites):
            if self._active[round_] or round_ not in self._last:
                stepped[round_], self._last[round_] = program(
                    states[round_],
                    batches[site],
                    inputs[site]._replace(hparams=self._traced[round_]),
                )
        return tuple(stepped), tuple(self._last[round_] for round_ in range(len(stepped)))

    def end(self, run: int) -> None:
        """Step a run no more, once no run of its round is active."""
        for active in self._active:
            active.discard(run)


def _d_sae(layout: Layout) -> int:
    return int(layout.single.counters.idle.shape[0])


def _spread(values: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])
