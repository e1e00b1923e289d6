"""Sparse execution: only the encoder product touches every feature.

Of F features k fire on a row, so decoding, its gradient and the encoder's weight gradient
need k rows each of W: gathers and scatters, k*B*d products instead of F*B*d. The loops
run over the k active slots, so no [B, k, d] array is ever held.
"""

from functools import partial

import jax
import jax.numpy as jnp

from vasae_jax.sae import screen
from vasae_jax.sae.config import ForwardConfig
from vasae_jax.sae.topk import Active, by_tiles, global_topk, preactivations, top_k

EncodeSaved = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]
"""For the gradient: x [B, d], shift [d], W_enc [F, d], values and ids [B, k]."""
DecodeSaved = tuple[jax.Array, jax.Array, jax.Array]
"""For the gradient: values and ids [B, k], W_dec [F, d]."""


def _screens(how: ForwardConfig, features: int) -> bool:
    """Whether a pass over so many features finds those that fire through a bfloat16 product."""
    single = how.execution == "sparse" and how.dtype == jnp.float32
    return how.screen and single and features >= 2 * how.k


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def encode(
    x: jax.Array,
    shift: jax.Array,
    W_enc: jax.Array,
    b_enc: jax.Array,
    limit: jax.Array | None,
    how: ForwardConfig,
) -> Active:
    """The active features of ``x - shift`` [B, d]; gradients flow through the winners only.

    Where a ``limit`` is given, [] int32, only so many of the ``how.k`` fire.
    """
    features = W_enc.shape[0]

    def best(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        if _screens(how, features):
            return screen.product_top_k(x - shift[None, :], W_enc, b_enc, how.k, limit)
        pre = preactivations(x, shift, W_enc, b_enc, how.dtype)
        return top_k(pre, min(how.k, features))

    return global_topk(*by_tiles(best, x), features, how.k, how.axis, limit)


def _encode_fwd(
    x: jax.Array,
    shift: jax.Array,
    W_enc: jax.Array,
    b_enc: jax.Array,
    limit: jax.Array | None,
    how: ForwardConfig,
) -> tuple[Active, EncodeSaved]:
    active = encode(x, shift, W_enc, b_enc, limit, how)
    return active, (x, shift, W_enc, active.values, active.ids)


def _encode_bwd(how: ForwardConfig, saved: EncodeSaved, g: Active) -> tuple[jax.Array | None, ...]:
    x, shift, W_enc, values, ids = saved
    d_pre = jnp.where(values > 0, g.values, jnp.zeros_like(g.values))
    d_b = jnp.zeros(W_enc.shape[0], jnp.float32).at[ids].add(d_pre)
    # Two sums that start at the same constant would share it, and then each needs a copy; -0
    # is the other number that adding to changes nothing.
    d_W = scatter_rows(d_pre, ids, x - shift[None, :], W_enc.shape[0], zero=-0.0)
    return weighted_rows(d_pre, ids, W_enc), -(d_b @ W_enc), d_W, d_b, None


encode.defvjp(_encode_fwd, _encode_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def decode(values: jax.Array, ids: jax.Array, W_dec: jax.Array, unit: bool = False) -> jax.Array:
    """sum_j values[b, j] * W_dec[ids[b, j]], [B, d]: this device's part of x_hat.

    With ``unit`` the rows of W_dec have norm 1 and keep it: their gradient is only the part
    that turns them.
    """
    return weighted_rows(values, ids, W_dec)


def _decode_fwd(
    values: jax.Array, ids: jax.Array, W_dec: jax.Array, unit: bool
) -> tuple[jax.Array, DecodeSaved]:
    return decode(values, ids, W_dec), (values, ids, W_dec)


def _decode_bwd(unit: bool, saved: DecodeSaved, g: jax.Array) -> tuple[jax.Array | None, ...]:
    values, ids, W_dec = saved
    d_values = row_products(g, ids, W_dec)
    d_W = scatter_rows(values, ids, g, W_dec.shape[0], zero=0.0)
    if unit:  # <d_W[i], W_dec[i]> out of numbers that are there, without reading either
        along = jnp.zeros(W_dec.shape[0], jnp.float32).at[ids].add(values * d_values)
        d_W = d_W - along[:, None] * W_dec
    return d_values, None, d_W


decode.defvjp(_decode_fwd, _decode_bwd)


def weighted_rows(values: jax.Array, ids: jax.Array, W: jax.Array) -> jax.Array:
    """sum_j values[b, j] * W[ids[b, j]]: [B, d] from values, ids [B, k] and W [F, d]."""

    def add(total: jax.Array, slot: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        value, row = slot
        return total + value[:, None] * W[row], None

    start = jnp.zeros((values.shape[0], W.shape[1]), W.dtype)
    return jax.lax.scan(add, start, (values.T, ids.T))[0]


def row_products(g: jax.Array, ids: jax.Array, W: jax.Array) -> jax.Array:
    """<g[b], W[ids[b, j]]>: [B, k] from g [B, d], ids [B, k] and W [F, d]."""
    products: jax.Array = jax.lax.map(lambda row: jnp.sum(g * W[row], axis=1), ids.T)
    return products.T


def scatter_rows(
    values: jax.Array, ids: jax.Array, x: jax.Array, d_sae: int, *, zero: float
) -> jax.Array:
    """sum over b, j of values[b, j] * x[b] into row ids[b, j], from ``zero`` on: [d_sae, d]."""

    def add(total: jax.Array, slot: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        value, row = slot
        return total.at[row].add(value[:, None] * x), None

    start = jnp.full((d_sae, x.shape[1]), zero, x.dtype)
    return jax.lax.scan(add, start, (values.T, ids.T))[0]
