"""One training step of all members of a pack, each on the same rows.

A device steps its own members one after the other, in a loop that updates the state where
it lies. A ``vmap`` over them would run every branch that any of them takes: the loops that
look for anchors again would go on for all until the last has done, copying all state at
each turn. Members never meet: nothing is sent along the axis ``member``.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.config import Config
from vasae_jax.mesh import Rules
from vasae_jax.sae.forward import Execution
from vasae_jax.train.loss import Batch, Context
from vasae_jax.train.state import TrainState
from vasae_jax.train.step import Metrics, local_step


class Knobs(NamedTuple):
    """What the step is given of each member's settings, [members] float32 each."""

    weight: jax.Array
    """anchor.weight, lambda"""
    lr: jax.Array
    """optim.lr"""


PackStep = Callable[[TrainState, Batch, Context], tuple[TrainState, Metrics]]


def knobs_of(configs: Sequence[Config]) -> Knobs:
    """The members' knobs as host arrays."""
    weight = np.array([config.anchor.weight for config in configs], np.float32)
    return Knobs(weight, np.array([config.optim.lr for config in configs], np.float32))


def make_pack_step(
    config: Config, mesh: Mesh, state: TrainState, execution: Execution
) -> Callable[[TrainState, Batch, Context, Knobs], tuple[TrainState, Metrics]]:
    """The jitted step of a pack; the state passed in is donated, metrics are [members] each.

    Args:
        config: any member's: all but its knobs is taken from it.
        mesh: its axis ``member`` divides the members.
        state: of the pack, for its structure and shapes only.
        execution: how the active features are multiplied.
    """
    rules = Rules()
    specs, members = rules.pack(state), P(rules.members)

    def step(
        state: TrainState, batch: Batch, context: Context, knobs: Knobs
    ) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, knobs: Knobs) -> tuple[TrainState, Metrics]:
            return local_step(state, batch, context, _turned(config, knobs), execution)

        return _each(one, state, knobs)

    local = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, rules.batch(), P(), members),
        out_specs=(specs, members),
        check_vma=False,
    )
    return jax.jit(local, donate_argnums=0)


def _turned(config: Config, knobs: Knobs) -> Config:
    """``config`` with traced numbers in the place of a member's own."""
    weight: Any = knobs.weight
    lr: Any = knobs.lr
    return replace(
        config,
        anchor=replace(config.anchor, weight=weight),
        optim=replace(config.optim, lr=lr),
    )


def _each(
    one: Callable[[TrainState, Knobs], tuple[TrainState, Metrics]],
    state: TrainState,
    knobs: Knobs,
) -> tuple[TrainState, Metrics]:
    """``one`` of every member of this device, [own members, ...], one after the other."""

    def body(index: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, metrics = carry
        return _put((state, metrics), one(_take(state, index), _take(knobs, index)), index)

    count = knobs.lr.shape[0]
    found = Metrics(*(jnp.zeros((count,), jnp.float32) for _ in Metrics._fields))
    return jax.lax.fori_loop(0, count, body, (state, found))


def _take(tree: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, 0, False), tree)


def _put(tree: Any, new: Any, index: jax.Array) -> Any:
    def put(leaf: jax.Array, own: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(leaf, own, index, 0)

    return jax.tree.map(put, tree, new)
