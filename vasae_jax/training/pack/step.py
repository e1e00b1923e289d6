"""One training step of every run of a pack, on the same rows.

The runs go in rounds: one for each place of the mesh's axis ``member``. All rounds are steps
of the same compiled program, which is given each run's own numbers; runs never meet, so
nothing is sent along ``member``. A ``vmap`` or a loop over the runs of a device takes longer
than a round for each, as docs/scale.md has it: it copies their state, and under ``vmap`` the
loops that look for anchors again go on for all runs until the last has done.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vasae_jax.config import Config
from vasae_jax.devices.compiler import options
from vasae_jax.devices.mesh import MEMBER, Rules
from vasae_jax.sae.execution import Execution
from vasae_jax.training.loss import Batch, Context
from vasae_jax.training.pack.state import Layout, PackState
from vasae_jax.training.state import TrainState
from vasae_jax.training.step import Metrics, local_step


class Knobs(NamedTuple):
    """What a round is given of its runs' settings, [runs] float32 each."""

    weight: jax.Array
    """anchor.weight, lambda"""
    lr: jax.Array
    """optim.lr"""


Round = Callable[[TrainState, Batch, Context, Knobs], tuple[TrainState, Metrics]]
PackStep = Callable[[PackState, Batch, Context], tuple[PackState, tuple[Metrics, ...]]]


def make_pack_step(
    configs: Sequence[Config], mesh: Mesh, layout: Layout, execution: Execution
) -> PackStep:
    """The step of a pack: its new state, the one passed in being donated, and metrics.

    Metrics are [runs of a round] in each round.
    """
    program = make_round(configs[0], mesh, layout, execution)
    knobs = _knobs(configs, mesh)

    def step(
        pack: PackState, batch: Batch, context: Context
    ) -> tuple[PackState, tuple[Metrics, ...]]:
        done = [program(state, batch, context, own) for state, own in zip(pack, knobs, strict=True)]
        return tuple(state for state, _ in done), tuple(metrics for _, metrics in done)

    return step


def make_round(
    config: Config, mesh: Mesh, layout: Layout, execution: Execution
) -> jax.stages.Wrapped:
    """The jitted step of one round, a :data:`Round`; the state passed in is donated.

    Args:
        config: any run's: all but its knobs is taken from it.
        mesh: of the pack.
        layout: of the pack's state.
        execution: how the active features are multiplied.
    """
    rules = Rules()
    members = P(rules.members)

    def step(
        state: TrainState, batch: Batch, context: Context, knobs: Knobs
    ) -> tuple[TrainState, Metrics]:
        own = jax.tree.map(lambda leaf, like: leaf if like.ndim else leaf[0], state, layout.single)
        turned = with_knobs(config, Knobs(knobs.weight[0], knobs.lr[0]))
        alone = local_step(own, batch, context, turned, execution)
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


def with_knobs(config: Config, knobs: Knobs) -> Config:
    """``config`` for use under ``jax.jit``, with a run's traced numbers in place of its own."""
    weight: Any = knobs.weight
    lr: Any = knobs.lr
    return replace(
        config,
        anchor=replace(config.anchor, weight=weight),
        optim=replace(config.optim, lr=lr),
    )


def _knobs(configs: Sequence[Config], mesh: Mesh) -> list[Knobs]:
    """Each round's knobs on the mesh."""
    weights = [config.anchor.weight for config in configs]
    rates = [config.optim.lr for config in configs]
    layout, over = NamedSharding(mesh, P(Rules().members)), mesh.shape[MEMBER]

    def place(values: list[float]) -> jax.Array:
        host = np.array(values, np.float32)
        return jax.make_array_from_callback(host.shape, layout, lambda part: host[part])

    return [
        Knobs(place(weights[start : start + over]), place(rates[start : start + over]))
        for start in range(0, len(configs), over)
    ]
