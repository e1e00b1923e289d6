"""Dense execution: every product in full, for matrix units that outrun gathers (TPU).

Arrays over features and rows are feature-major, [F, B]. Barriers keep what is cheap from
being drawn into the products: a product whose inputs are converted or masked on the way in,
or that ends in Adam's three outputs, takes two to six times its own time.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vasae_jax.sae.params import row_dots
from vasae_jax.sae.threshold import candidates, kth_largest, last_of_ties

barrier = jax.lax.optimization_barrier


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8, 9, 10))
def reconstruct(
    x: jax.Array,
    shift: jax.Array,
    W_enc: jax.Array,
    b_enc: jax.Array,
    W_dec: jax.Array,
    keep: jax.Array,
    k: int,
    compute: Any,
    axis: str | None,
    rows_axis: str | None,
    unit: bool,
) -> tuple[jax.Array, jax.Array]:
    """This device's part of z W_dec, [B, d], and the kept rows on which each feature fires.

    z keeps the k winners of each row of relu((x - shift) W_enc^T + b_enc), ties to the lowest
    id. ``keep`` [B] float32 are the rows' weights in the second, [F]. Devices along
    ``rows_axis`` hold other rows and take part in the same decisions. With ``unit`` the rows of
    W_dec have norm 1 and keep it: their gradient is only the part that turns them.
    """
    return _fwd(x, shift, W_enc, b_enc, W_dec, keep, k, compute, axis, rows_axis, unit)[0]


def _fwd(
    x: jax.Array,
    shift: jax.Array,
    W_enc: jax.Array,
    b_enc: jax.Array,
    W_dec: jax.Array,
    keep: jax.Array,
    k: int,
    compute: Any,
    axis: str | None,
    rows_axis: str | None,
    unit: bool,
) -> tuple[Any, Any]:
    inputs = (x - shift[None, :], W_enc, W_dec)
    centred, encoder, decoder = barrier(tuple(a.astype(compute) for a in inputs))
    pre = barrier(jax.nn.relu(_product(encoder, centred, 1, 1) + b_enc[:, None]))
    z = barrier(_winners(pre, k, compute, axis, rows_axis))
    fired = jnp.sum(jnp.where(z > 0, keep[None, :], jnp.zeros_like(keep)[None, :]), axis=1)
    return (_product(z, decoder, 0, 0), fired), (centred, z, W_enc, decoder, W_dec)


def _bwd(
    k: int,
    compute: Any,
    axis: str | None,
    rows_axis: str | None,
    unit: bool,
    saved: Any,
    g: Any,
) -> tuple[Any, ...]:
    centred, z, W_enc, decoder, W_dec = saved
    out = barrier(g[0].astype(compute))
    d_z = _product(decoder, out, 1, 1)
    d_pre = barrier(jnp.where(z > 0, d_z, jnp.zeros_like(d_z)).astype(compute))
    d_b = jnp.sum(d_pre.astype(jnp.float32), axis=1)
    d_enc, d_dec = barrier((_product(d_pre, centred, 1, 0), _product(z, out, 1, 0)))
    if unit:
        d_dec = d_dec - row_dots(d_dec, W_dec)[:, None] * W_dec
    # Nobody asks for that of x in training, and then it is not computed; shift moves all rows
    # alike, so its own needs no product over them.
    d_x = _product(d_pre, W_enc.astype(compute), 0, 0)
    return d_x, -(d_b @ W_enc), d_enc, d_b, d_dec, None


reconstruct.defvjp(_fwd, _bwd)


def _winners(
    pre: jax.Array, k: int, compute: Any, axis: str | None, rows_axis: str | None
) -> jax.Array:
    """``pre`` [F, B] where it is among its row's k largest, else 0, as ``compute``.

    The cut is taken from the three largest of each group of features. It is right unless a
    fourth of some group, or a tie, reaches it too, which is seen; then all features are
    looked at. In random data that is one batch in some hundred.
    """
    best = barrier(candidates(pre))
    cut = kth_largest(best, k, axis)
    reach = sum(jnp.sum((part >= cut[None, :]).astype(jnp.int32), axis=0) for part in best)
    reach = reach if axis is None else jax.lax.psum(reach, axis)
    doubtful = (cut > 0) & ((reach > k) | jnp.any(best[-1] >= cut[None, :], axis=0))
    again = jnp.any(doubtful | ((cut == 0) & jnp.any(best[-1] > 0, axis=0)))
    for name in (axis, rows_axis):
        again = again if name is None else jax.lax.pmax(again.astype(jnp.int32), name) > 0
    cheap = jnp.where(pre >= cut[None, :], pre, jnp.zeros_like(pre)).astype(compute)
    return jax.lax.cond(again, lambda _: _looked_through(pre, k, axis, compute), lambda z: z, cheap)


def _looked_through(pre: jax.Array, k: int, axis: str | None, compute: Any) -> jax.Array:
    cut = kth_largest([pre], k, axis)
    last = last_of_ties(pre, cut, k, axis)
    first = 0 if axis is None else jax.lax.axis_index(axis) * pre.shape[0]
    ids = (jnp.arange(pre.shape[0], dtype=jnp.int32) + first)[:, None]
    won = (pre > cut[None, :]) | ((pre == cut[None, :]) & (ids <= last[None, :]))
    return jnp.where(won, pre, jnp.zeros_like(pre)).astype(compute)


def _product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """a and b multiplied and summed over one axis of each, in float32."""
    dims = (((a_axis,), (b_axis,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
