"""x -> x_hat, by either execution, on one device or on this device's part of the features."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.sae import dense, sparse
from vasae_jax.sae.collectives import replicated_input, sum_parts, sum_parts_of_own_rows
from vasae_jax.sae.config import ForwardConfig, Given
from vasae_jax.sae.params import Params
from vasae_jax.sae.topk import Active, by_tiles, preactivations, top_k


class Forward(NamedTuple):
    """What a forward pass gives."""

    x_hat: jax.Array
    """[B, d] float32 reconstruction, whole on every device; or of its own rows alone."""
    fired: jax.Array
    """[F] float32, kept rows on which each feature fires (this device's parts)."""


def forward(
    params: Params,
    x: jax.Array,
    how: ForwardConfig,
    keep: jax.Array | None = None,
    given: Given | None = None,
) -> Forward:
    """Reconstruct rows ``x [B, d]`` float32.

    z = top-k of relu((x - p*b_dec) W_enc^T + b_enc), x_hat = z W_dec + b_dec.

    Differentiable in ``params``. ``keep`` [B] float32, 0 or 1, are the rows that count as fired
    on, all without it. Where ``how`` splits rows, x_hat is [B / n, d], that of this device's
    n-th of the rows (n devices along its axis, a divisor of B). Where k is ``given``, the best
    ``how.k`` are found and those beyond it do not fire: the result is that of the smaller k.
    """
    given = given or Given()
    if how.axis is not None and jax.lax.axis_size(how.axis) == 1:
        # One device has nobody to agree with: no offers, no second sort.
        how = replace(how, axis=None)
    keep = jnp.ones(x.shape[:1], jnp.float32) if keep is None else keep
    b_dec = params["b_dec"]
    part, fired = _part(params, x, _shift(b_dec, how, given), keep, how, given.k)
    if how.split_rows and how.axis is not None:
        own = sum_parts_of_own_rows(part, how.axis, how.dtype)
        return Forward(own + replicated_input(b_dec, how.axis)[None, :], fired)
    return Forward(sum_parts(part, how.axis) + b_dec[None, :], fired)


def _shift(b_dec: jax.Array, how: ForwardConfig, given: Given) -> jax.Array:
    """What is taken from every row before it is encoded, [d]."""
    if given.pre_bias is not None:
        return given.pre_bias * replicated_input(b_dec, how.axis)
    # With a factor of 0 a compiler must still compute what it multiplies: it may be infinite.
    return (
        how.pre_bias * replicated_input(b_dec, how.axis) if how.pre_bias else jnp.zeros_like(b_dec)
    )


def _part(
    params: Params,
    x: jax.Array,
    shift: jax.Array,
    keep: jax.Array,
    how: ForwardConfig,
    limit: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """This device's part of z W_dec [B, d], and the kept rows on which its features fire [F]."""
    weights = dense.Weights(params["W_enc"], params["b_enc"], params["W_dec"])
    W_enc, b_enc, W_dec = weights
    if how.execution == "dense":
        return dense.reconstruct(x, shift, weights, keep, limit, how)
    active = sparse.encode(x, shift, W_enc, b_enc, limit, how)
    part = sparse.decode(active.values, active.ids, W_dec, how.unit)
    return part, _fired(active, keep, W_dec.shape[0])


def _fired(active: Active, keep: jax.Array, features: int) -> jax.Array:
    fires = (active.values > 0).astype(jnp.float32) * keep[:, None]
    return jnp.zeros((features,), jnp.float32).at[active.ids].add(fires)


def encode(
    params: Params, x: jax.Array, k: int, pre_bias: float = 0.0, *, screened: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Active features of rows ``x [B, d]``: values [B, k] float32 >= 0, ids [B, k] int32.

    Largest first, ties by lowest id; a value of 0 means that fewer than k features fire. Without
    thresholds the product may be ``screened`` in bfloat16 (:mod:`vasae_jax.sae.screen`).
    """
    if "threshold" in params:
        return by_tiles(lambda rows: top_k(_passing(params, rows, pre_bias), k), x)
    how = ForwardConfig(k, pre_bias, screen=screened)
    shift = _shift(params["b_dec"], how, Given())
    active = sparse.encode(x, shift, params["W_enc"], params["b_enc"], None, how)
    return active.values, active.ids


def reconstruct(params: Params, x: jax.Array, k: int, pre_bias: float = 0.0) -> jax.Array:
    """x_hat [B, d] float32 of rows ``x [B, d]``.

    Where only thresholds decide what fires, as many features may as there are: then all are
    multiplied, and ``k`` is not looked at.
    """
    if "threshold" not in params:
        return decode(params, *encode(params, x, k, pre_bias))
    z = _passing(params, x, pre_bias)
    return _times(z, params["W_dec"]) + params["b_dec"][None, :]


def _passing(params: Params, x: jax.Array, pre_bias: float) -> jax.Array:
    """Preactivations [B, F] above 0 and above their thresholds, the others 0."""
    shift = pre_bias * params["b_dec"]
    pre = preactivations(x, shift, params["W_enc"], params["b_enc"], jnp.dtype(jnp.float32))
    if "threshold" not in params:
        return pre
    return jnp.where(pre > params["threshold"][None, :], pre, jnp.zeros_like(pre))


def _times(z: jax.Array, W: jax.Array) -> jax.Array:
    product: jax.Array = jnp.matmul(z, W, preferred_element_type=jnp.float32)
    return product


def decode(params: Params, values: jax.Array, ids: jax.Array) -> jax.Array:
    """x_hat [B, d] float32 from active ``values`` and ``ids`` [B, k]."""
    return sparse.weighted_rows(values, ids, params["W_dec"]) + params["b_dec"][None, :]
