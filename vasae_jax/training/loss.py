"""The training loss of one batch, for this device's part of rows and features.

    loss = reconstruction - pull * sum_i w_i min(s_i, target_cosine)

reconstruction is sum |x - x_hat|^2 over kept rows, divided by (kept rows * variance) or by
(kept rows * d) for the published mean squared error. s_i is the cosine of W_dec[i], or of W_enc[i]
where the encoder is pulled, with its nearest anchor: the one of the largest plain cosine. With
layer anchors and the encoder, s_i is the cosine with that anchor after whitening by the layer's
within-token covariance (:mod:`vasae_jax.anchor.whitening`). The weights w_i sum to 1 over all
features (arXiv:2606.27941 has them equal), or over those whose turn it is where features are pulled
in turns (:mod:`vasae_jax.anchor.turns`). pull is lambda (as there), or lambda times the batch's
reconstruction where lambda is relative: the gradient is then that of
log(reconstruction) - lambda * sum_i ..., up to a factor that Adam ignores.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.activations import activation_of
from vasae_jax.anchor.certificate import AnchorState
from vasae_jax.anchor.layer_anchors import AnchorTokens
from vasae_jax.anchor.loss import NearestDetectors, alignment_and_grad, whitened_alignment_and_grad
from vasae_jax.anchor.turns import Turn
from vasae_jax.anchor.whitening import WhitenedAnchors
from vasae_jax.config import AnchorConfig, OptimConfig, SAEConfig
from vasae_jax.distributed.mesh import DATA, MODEL
from vasae_jax.sae import ForwardConfig, Params, forward
from vasae_jax.sae.collectives import local_rows, sum_parts
from vasae_jax.sae.config import Execution
from vasae_jax.training.hparams import HParams, Number, Traced
from vasae_jax.training.resample import Resampling, first_rows
from vasae_jax.training.state import pulled_name


class Batch(NamedTuple):
    """One batch on the device."""

    x: jax.Array
    """[B, d], the rows, bfloat16 or float32."""
    keep: jax.Array
    """[B] bool, False for rows that are masked."""


class StepInputs(NamedTuple):
    """Arrays that the steps of a run read and do not change."""

    anchors: jax.Array
    """[V, d] float32 unit rows ([1, d] where the method has no anchor)."""
    mean: jax.Array
    """[d] float32 mean of the training rows."""
    variance: jax.Array
    """[] float32, mean of |x - mean|^2 over the training rows."""
    whitened: WhitenedAnchors | None = None
    """The anchors, whitened, where cosines are taken after whitening; None: they are not."""
    hparams: Traced | None = None
    """Hyperparameters that replace the config's, where runs of a pack differ in them."""
    tokens: AnchorTokens | None = None
    """The token of each anchor, for the probe of features; no step reads it."""


@dataclass(frozen=True)
class StepSettings:
    """Settings that are compiled into a step."""

    sae: SAEConfig
    """``k`` is the largest of the runs that share the program."""
    anchor: AnchorConfig
    optim: OptimConfig
    steps: int
    """Steps of the whole run."""
    execution: Execution
    """How the active features are multiplied."""
    resampling: Resampling

    @property
    def unit_decoder(self) -> bool:
        """Whether decoder rows have norm 1 at every step."""
        return self.sae.normalize_decoder and self.sae.method != "tied"

    @property
    def unit_pulled(self) -> bool:
        """Whether the rows that are pulled have norm 1 at every step."""
        return self.unit_decoder and self.anchor.pulls == "decoder"

    @property
    def in_turns(self) -> bool:
        """Whether features are pulled in turns: where cosines are taken after whitening."""
        anchor = self.anchor
        layer = anchor.kind != "embedding" and anchor.pulls == "encoder"
        return self.sae.method == "soft" and anchor.mode == "nearest" and layer


class BatchStats(NamedTuple):
    """Sums over the rows of a batch on all devices; equal on every device except ``fired``."""

    loss: jax.Array
    """[] the training loss."""
    aligned: jax.Array
    """[] sum_i w_i min(s_i, target_cosine) over all features (0 without an anchor)."""
    squared_error: jax.Array
    """[] sum of |x - x_hat|^2 over kept rows."""
    squared_spread: jax.Array
    """[] sum of |x - mean|^2 over kept rows."""
    rows: jax.Array
    """[] float32, kept rows, at least 1."""
    fired: jax.Array
    """[F part] float32, kept rows on which each of this device's features fired."""
    residuals: jax.Array
    """[n, d], x - x_hat of the batch's first rows, 0 for masked ones, for features that start anew
    (:mod:`vasae_jax.training.resample`)."""


def loss_and_grads(
    params: Params,
    batch: Batch,
    inputs: StepInputs,
    hparams: HParams,
    settings: StepSettings,
    *,
    nearest: AnchorState | None,
    firing_rate: jax.Array,
    turn: Turn | None = None,
) -> tuple[BatchStats, Params]:
    """The loss and its gradient in this device's part of the parameters; inside shard_map.

    Args:
        params: this device's features. batch: its rows. inputs: of the run.
        hparams: of the run, with lambda as it is at this step.
        settings: what is compiled in.
        nearest: of this part's features, None where all are searched or none is pulled.
        firing_rate: [F part], recent firing rates.
        turn: of the features that are pulled in this step; None: all are.
    """
    kept = jnp.maximum(jax.lax.psum(batch.keep.astype(jnp.float32).sum(), DATA), 1.0)
    unit = inputs.variance if settings.optim.loss == "variance" else jnp.float32(batch.x.shape[1])
    grad = jax.value_and_grad(_reconstruction, has_aux=True)
    (_, (error, extra, spread, fired, residuals)), grads = grad(
        params, batch, inputs, kept, unit, hparams, settings
    )
    error, extra, spread, fired = jax.lax.psum((error, extra, spread, fired), DATA)
    if jax.lax.axis_size(DATA) > 1:  # over one device the sum would still be a copy
        grads = jax.lax.psum(grads, DATA)
    aligned = jnp.zeros((), jnp.float32)
    relative = settings.anchor.relative
    weight = hparams.anchor_weight * (error if relative else jnp.ones_like(error))
    if settings.sae.method == "soft":
        # Every device along data holds the same features: this comes after their sum.
        name = pulled_name(settings.anchor)
        weight_F = _feature_weight(firing_rate, hparams.sqrt_rate, turn)
        if turn is None or settings.execution == "dense":
            aligned, pull = _pull(params[name], inputs, nearest, weight_F, hparams, settings)
            grads[name] = grads[name] - weight * pull
        else:
            rows_ND, some, weight_N = jax.tree.map(
                lambda leaf: leaf[turn.ids], (params[name], nearest, weight_F)
            )
            weight_N = jnp.where(turn.has, weight_N, jnp.zeros_like(weight_N))
            aligned, pull = _pull(rows_ND, inputs, some, weight_N, hparams, settings)
            grads[name] = grads[name].at[turn.ids].add(-weight * pull)  # drops ids beyond the part
        aligned = jax.lax.psum(aligned, MODEL)
    loss = error - weight * aligned
    loss = loss if extra is None else loss + extra
    squared_error = error * kept * unit
    return BatchStats(loss, aligned, squared_error, spread, kept, fired, residuals), grads


def _pull(
    rows_FD: jax.Array,
    inputs: StepInputs,
    nearest: AnchorState | None,
    feature_weight: jax.Array,
    hparams: HParams,
    settings: StepSettings,
) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of capped cosines [] of some pulled rows, and its gradient in them."""
    target_cosine = hparams.target_cosine
    if nearest is not None and inputs.whitened is not None:
        anchors = NearestDetectors(nearest.anchor_rows, nearest.anchor_near)
        return whitened_alignment_and_grad(
            rows_FD, feature_weight, anchors, inputs.whitened, target_cosine=target_cosine
        )
    return alignment_and_grad(
        rows_FD,
        feature_weight,
        inputs.anchors,
        None if nearest is None else nearest.anchor_rows,
        settings.anchor.mode,
        target_cosine=target_cosine,
        unit=settings.unit_pulled,
    )


def _reconstruction(
    params: Params,
    batch: Batch,
    inputs: StepInputs,
    kept: jax.Array,
    unit: jax.Array,
    hparams: HParams,
    settings: StepSettings,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array | None, jax.Array, jax.Array, jax.Array]]:
    """The part of the loss of this device's rows, without the pull, and its terms.

    The terms are the reconstruction loss, the activation's own loss (None: it has none), the rows'
    spread, the kept rows on which each feature fired, and the residuals of the batch's first rows.
    """
    x_BD = batch.x.astype(jnp.float32)
    keep = batch.keep.astype(jnp.float32)
    dense = settings.execution == "dense"
    split = dense and x_BD.shape[0] % jax.lax.axis_size(MODEL) == 0
    k, pre_bias = _if_traced(hparams.k), _if_traced(hparams.pre_bias)
    sae = settings.sae
    cfg = ForwardConfig(
        activation=activation_of(sae),
        pre_bias=sae.pre_bias if pre_bias is None else 0.0,
        execution=settings.execution,
        compute_dtype=sae.compute_dtype,
        screen=sae.screen == "on",
        unit=settings.unit_decoder,
        axis=MODEL,
        rows_axis=DATA,
        split_rows=split,
    )
    out = forward(params, x_BD, cfg, keep, k=k, pre_bias=pre_bias)
    extra = None if out.extra_loss is None else jnp.sum(out.extra_loss * keep) / kept
    if split:
        x_BD, keep = local_rows(x_BD, MODEL), local_rows(keep, MODEL)
    error = jnp.sum(jnp.sum(jnp.square(out.x_hat - x_BD), axis=1) * keep)
    count = settings.resampling.rows
    first = (x_BD[:count] - out.x_hat[:count]) * keep[:count, None]
    residuals = jax.lax.stop_gradient(first_rows(first, count, split=split))
    spread = jnp.sum(jnp.sum(jnp.square(x_BD - inputs.mean[None, :]), axis=1) * keep)
    if split:
        error, spread = sum_parts(error, MODEL), sum_parts(spread, MODEL)
    error = error * (1.0 / (kept * unit))
    total = error if extra is None else error + extra
    return total, (error, extra, spread, out.fired, residuals)


def _if_traced(value: Number) -> jax.Array | None:
    return value if isinstance(value, jax.Array) else None


def _feature_weight(firing_rate: jax.Array, sqrt_rate: Number, turn: Turn | None) -> jax.Array:
    """w_i [F part], the weight of each feature in the anchor loss; they sum to 1 over all.

    It is 0 for those whose turn it is not.
    """
    weight = jnp.where(sqrt_rate, jnp.sqrt(firing_rate), jnp.ones_like(firing_rate))
    if turn is not None:
        has_F = jnp.zeros(weight.shape, bool).at[turn.ids].set(turn.has)
        weight = jnp.where(has_F, weight, jnp.zeros_like(weight))
    total: jax.Array = jax.lax.psum(weight.sum(), MODEL)
    return weight / total
