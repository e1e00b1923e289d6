"""Dense execution: every product in full, for matrix units that outrun gathers (TPU).

Arrays over features and rows are feature-major, [F, B]. What is cheap is left for the compiler
to draw into the products: converting their inputs to ``compute``, masking the losers, and
what the caller does with the gradients (Adam). The products take no longer for it where the
compiler may hold large enough tiles on the chip (see :mod:`vasae_jax.devices.compiler`), and
no copy of a matrix, no z and no gradient is ever written. Of the arrays [F, B] two are:
the activations before the selection, float32, and the gradient behind it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import optimization_barrier as barrier

from vasae_jax.sae.execution import Pass
from vasae_jax.sae.params import row_dots
from vasae_jax.sae.threshold import candidates, kth_largest, last_of_ties

LANES = 128
"""Columns of the narrowest product that a matrix unit takes."""


class Bar(NamedTuple):
    """What a feature must reach to be among the k winners of a row, [B] each."""

    cut: jax.Array
    """float32, the smallest winner."""
    last: jax.Array
    """int32, the largest global id that wins with just that."""


class Weights(NamedTuple):
    """This device's part of the parameters, but for b_dec."""

    W_enc: jax.Array
    """[F, d]"""
    b_enc: jax.Array
    """[F]"""
    W_dec: jax.Array
    """[F, d]"""


Saved = tuple[jax.Array, jax.Array, Bar, jax.Array, jax.Array]
"""For the gradient: centred rows [B, d], activations [F, B], the bar, W_enc, W_dec [F, d]."""
Gradients = tuple[jax.Array, jax.Array, Weights, None, None]


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def reconstruct(
    x: jax.Array,
    shift: jax.Array,
    weights: Weights,
    keep: jax.Array,
    limit: jax.Array | None,
    how: Pass,
) -> tuple[jax.Array, jax.Array]:
    """This device's part of z W_dec, [B, d], and the kept rows on which each feature fires.

    z keeps the k winners of each row of relu((x - shift) W_enc^T + b_enc), ties to the lowest
    id. ``keep`` [B] float32, 0 or 1, are the rows that count in the second, [F]. A ``limit``,
    [] int32, takes the place of k, which is then the largest that it may be.
    """
    found, _ = _fwd(x, shift, weights, keep, limit, how)
    return found


def _fwd(
    x: jax.Array,
    shift: jax.Array,
    weights: Weights,
    keep: jax.Array,
    limit: jax.Array | None,
    how: Pass,
) -> tuple[tuple[jax.Array, jax.Array], Saved]:
    compute, axis = how.dtype, how.axis
    W_enc, b_enc, W_dec = weights
    centred = (x - shift[None, :]).astype(compute)
    product = _product(W_enc.astype(compute), centred, over=(1, 1))
    pre = barrier(jax.nn.relu(product + b_enc[:, None]))
    bar = find_bar(pre, how.k, axis, how.rows_axis, limit)
    fires = fired(pre, bar, axis)
    part = _product(_active(pre, fires, compute), W_dec.astype(compute), over=(0, 0))
    times = _row_sums(fires.astype(compute), keep.astype(compute))
    return (part, times), (centred, pre, bar, W_enc, W_dec)


def _bwd(how: Pass, saved: Saved, g: tuple[jax.Array, jax.Array]) -> Gradients:
    compute = how.dtype
    centred, pre, bar, W_enc, W_dec = saved
    out = g[0].astype(compute)
    fires = fired(pre, bar, how.axis)
    d_z = _product(W_dec.astype(compute), out, over=(1, 1))
    d_pre = barrier(_active(d_z, fires, compute))
    d_b = _row_sums(d_pre, jnp.ones(d_pre.shape[1:], compute))
    d_enc = _product(d_pre, centred, over=(1, 0))
    d_dec = _product(_active(pre, fires, compute), out, over=(1, 0))
    if how.unit:
        d_dec = d_dec - row_dots(d_dec, W_dec)[:, None] * W_dec
    # Nobody asks for that of x in training, and then it is not computed; shift moves all rows
    # alike, so its own needs no product over them.
    d_x = _product(d_pre, W_enc.astype(compute), over=(0, 0))
    return d_x, -(d_b @ W_enc), Weights(d_enc, d_b, d_dec), None, None


reconstruct.defvjp(_fwd, _bwd)


def find_bar(
    pre: jax.Array,
    k: int,
    axis: str | None,
    rows_axis: str | None,
    limit: jax.Array | None = None,
) -> Bar:
    """What wins in each row of ``pre`` [F, B] >= 0, this device's part of the features.

    The cut is taken from the largest few of each group of features. It is right unless the
    last of some group, or a tie, reaches it too, which is seen; then all features are looked at.
    With a ``limit`` that many win, at most k.
    """
    winners = k if limit is None else limit
    best = barrier(candidates(pre, k, axis))
    cut = kth_largest(best, winners, axis)
    reach = sum(jnp.sum((part >= cut[None, :]).astype(jnp.int32), axis=0) for part in best)
    reach = reach if axis is None else jax.lax.psum(reach, axis)
    doubtful = (cut > 0) & ((reach > winners) | jnp.any(best[-1] >= cut[None, :], axis=0))
    again = jnp.any(doubtful | ((cut == 0) & jnp.any(best[-1] > 0, axis=0)))
    for name in (axis, rows_axis):
        again = again if name is None else jax.lax.pmax(again.astype(jnp.int32), name) > 0
    all_ties = jnp.full(cut.shape, jnp.iinfo(jnp.int32).max)
    bar: Bar = jax.lax.cond(
        again, lambda: _looked_through(pre, winners, axis), lambda: Bar(cut, all_ties)
    )
    return bar


def fired(pre: jax.Array, bar: Bar, axis: str | None) -> jax.Array:
    """[F, B] bool, where ``pre`` [F, B] is above 0 and reaches the bar."""
    first = 0 if axis is None else jax.lax.axis_index(axis) * pre.shape[0]
    ids = (jnp.arange(pre.shape[0], dtype=jnp.int32) + first)[:, None]
    cut, last = bar.cut[None, :], bar.last[None, :]
    return (pre > 0) & ((pre > cut) | ((pre == cut) & (ids <= last)))


def _looked_through(pre: jax.Array, k: int | jax.Array, axis: str | None) -> Bar:
    cut = kth_largest([pre], k, axis)
    return Bar(cut, last_of_ties(pre, cut, k, axis))


def _active(values: jax.Array, fires: jax.Array, compute: np.dtype) -> jax.Array:
    return jnp.where(fires, values, jnp.zeros_like(values)).astype(compute)


def _row_sums(a: jax.Array, weights: jax.Array) -> jax.Array:
    """a [F, B] times ``weights`` [B], [F] float32.

    As a product with that column repeated: a third of the time that the vector unit takes to
    add up rows.
    """
    columns = jnp.broadcast_to(weights[:, None], (weights.shape[0], LANES))
    return _product(a, columns, over=(1, 0))[:, 0]


def _product(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """a and b multiplied and summed over one axis of each, in float32."""
    dims = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
