"""The training loss of one batch, for this device's part of rows and features.

    loss = reconstruction - pull * sum_i w_i min(s_i, target_cosine)

reconstruction is sum |x - x_hat|^2 over kept rows, divided by (kept rows * variance) or by
(kept rows * d) for the published mean squared error. s_i is the cosine of W_dec[i], or of W_enc[i]
where the encoder is pulled, with its nearest anchor, which is that of the largest cosine. Of an
encoder row with a layer anchor, s_i is taken as the layer's rows scatter
(:mod:`vasae_jax.anchor.whitening`); the weights w_i sum to 1 over all features
(arXiv:2606.27941 has them equal). pull is lambda (as there), or lambda times the batch's
reconstruction where lambda is relative: the gradient is then that of
log(reconstruction) - lambda * sum_i ..., but for a factor that
Adam takes no notice of.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.activations import activation_of
from vasae_jax.anchor import AnchorState, alignment_and_grad
from vasae_jax.anchor.layer_anchors import AnchorTokens
from vasae_jax.anchor.loss import NearestDetectors, whitened_alignment_and_grad
from vasae_jax.anchor.whitening import WhitenedAnchors
from vasae_jax.config import Config
from vasae_jax.distributed.mesh import DATA, MODEL
from vasae_jax.sae import ForwardConfig, Params, forward
from vasae_jax.sae.collectives import local_rows, sum_parts
from vasae_jax.sae.config import Execution
from vasae_jax.training.hparams import (
    Given,
    Number,
    keeps_unit,
    knobs_of,
    pulled,
    pulled_name,
    pulls_unit,
)


class Batch(NamedTuple):
    """One batch on the device."""

    x: jax.Array
    """[B, d], the rows, bfloat16 or float32."""
    keep: jax.Array
    """[B] bool, False for rows that are masked."""


class Context(NamedTuple):
    """Arrays that a run's steps only read."""

    anchors: jax.Array
    """[V, d] float32 unit rows ([1, d] where the method has no anchor)."""
    mean: jax.Array
    """[d] float32 mean of the training rows."""
    variance: jax.Array
    """[] float32, mean of |x - mean|^2 over the training rows."""
    whitened: WhitenedAnchors | None = None
    """The anchors in the measure that pulled rows are compared to them by; None: as they are."""
    given: Given | None = None
    """Knobs in place of the config's, where runs of a pack differ in them."""
    tokens: AnchorTokens | None = None
    """What each anchor is of, where a board is to show what names hold; no step reads it."""


class Measures(NamedTuple):
    """Of one step, over the rows of all devices; equal on every device but for ``fired``."""

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


def loss_and_grads(
    params: Params,
    batch: Batch,
    context: Context,
    nearest: AnchorState | None,
    rate: jax.Array,
    config: Config,
    execution: Execution,
) -> tuple[Measures, Params]:
    """The loss and its gradient in this device's part of the parameters; inside shard_map.

    Args:
        params: this device's features. batch: its rows. context: of the run.
        nearest: of this part's features, None where all are searched or none pulls.
        rate: [F part], recent firing rates.
        config: of the run. execution: how the active features are multiplied.
    """
    kept = jnp.maximum(jax.lax.psum(batch.keep.astype(jnp.float32).sum(), DATA), 1.0)
    unit = context.variance if config.optim.loss == "variance" else jnp.float32(batch.x.shape[1])
    grad = jax.value_and_grad(_reconstruction, has_aux=True)
    (_, (error, extra, spread, fired)), grads = grad(
        params, batch, context, kept, unit, config, execution
    )
    error, extra, spread, fired = jax.lax.psum((error, extra, spread, fired), DATA)
    if jax.lax.axis_size(DATA) > 1:  # over one device the sum would still be a copy
        grads = jax.lax.psum(grads, DATA)
    aligned = jnp.zeros((), jnp.float32)
    knobs = knobs_of(config, context.given)
    weight = knobs.weight * (error if config.anchor.relative else jnp.ones_like(error))
    if config.sae.method == "soft":
        # Every device along data holds the same features: this comes after their sum.
        share = _share(rate, knobs.sqrt_rate)
        aligned, pull = _pull(pulled(params, config), context, nearest, share, config)
        aligned = jax.lax.psum(aligned, MODEL)
        name = pulled_name(config)
        grads[name] = grads[name] - weight * pull
    loss = error - weight * aligned
    loss = loss if extra is None else loss + extra
    return Measures(loss, aligned, error * kept * unit, spread, kept, fired), grads


def _pull(
    rows: jax.Array,
    context: Context,
    nearest: AnchorState | None,
    share: jax.Array,
    config: Config,
) -> tuple[jax.Array, jax.Array]:
    """The sum of capped cosines of ``rows`` [F part, d] by ``share`` [F part], and its gradient."""
    target_cosine = knobs_of(config, context.given).target_cosine
    if nearest is not None and context.whitened is not None:
        own = NearestDetectors(nearest.anchor_rows, nearest.anchor_near)
        return whitened_alignment_and_grad(
            rows, share, own, context.whitened, target_cosine=target_cosine
        )
    return alignment_and_grad(
        rows,
        share,
        context.anchors,
        None if nearest is None else nearest.anchor_rows,
        config.anchor.mode,
        target_cosine=target_cosine,
        unit=pulls_unit(config),
    )


def _reconstruction(
    params: Params,
    batch: Batch,
    context: Context,
    kept: jax.Array,
    unit: jax.Array,
    config: Config,
    execution: Execution,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]]:
    """This device's rows' part of the loss without its pull, and of what it consists.

    That is the reconstruction loss, the activation's own term (None: it has none), the rows'
    spread, and kept rows on which each feature fired.
    """
    x = batch.x.astype(jnp.float32)
    keep = batch.keep.astype(jnp.float32)
    split = execution == "dense" and x.shape[0] % jax.lax.axis_size(MODEL) == 0
    given = context.given or {}
    cfg = _forward_config(config, execution, given, split_rows=split)
    out = forward(params, x, cfg, keep, k=given.get("k"), pre_bias=given.get("pre_bias"))
    extra = None if out.extra_loss is None else jnp.sum(out.extra_loss * keep) / kept
    if split:
        x, keep = local_rows(x, MODEL), local_rows(keep, MODEL)
    error = jnp.sum(jnp.sum(jnp.square(out.x_hat - x), axis=1) * keep)
    spread = jnp.sum(jnp.sum(jnp.square(x - context.mean[None, :]), axis=1) * keep)
    if split:
        error, spread = sum_parts(error, MODEL), sum_parts(spread, MODEL)
    error = error * (1.0 / (kept * unit))
    total = error if extra is None else error + extra
    return total, (error, extra, spread, out.fired)


def _forward_config(
    config: Config, execution: Execution, given: Given, *, split_rows: bool
) -> ForwardConfig:
    """The static settings of the run's forward pass; of a pack, ``sae.k`` is the largest k."""
    return ForwardConfig(
        activation=activation_of(config.sae),
        pre_bias=0.0 if "pre_bias" in given else config.sae.pre_bias,
        execution=execution,
        compute_dtype=config.sae.compute_dtype,
        screen=config.sae.screen == "on",
        unit=keeps_unit(config),
        axis=MODEL,
        rows_axis=DATA,
        split_rows=split_rows,
    )


def _share(rate: jax.Array, sqrt_rate: Number) -> jax.Array:
    """w_i [F part], the weight of each feature in the anchor loss; they sum to 1 over all."""
    weight = jnp.where(sqrt_rate, jnp.sqrt(rate), jnp.ones_like(rate))
    total: jax.Array = jax.lax.psum(weight.sum(), MODEL)
    return weight / total
