"""Dense execution: every product in full, for matrix units that outrun gathers (TPU).

Arrays over features and rows are feature-major, [F, B]. What is cheap is left for the compiler
to draw into the products: converting their inputs to ``compute``, masking the losers, and
what the caller does with the gradients (Adam). The products take no longer for it where the
compiler may hold large enough tiles on the chip (see :mod:`vasae_jax.distributed.mesh`), and
no copy of a matrix, no z and no gradient is ever written. Of the arrays [F, B] two are:
the activations before the selection, float32, and the gradient behind it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import optimization_barrier as barrier

from vasae_jax.sae.config import ForwardConfig
from vasae_jax.sae.params import row_dots

# The k-th largest of each row by comparing and counting, where gathers and sorts are slow.
#
# Everything here takes ``pre`` feature-major, [F, B] >= 0: sums over features then run over
# the leading axis, which a TPU's vector unit does without moving numbers between lanes.


OFFERS = 4
"""Largest numbers that each group of features offers."""
GROUPS = 32
"""Groups over all devices, for each of the k winners. In random data a row has a fifth winner in
some group with a chance of k/120 * (1/32)**4: one batch of 8192 rows in 500 where k is 32."""
BITS = 4
"""Bits settled in a round of :func:`kth_largest`: 8 rounds, each of one sum over devices."""


def candidates(pre: jax.Array, k: int, axis: str | None) -> list[jax.Array]:
    """The largest, second, .. of each group of this device's features: OFFERS of [groups, B].

    All groups are read in one pass, each number merged into its group's best so far.
    """
    features, rows = pre.shape
    groups = _groups(features, k, axis)
    whole = features - features % groups
    head = pre[:whole].reshape(-1, groups, rows)
    best = _merged([head] + [jnp.zeros_like(head)] * (OFFERS - 1))
    if whole < features:
        tail = jnp.pad(pre[whole:], ((0, groups - features + whole), (0, 0)))
        best = _merge(best, [tail] + [jnp.zeros_like(tail)] * (OFFERS - 1))
    return best


def _groups(features: int, k: int, axis: str | None) -> int:
    """Groups of this device: its share of GROUPS * k, in eights (a register's rows)."""
    devices = 1 if axis is None else jax.lax.axis_size(axis)
    return min(features, 8 * -(-GROUPS * k // (8 * devices)))


def _merged(sorted_parts: list[jax.Array]) -> list[jax.Array]:
    """Each of ``sorted_parts`` [n, groups, B] merged over n."""
    none = [jnp.zeros((), part.dtype) for part in sorted_parts]
    return list(
        jax.lax.reduce(
            tuple(sorted_parts), tuple(none), lambda a, b: tuple(_merge(list(a), list(b))), (0,)
        )
    )


def _merge(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
    """The largest of two lists, each largest first, as such a list of the same length."""
    count = len(a)
    # The larger of a_i and b_(n-1-i) are the n largest of both, out of order.
    best = [jnp.maximum(a[i], b[count - 1 - i]) for i in range(count)]
    for turn in range(count):  # put in order by swapping neighbours
        for i in range(turn % 2, count - 1, 2):
            best[i], best[i + 1] = (
                jnp.maximum(best[i], best[i + 1]),
                jnp.minimum(best[i], best[i + 1]),
            )
    return best


def kth_largest(parts: list[jax.Array], k: int | jax.Array, axis: str | None) -> jax.Array:
    """The k-th largest [B] of the numbers >= 0 in ``parts`` (each [n, B]) of all devices.

    Floats >= 0 are ordered as their bits are, so BITS bits a round settle it. Where there are
    fewer than k numbers above 0 it is 0.
    """
    bits = [jax.lax.bitcast_convert_type(part, jnp.int32) for part in parts]

    def settle(place: jax.Array, found: jax.Array) -> jax.Array:
        shift = 32 - BITS * (place + 1)
        tries = [found + (step << shift) for step in range(1, 1 << BITS)]
        counts = [sum(_count(part >= least[None, :]) for part in bits) for least in tries]
        # In the first round some tries overflow to below 0; no float has such bits.
        reached = (_sum(jnp.stack(counts), axis) >= k) & (jnp.stack(tries) >= 0)
        return found + (jnp.sum(reached.astype(jnp.int32), axis=0) << shift)

    start = jnp.zeros(parts[0].shape[1:], jnp.int32)
    found = jax.lax.fori_loop(0, 32 // BITS, settle, start)
    return jax.lax.bitcast_convert_type(found, jnp.float32)


def last_of_ties(pre: jax.Array, cut: jax.Array, k: int | jax.Array, axis: str | None) -> jax.Array:
    """The largest global id [B] that still wins among the features equal to ``cut``."""
    first = 0 if axis is None else jax.lax.axis_index(axis) * pre.shape[0]
    ids = (jnp.arange(pre.shape[0], dtype=jnp.int32) + first)[:, None]
    tied = pre == cut[None, :]
    places = k - _sum(_count(pre > cut[None, :]), axis)
    bits = 31

    def settle(place: jax.Array, below: jax.Array) -> jax.Array:
        tried = below + (1 << (bits - 1 - place))
        inside = _sum(_count(tied & (ids < tried[None, :])), axis)
        return jnp.where(inside < places, tried, below)

    last: jax.Array = jax.lax.fori_loop(0, bits, settle, jnp.zeros(cut.shape, jnp.int32))
    return last


def _count(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask.astype(jnp.int32), axis=0)


def _sum(counts: jax.Array, axis: str | None) -> jax.Array:
    return counts if axis is None else jax.lax.psum(counts, axis)


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
    how: ForwardConfig,
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
    how: ForwardConfig,
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


def _bwd(how: ForwardConfig, saved: Saved, g: tuple[jax.Array, jax.Array]) -> Gradients:
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
