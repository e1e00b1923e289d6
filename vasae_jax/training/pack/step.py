"""One training step of every run of a pack, on the rows of its layer.

The runs go in rounds: one for each place of the mesh's axis ``member``. All rounds are steps
of the same compiled program, which is given each run's own numbers where they differ; runs never
meet, so nothing is sent along ``member``. A ``vmap`` or a loop over the runs of a device takes
longer than a round for each, as docs/scale.md has it: it copies their state, and under ``vmap``
the loops that look for anchors again go on for all runs until the last has done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vasae_jax.config import Config
from vasae_jax.devices.compiler import options
from vasae_jax.devices.mesh import Rules
from vasae_jax.sae.execution import Execution
from vasae_jax.training.knobs import Given, knobs_of
from vasae_jax.training.loss import Batch, Context
from vasae_jax.training.pack.state import Layout, PackState
from vasae_jax.training.phases import phases
from vasae_jax.training.state import TrainState
from vasae_jax.training.step import Metrics, local_step

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
        self._layers = [configs[runs[0]].data.layer for runs in places]
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
        self, pack: PackState, batches: Mapping[int, Batch], contexts: Mapping[int, Context]
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
    return jax.jit(local, donate_argnums=0, compiler_options=options(mesh))


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
