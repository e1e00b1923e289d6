"""One training step over a mesh: loss, gradients, Adam, nearest anchors, counters.

The whole step runs inside one shard_map, so what crosses devices is written where it happens: the
candidates of top-k and the sum of x_hat over ``model``, the gradients over ``data``. Runs of a pack
lie along ``member`` and never meet. On one device every collective is the identity and the program
is the plain one.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.anchor.certificate import AnchorState, Budget, update
from vasae_jax.anchor.turns import Turn, turn_at
from vasae_jax.config import Config
from vasae_jax.distributed.mesh import MEMBER, MODEL, Rules, compiler_options
from vasae_jax.sae import Params, unit_rows
from vasae_jax.sae.config import Execution
from vasae_jax.training.hparams import (
    HParams,
    Number,
    anchor_weight,
    first_pulled_step,
    hparams_of,
    learning_rate,
)
from vasae_jax.training.loss import Batch, BatchStats, StepInputs, StepSettings, loss_and_grads
from vasae_jax.training.resample import moments_before, resample, resampling_of
from vasae_jax.training.state import Counters, TrainState, adam, pulled_rows

DEAD_STEPS = 200
"""A feature that has not fired for this many steps, or in any so far, counts as dead in the
progress line."""
RATE_DECAY = 0.99
"""Per-step decay of the moving average of firing rates."""


class Metrics(NamedTuple):
    """Scalars of one step, equal on every device of a run."""

    loss: jax.Array
    """the training loss"""
    fvu: jax.Array
    """sum |x - x_hat|^2 / sum |x - mean|^2 over the batch's kept rows"""
    l0: jax.Array
    """features that fire on a kept row, mean"""
    mean_cosine: jax.Array
    """sum_i w_i min(s_i, target_cosine), as in the loss of the step; 0 before the pull starts"""
    dead_fraction: jax.Array
    """share of features that have not fired in the last DEAD_STEPS steps, or in all if fewer"""
    uncertified: jax.Array
    """share of the features whose turn is next, or of all, whose nearest anchor is not certified"""


Step = Callable[[TrainState, Batch, StepInputs], tuple[TrainState, Metrics]]


def make_steps(
    config: Config, mesh: Mesh, state: TrainState, execution: Execution
) -> Callable[[int], Step]:
    """The program for each step, numbered from 1; see :func:`make_step` for the arguments.

    There are two where the pull starts late, each compiled at its first call.
    """
    first, pulled = first_pulled_step(config), make_step(config, mesh, state, execution)
    if first == 1:
        return lambda number: pulled
    unpulled = replace(config, sae=replace(config.sae, method="plain"))
    plain = make_step(unpulled, mesh, state, execution)
    return lambda number: plain if number < first else pulled


def make_step(config: Config, mesh: Mesh, state: TrainState, execution: Execution) -> Step:
    """The jitted step with the pull; the state passed in is donated.

    With several places along ``member`` it steps a run at each: states are end to end, as
    :class:`vasae_jax.training.pack.Layout` has them, metrics are [places], and traced
    hyperparameters ``inputs.hparams`` are [places] each.

    Args:
        config: of the runs, with the largest k of all.
        mesh: of the program.
        state: of a single run; only its structure and shapes count.
        execution: how the active features are multiplied.
    """
    rules, several = Rules(), mesh.shape[MEMBER] > 1
    d_sae = state.counters.idle.shape[0]
    settings = step_settings(config, d_sae, execution)
    compiled_in = hparams_of(config, d_sae)
    member = P(rules.members) if several else P()
    specs = rules.pack(state) if several else rules.state(state)

    def step(
        state_of_place: TrainState, batch: Batch, inputs: StepInputs
    ) -> tuple[TrainState, Metrics]:
        traced = {name: values[0] for name, values in (inputs.hparams or {}).items()}
        hparams = compiled_in._replace(**traced)
        if not several:
            return local_step(state_of_place, batch, inputs, hparams, settings)
        run = jax.tree.map(lambda leaf, like: leaf if like.ndim else leaf[0], state_of_place, state)
        stepped = local_step(run, batch, inputs, hparams, settings)
        return cast(tuple[TrainState, Metrics], jax.tree.map(jnp.atleast_1d, stepped))

    local = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, rules.batch(), _input_specs(rules)),
        out_specs=(specs, member),
        check_vma=False,
    )
    return jax.jit(local, donate_argnums=0, compiler_options=compiler_options(mesh))


def step_settings(config: Config, d_sae: int, execution: Execution) -> StepSettings:
    """What is compiled into the step of a run with ``d_sae`` features."""
    return StepSettings(
        config.sae,
        config.anchor,
        config.optim,
        config.run.steps,
        execution,
        resampling=resampling_of(config, d_sae),
    )


def _input_specs(rules: Rules) -> Any:
    every = P()
    tree: Any = StepInputs  # of specs in place of arrays
    return tree(every, every, every, every, hparams=P(rules.members), tokens=every)


def local_step(
    state: TrainState,
    batch: Batch,
    inputs: StepInputs,
    hparams: HParams,
    settings: StepSettings,
) -> tuple[TrainState, Metrics]:
    """One step of this device's part of the features and rows; inside shard_map."""
    weight = anchor_weight(state.step, hparams, settings.anchor, settings.steps)
    stats, grads = loss_and_grads(
        state.params,
        batch,
        inputs,
        hparams._replace(anchor_weight=weight),
        settings,
        turn=_turn(state.step, state.counters.idle.shape[0], settings),
        nearest=state.anchor,
        firing_rate=state.counters.rate,
    )
    lr = learning_rate(state.step, hparams, settings.steps)
    params, moments = _adam(state, grads, lr, hparams.encoder_lr_ratio, settings)
    counters = _count(state.counters, stats)
    if settings.resampling.rows:
        params, idle = resample(
            params, counters.idle, stats.residuals, state.step, settings.resampling
        )
        counters = counters._replace(idle=idle)
    if settings.execution == "dense":
        params, moments = jax.lax.optimization_barrier((params, moments))
    anchor, uncertified = state.anchor, jnp.zeros((), jnp.float32)
    if anchor is not None and settings.sae.method == "soft":
        anchor, uncertified = _look_after(anchor, params, inputs, state.step + 1, settings)
    metrics = _metrics(stats, dead(counters, state.step + 1), uncertified)
    return TrainState(state.step + 1, params, moments, anchor, counters), metrics


def _turn(step: jax.Array, features: int, settings: StepSettings) -> Turn | None:
    """Which features' turn it is, of ``features`` on this device; None: all have theirs."""
    if not settings.in_turns:
        return None
    return turn_at(step, features, whole=settings.execution == "dense")


def _look_after(
    anchor: AnchorState, params: Params, inputs: StepInputs, step: jax.Array, settings: StepSettings
) -> tuple[AnchorState, jax.Array]:
    """The nearest anchors before ``step``, and the share [] of uncertified features.

    Looked after are the features that the step will pull; the share is of these.
    """
    rows_FD = pulled_rows(params, settings.anchor)
    features = rows_FD.shape[0]
    turn, budget = _turn(step, features, settings), _search_budget(settings, features)
    anchor, open_N = update(rows_FD, inputs.anchors, anchor, budget, settings.unit_pulled, turn)
    has_N = jnp.ones_like(open_N) if turn is None else turn.has
    counts = (open_N.astype(jnp.float32).sum(), has_N.astype(jnp.float32).sum())
    count, total = jax.lax.psum(counts, MODEL)
    return anchor, count / jnp.maximum(total, 1.0)


def _search_budget(settings: StepSettings, features: int) -> Budget:
    """Features whose nearest anchor may be searched in a step, of ``features`` on this device."""
    count = max(1, round(min(1.0, settings.anchor.search_fraction) * features))
    return Budget(search=count, refresh=count)


def _adam(
    state: TrainState,
    grads: Params,
    lr: jax.Array,
    encoder_lr_ratio: Number,
    settings: StepSettings,
) -> tuple[Params, optax.OptState]:
    """Adam on every parameter that learns; unit decoder rows where the settings want them."""
    old, moments = state.params, state.moments
    if settings.resampling.rows:
        moments = moments_before(moments, state.counters.idle)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32 count
        updates, moments = adam(settings.optim).update(grads, moments)
    # Nothing else says that the new weights come after b_dec's gradient, the last to read the
    # old ones; without it XLA reads them from copies, in case. NaN where that diverged.
    lr = lr + 0.0 * grads["b_dec"][0]
    rates = dict.fromkeys(old, lr) | dict.fromkeys(("W_enc", "b_enc"), lr * encoder_lr_ratio)
    new: Params = jax.tree.map(lambda p, u, rate: p - rate * u, old, updates, rates)
    if settings.sae.method == "tied":
        return {**new, "W_dec": old["W_dec"], "b_dec": old["b_dec"]}, moments
    if settings.unit_decoder:
        new = {**new, "W_dec": unit_rows(new["W_dec"])}
    return new, moments


def _count(counters: Counters, stats: BatchStats) -> Counters:
    """Counters after a step with these ``stats``."""
    fired = stats.fired
    idle = jnp.where(fired > 0, jnp.zeros_like(counters.idle), counters.idle + 1)
    rate = RATE_DECAY * counters.rate + (1 - RATE_DECAY) * fired / stats.rows
    return Counters(idle, rate)


def dead(counters: Counters, steps: jax.Array) -> jax.Array:
    """Whether features did not fire in the last DEAD_STEPS of ``steps``, or in all if fewer."""
    return counters.idle >= jnp.minimum(steps, DEAD_STEPS)


def _metrics(stats: BatchStats, dead: jax.Array, uncertified: jax.Array) -> Metrics:
    return Metrics(
        loss=stats.loss,
        fvu=stats.squared_error / jnp.maximum(stats.squared_spread, 1e-30),
        l0=jax.lax.psum(stats.fired.sum(), MODEL) / stats.rows,
        mean_cosine=stats.aligned,
        dead_fraction=jax.lax.pmean(dead.astype(jnp.float32).mean(), MODEL),
        uncertified=uncertified,
    )
