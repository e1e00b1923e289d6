"""Sparse execution of TopK: only the encoder product touches every feature.

Of F features k fire on a row, so decoding, its gradient and the encoder's weight gradient
need k rows each of W: gathers and scatters, k*B*D products instead of F*B*D. The loops
run over the K columns of active features, so no [B, K, D] array is ever held.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vasae_jax.sae import screen
from vasae_jax.sae.config import ForwardConfig
from vasae_jax.sae.topk import Active, by_tiles, global_topk, preactivations, top_k

EncodeSaved = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]
"""For the gradient: x [B, D], shift [D], W_enc [F, D], values and ids [B, K]."""
DecodeSaved = tuple[jax.Array, jax.Array, jax.Array]
"""For the gradient: values and ids [B, K], W_dec [F, D]."""


def _screens(cfg: ForwardConfig, features: int) -> bool:
    """Whether a pass over so many features finds those that fire through a bfloat16 product."""
    in_float32 = cfg.execution == "sparse" and cfg.dtype == jnp.float32
    return cfg.screen and in_float32 and features >= 2 * cfg.max_k


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def encode(
    x_BD: jax.Array,
    shift_D: jax.Array,
    W_enc_FD: jax.Array,
    b_enc_F: jax.Array,
    k: jax.Array | None,
    cfg: ForwardConfig,
) -> Active:
    """The active features of ``x - shift``, K = ``cfg.max_k``; gradients reach the winners only.

    With a ``k``, [] int32, only the k largest of a row fire.
    """
    features, max_k = W_enc_FD.shape[0], cfg.max_k

    def largest(x_BD: jax.Array) -> tuple[jax.Array, jax.Array]:
        if _screens(cfg, features):
            return screen.product_top_k(x_BD - shift_D[None, :], W_enc_FD, b_enc_F, max_k, k)
        pre_BF = preactivations(x_BD, shift_D, W_enc_FD, b_enc_F, cfg.dtype)
        return top_k(jax.nn.relu(pre_BF), min(max_k, features))

    return global_topk(*by_tiles(largest, x_BD), features, max_k, cfg.axis, k)


def _encode_fwd(*args: Any) -> tuple[Active, EncodeSaved]:
    x_BD, shift_D, W_enc_FD, *_ = args
    active = encode(*args)
    return active, (x_BD, shift_D, W_enc_FD, active.values, active.ids)


def _encode_bwd(cfg: ForwardConfig, saved: EncodeSaved, g: Active) -> tuple[jax.Array | None, ...]:
    x_BD, shift_D, W_enc_FD, values, ids = saved
    d_pre = jnp.where(values > 0, g.values, jnp.zeros_like(g.values))
    d_b = jnp.zeros(W_enc_FD.shape[0], jnp.float32).at[ids].add(d_pre)
    # Two sums that start at the same constant would share it, and then each needs a copy; -0
    # is the other number that adding to changes nothing.
    d_W = scatter_rows(d_pre, ids, x_BD - shift_D[None, :], W_enc_FD.shape[0], zero=-0.0)
    return weighted_rows(d_pre, ids, W_enc_FD), -(d_b @ W_enc_FD), d_W, d_b, None


encode.defvjp(_encode_fwd, _encode_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def decode(
    values_BK: jax.Array, ids_BK: jax.Array, W_dec_FD: jax.Array, unit: bool = False
) -> jax.Array:
    """sum_j values[b, j] * W_dec[ids[b, j]], [B, D]: this device's part of x_hat.

    With ``unit`` the rows of W_dec have norm 1 and keep it: their gradient is only the part
    that turns them.
    """
    return weighted_rows(values_BK, ids_BK, W_dec_FD)


def _decode_bwd(unit: bool, saved: DecodeSaved, g_BD: jax.Array) -> tuple[jax.Array | None, ...]:
    values_BK, ids_BK, W_dec_FD = saved
    d_values = row_products(g_BD, ids_BK, W_dec_FD)
    d_W = scatter_rows(values_BK, ids_BK, g_BD, W_dec_FD.shape[0], zero=0.0)
    if unit:  # <d_W[i], W_dec[i]> out of numbers that are there, without reading either
        radial = jnp.zeros(W_dec_FD.shape[0], jnp.float32).at[ids_BK].add(values_BK * d_values)
        d_W = d_W - radial[:, None] * W_dec_FD
    return d_values, None, d_W


decode.defvjp(lambda *args: (decode(*args), args[:3]), _decode_bwd)


def weighted_rows(values_BK: jax.Array, ids_BK: jax.Array, W_FD: jax.Array) -> jax.Array:
    """sum_j values[b, j] * W[ids[b, j]], [B, D]."""

    def add(total: jax.Array, column: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        value_B, row_B = column
        return total + value_B[:, None] * W_FD[row_B], None

    start = jnp.zeros((values_BK.shape[0], W_FD.shape[1]), W_FD.dtype)
    return jax.lax.scan(add, start, (values_BK.T, ids_BK.T))[0]


def row_products(g_BD: jax.Array, ids_BK: jax.Array, W_FD: jax.Array) -> jax.Array:
    """<g[b], W[ids[b, j]]>, [B, K]."""
    products: jax.Array = jax.lax.map(lambda row_B: jnp.sum(g_BD * W_FD[row_B], axis=1), ids_BK.T)
    return products.T


def scatter_rows(
    values_BK: jax.Array, ids_BK: jax.Array, x_BD: jax.Array, features: int, *, zero: float
) -> jax.Array:
    """sum over b, j of values[b, j] * x[b] into row ids[b, j], from ``zero`` on: [F, D]."""

    def add(total: jax.Array, column: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        value_B, row_B = column
        return total.at[row_B].add(value_B[:, None] * x_BD), None

    start = jnp.full((features, x_BD.shape[1]), zero, x_BD.dtype)
    return jax.lax.scan(add, start, (values_BK.T, ids_BK.T))[0]
