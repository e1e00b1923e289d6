"""Dense execution: every product in full, for matrix units that outrun gathers (TPU)."""

from typing import Any

import jax
import jax.numpy as jnp

from vasae_jax.sae.active import Active, preactivations, select


def reconstruct(
    x: jax.Array,
    shift: jax.Array,
    W_enc: jax.Array,
    b_enc: jax.Array,
    W_dec: jax.Array,
    k: int,
    compute: Any,
    axis: str | None,
) -> tuple[jax.Array, Active]:
    """This device's part of z W_dec, [B, d], and the active features of ``x - shift``.

    z keeps the k winners of each row by a comparison with the row's smallest winner, so
    nothing is scattered; the gradient follows by differentiation.
    """
    pre = preactivations(x, shift, W_enc, b_enc, compute)
    active = jax.lax.stop_gradient(select(jax.lax.stop_gradient(pre), k, axis))
    ids = jnp.arange(pre.shape[1], dtype=jnp.int32)
    if axis is not None:
        ids = ids + jax.lax.axis_index(axis) * pre.shape[1]
    cut, last = active.cut[:, None], active.last[:, None]
    won = (pre > cut) | ((pre == cut) & (ids[None, :] <= last))
    z = jnp.where(won, pre, jnp.zeros_like(pre))
    product = jax.lax.dot_general(
        z.astype(compute),
        W_dec.astype(compute),
        (((1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return product, active
