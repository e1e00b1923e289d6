"""The training loss of one batch, for this device's part of rows and features.

    loss = reconstruction - lambda * sum_i w_i s_i

reconstruction is sum |x - x_hat|^2 over kept rows, divided by (kept rows * variance) or by
(kept rows * d) for the published mean squared error. s_i is the cosine of W_dec[i] with its
nearest anchor; the weights w_i sum to 1 over all features (arXiv:2606.27941 has them equal).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.anchor import nearest_cosine, soft_cosine
from vasae_jax.config import Config
from vasae_jax.mesh import DATA, MODEL
from vasae_jax.sae import Params, forward
from vasae_jax.sae.active import Active
from vasae_jax.sae.collective import sum_parts
from vasae_jax.sae.forward import Execution


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


class Measures(NamedTuple):
    """Sums over this device's rows, and the features that fired."""

    squared_error: jax.Array
    """[] sum of |x - x_hat|^2 over kept rows."""
    squared_spread: jax.Array
    """[] sum of |x - mean|^2 over kept rows."""
    fired: jax.Array
    """[F part] float32, kept rows of this device's on which each feature fired."""
    reconstruction: jax.Array
    """[] this device's rows' share of the reconstruction loss."""
    alignment: jax.Array
    """[] sum_i w_i s_i over all features (0 without an anchor)."""


def batch_loss(
    params: Params,
    batch: Batch,
    context: Context,
    near: jax.Array | None,
    rate: jax.Array,
    config: Config,
    execution: Execution,
) -> tuple[jax.Array, Measures]:
    """Loss of this device's rows (their shares add up over ``data``), and measures.

    Runs inside shard_map. ``near`` [F part] are cached nearest anchors; ``rate`` [F part]
    recent firing rates.
    """
    x = batch.x.astype(jnp.float32)
    keep = batch.keep.astype(jnp.float32)
    out = forward(
        params, x, config.sae.k, config.sae.pre_bias, execution, config.sae.compute, MODEL
    )
    squared_error = jnp.sum(jnp.sum(jnp.square(out.x_hat - x), axis=1) * keep)
    rows = jnp.maximum(jax.lax.psum(keep.sum(), DATA), 1.0)
    unit = context.variance if config.optim.loss == "variance" else jnp.float32(x.shape[1])
    reconstruction = squared_error / (rows * unit)
    alignment = _alignment(params["W_dec"], context.anchors, near, rate, config)
    # Every device along data computes the same alignment; each contributes its share.
    loss = reconstruction - config.anchor.weight * alignment / jax.lax.axis_size(DATA)
    spread = jnp.sum(jnp.sum(jnp.square(x - context.mean[None, :]), axis=1) * keep)
    fired = _fired(out.active, keep, params["W_dec"].shape[0])
    return loss, Measures(squared_error, spread, fired, reconstruction, alignment)


def _alignment(
    W_dec: jax.Array,
    anchors: jax.Array,
    near: jax.Array | None,
    rate: jax.Array,
    config: Config,
) -> jax.Array:
    """sum_i w_i s_i over the features of all devices."""
    if config.sae.method != "soft":
        return jnp.zeros((), jnp.float32)
    if near is None:
        cosines = soft_cosine(W_dec, anchors, config.anchor.mode)
    else:
        cosines = nearest_cosine(W_dec, anchors, near)
    weight = jnp.sqrt(rate) if config.anchor.per_feature == "root_rate" else jnp.ones_like(rate)
    total = jax.lax.stop_gradient(jax.lax.psum(weight.sum(), MODEL))
    return sum_parts(jnp.sum(weight * cosines) / total, MODEL)


def _fired(active: Active, keep: jax.Array, features: int) -> jax.Array:
    """Kept rows on which each of this device's features fired, [features] float32."""
    fires = (active.values > 0).astype(jnp.float32) * keep[:, None]
    return jnp.zeros((features,), jnp.float32).at[active.ids].add(fires)
