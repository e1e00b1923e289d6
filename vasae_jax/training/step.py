"""One training step over a mesh: loss, gradients, Adam, anchor upkeep, counters.

The whole step runs inside one shard_map, so what crosses devices is written where it
happens: the offers of top-k and the sum of x_hat over ``model``, the gradients over
``data``. On one device every collective is the identity and the program is the plain one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.anchor import Budget, update
from vasae_jax.config import Config
from vasae_jax.distributed.mesh import MODEL, Rules, compiler_options
from vasae_jax.sae import Params, unit_rows
from vasae_jax.sae.config import Execution
from vasae_jax.training.hparams import Knobs, keeps_unit, knobs_of, pulled, pulls_unit
from vasae_jax.training.loss import Batch, Context, Measures, loss_and_grads
from vasae_jax.training.state import Counters, TrainState, adam

DEAD_STEPS = 200
"""A feature that has not fired for this many steps counts as dead in the progress line."""
RATE_DECAY = 0.99
"""Per-step decay of the moving average of firing rates."""


class Metrics(NamedTuple):
    """Scalars of one step, equal on every device."""

    loss: jax.Array
    """the training loss"""
    fvu: jax.Array
    """sum |x - x_hat|^2 / sum |x - mean|^2 over the batch's kept rows"""
    l0: jax.Array
    """features that fire on a kept row, mean"""
    mean_cosine: jax.Array
    """weighted mean of the nearest cosine, as in the loss; 0 before the pull sets in"""
    dead_fraction: jax.Array
    """share of features that have not fired for DEAD_STEPS steps"""
    uncertified: jax.Array
    """share of features whose cached nearest anchor is not certified"""


Step = Callable[[TrainState, Batch, Context], tuple[TrainState, Metrics]]


def make_step(config: Config, mesh: Mesh, state: TrainState, execution: Execution) -> Step:
    """The jitted step of a pull that has set in; the state passed in is donated.

    ``state`` gives the structure and shapes only. Before the pull sets in there is a shorter
    step, see :mod:`vasae_jax.training.hparams`.
    """
    rules = Rules()
    specs = rules.state(state)
    local = jax.shard_map(
        lambda state, batch, context: local_step(state, batch, context, config, execution),
        mesh=mesh,
        in_specs=(specs, rules.batch(), P()),
        out_specs=(specs, P()),
        check_vma=False,
    )
    return jax.jit(local, donate_argnums=0, compiler_options=compiler_options(mesh))


def learning_rate(step: jax.Array, knobs: Knobs, steps: int) -> jax.Array:
    """Linear warm-up, constant, linear fall to 0 at the last step; [] float32.

    ``step`` is the number of steps taken, below ``steps``. Where the rate neither rises nor falls
    it is constant.
    """
    at = step.astype(jnp.float32)
    share = jnp.minimum(1.0, jnp.minimum((at + 1.0) * knobs.rise, (steps - at) * knobs.fall))
    rate: jax.Array = jnp.asarray(knobs.lr, jnp.float32) * share
    return rate


def at_step(config: Config, context: Context, step: jax.Array) -> Context:
    """``context`` with lambda as it is at ``step``.

    It is 0 until the share ``anchor.start`` of the run and rises over the share
    ``anchor.warmup`` to its full weight.
    """
    anchor = config.anchor
    if not anchor.start and not anchor.warmup:
        return context
    start, length = anchor.start * config.run.steps, max(anchor.warmup * config.run.steps, 1.0)
    risen = jnp.clip((step.astype(jnp.float32) - start) / length, 0.0, 1.0)
    weight = knobs_of(config, context.given).weight * risen
    return context._replace(given={**(context.given or {}), "weight": weight})


def local_step(
    state: TrainState, batch: Batch, context: Context, config: Config, execution: Execution
) -> tuple[TrainState, Metrics]:
    """One step of this device's part of the features and rows; inside shard_map."""
    measures, grads = loss_and_grads(
        state.params,
        batch,
        at_step(config, context, state.step),
        state.anchor,
        state.counters.rate,
        config,
        execution,
    )
    rate = learning_rate(state.step, knobs_of(config, context.given), config.run.steps)
    params, moments = _adam(state, grads, rate, config)
    if execution == "dense":
        params, moments = jax.lax.optimization_barrier((params, moments))
    anchor, uncertified = state.anchor, jnp.zeros(state.counters.idle.shape, bool)
    if anchor is not None and config.sae.method == "soft":
        rows, limit = pulled(params, config), budget(config, uncertified.shape[0])
        unit = pulls_unit(config)
        anchor, uncertified = update(rows, context.anchors, anchor, limit, unit)
    counters = _count(state.counters, measures)
    metrics = _metrics(measures, counters, uncertified)
    return TrainState(state.step + 1, params, moments, anchor, counters), metrics


def budget(config: Config, features: int) -> Budget:
    """Features that may be looked at again in a step, of ``features`` on this device."""
    limit = max(1, round(min(1.0, config.anchor.search_fraction) * features))
    return Budget(search=limit, refresh=limit)


def _adam(
    state: TrainState, grads: Params, rate: jax.Array, config: Config
) -> tuple[Params, optax.OptState]:
    """Adam on every parameter that learns; unit decoder rows where they are asked for."""
    old = state.params
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32 count
        updates, moments = adam.update(grads, state.moments)
    # Nothing else says that the new weights come after b_dec's gradient, the last to read the
    # old ones; without it XLA reads them from copies, in case. NaN where that diverged.
    rate = rate + 0.0 * grads["b_dec"][0]
    new: Params = jax.tree.map(lambda p, u: p - rate * u, old, updates)
    if config.sae.method == "tied":
        return {**new, "W_dec": old["W_dec"], "b_dec": old["b_dec"]}, moments
    return ({**new, "W_dec": unit_rows(new["W_dec"])} if keeps_unit(config) else new), moments


def _count(counters: Counters, measures: Measures) -> Counters:
    """Counters after a step with these ``measures``."""
    fired = measures.fired
    idle = jnp.where(fired > 0, jnp.zeros_like(counters.idle), counters.idle + 1)
    rate = RATE_DECAY * counters.rate + (1 - RATE_DECAY) * fired / measures.rows
    return Counters(idle, rate)


def _metrics(measures: Measures, counters: Counters, uncertified: jax.Array) -> Metrics:
    dead = (counters.idle >= DEAD_STEPS).astype(jnp.float32)
    return Metrics(
        loss=measures.loss,
        fvu=measures.squared_error / jnp.maximum(measures.squared_spread, 1e-30),
        l0=jax.lax.psum(measures.fired.sum(), MODEL) / measures.rows,
        mean_cosine=measures.aligned,
        dead_fraction=jax.lax.pmean(dead.mean(), MODEL),
        uncertified=jax.lax.pmean(uncertified.astype(jnp.float32).mean(), MODEL),
    )
