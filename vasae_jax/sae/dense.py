"""Dense execution of TopK: every product in full, for matrix units that outrun gathers (TPU).

Arrays over features and rows are feature-major, [F, B]. What is cheap is left for the compiler
to draw into the products: converting their inputs to ``compute_dtype``, masking the losers, and
what the caller does with the gradients (Adam). The products take no longer for it where the
compiler may hold large enough tiles on the chip (see :mod:`vasae_jax.distributed.mesh`), and
no copy of a matrix, no z and no gradient is ever written. Of the arrays [F, B] two are:
the activations before the selection, float32, and the gradient behind it.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import optimization_barrier as barrier

from vasae_jax.sae.config import ForwardConfig
from vasae_jax.sae.params import row_dots
from vasae_jax.sae.topk import product

# The k-th largest of each row, found by comparing and counting: gathers and sorts are slow there.
# Sums over features run over the leading axis of ``pre_FB`` >= 0, which a TPU's vector unit does
# without moving numbers between lanes.


OFFERS = 4
"""Largest numbers that each group of features offers."""
GROUPS = 32
"""Groups over all devices, for each of the k winners. In random data a row has a fifth winner in
some group with a chance of k/120 * (1/32)**4: one batch of 8192 rows in 500 where k is 32."""
BITS = 4
"""Bits found in a round of :func:`kth_largest`: 8 rounds, each of one sum over devices."""


def candidates(pre_FB: jax.Array, k: int, axis: str | None) -> list[jax.Array]:
    """The largest, second, .. of each group of this device's features: OFFERS of [groups, B].

    All groups are read in one pass, each number merged into its group's best so far.
    """
    features, rows = pre_FB.shape
    groups = _groups(features, k, axis)
    even = features - features % groups
    head = pre_FB[:even].reshape(-1, groups, rows)
    best = _merged([head] + [jnp.zeros_like(head)] * (OFFERS - 1))
    if even < features:
        tail = jnp.pad(pre_FB[even:], ((0, groups - features + even), (0, 0)))
        best = _merge(best, [tail] + [jnp.zeros_like(tail)] * (OFFERS - 1))
    return best


def _groups(features: int, k: int, axis: str | None) -> int:
    """Groups of this device: its share of GROUPS * k, in eights (a register's rows)."""
    devices = 1 if axis is None else jax.lax.axis_size(axis)
    return min(features, 8 * -(-GROUPS * k // (8 * devices)))


def _merged(sorted_parts: list[jax.Array]) -> list[jax.Array]:
    """Each of ``sorted_parts`` [n, groups, B] merged over n."""
    none = [jnp.zeros((), part.dtype) for part in sorted_parts]
    merged: list[jax.Array] = jax.lax.reduce(sorted_parts, none, _merge, (0,))
    return merged


def _merge(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
    """The largest of two lists, each largest first, as such a list of the same length."""
    count = len(a)
    # The larger of a_i and b_(n-1-i) are the n largest of both, out of order.
    best = [jnp.maximum(a[i], b[count - 1 - i]) for i in range(count)]
    for turn in range(count):  # put in order by swapping neighbours
        for i in range(turn % 2, count - 1, 2):
            pair = best[i : i + 2]
            best[i : i + 2] = jnp.maximum(*pair), jnp.minimum(*pair)
    return best


def kth_largest(parts: list[jax.Array], k: int | jax.Array, axis: str | None) -> jax.Array:
    """The k-th largest [B] of the numbers >= 0 in ``parts`` (each [n, B]) of all devices.

    Floats >= 0 are ordered as their bits are, so it is found BITS bits a round. Where there are
    fewer than k numbers above 0 it is 0.
    """
    bits = [jax.lax.bitcast_convert_type(part, jnp.int32) for part in parts]

    def next_bits(step: jax.Array, known: jax.Array) -> jax.Array:
        shift = 32 - BITS * (step + 1)
        tries = [known + (value << shift) for value in range(1, 1 << BITS)]
        counts = [sum(_count(part >= least[None, :]) for part in bits) for least in tries]
        # In the first round some tries overflow to below 0; no float has such bits.
        reached = (_sum(jnp.stack(counts), axis) >= k) & (jnp.stack(tries) >= 0)
        return known + (jnp.sum(reached.astype(jnp.int32), axis=0) << shift)

    start = jnp.zeros(parts[0].shape[1:], jnp.int32)
    known = jax.lax.fori_loop(0, 32 // BITS, next_bits, start)
    return jax.lax.bitcast_convert_type(known, jnp.float32)


def last_of_ties(
    pre_FB: jax.Array, cut: jax.Array, k: int | jax.Array, axis: str | None
) -> jax.Array:
    """The largest global id [B] that still wins among the features equal to ``cut``."""
    ids = _global_ids(pre_FB, axis)
    tied = pre_FB == cut[None, :]
    places = k - _sum(_count(pre_FB > cut[None, :]), axis)
    bits = 31

    def next_bit(step: jax.Array, below: jax.Array) -> jax.Array:
        tried = below + (1 << (bits - 1 - step))
        inside = _sum(_count(tied & (ids < tried[None, :])), axis)
        return jnp.where(inside < places, tried, below)

    last: jax.Array = jax.lax.fori_loop(0, bits, next_bit, jnp.zeros(cut.shape, jnp.int32))
    return last


def _global_ids(pre_FB: jax.Array, axis: str | None) -> jax.Array:
    """The id over all devices of each of this device's features, int32 [F, 1]."""
    first = 0 if axis is None else jax.lax.axis_index(axis) * pre_FB.shape[0]
    return (jnp.arange(pre_FB.shape[0], dtype=jnp.int32) + first)[:, None]


def _count(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask.astype(jnp.int32), axis=0)


def _sum(counts: jax.Array, axis: str | None) -> jax.Array:
    return counts if axis is None else jax.lax.psum(counts, axis)


LANES = 128
"""Columns of the narrowest product that a matrix unit takes."""


class Cutoff(NamedTuple):
    """What a feature must reach to be among the k winners of a row, [B] each."""

    value: jax.Array
    """float32, the smallest winner."""
    last_id: jax.Array
    """int32, the largest global id that wins with just that."""


class Weights(NamedTuple):
    """This device's part of the parameters, but for b_dec."""

    W_enc: jax.Array
    """[F, D]"""
    b_enc: jax.Array
    """[F]"""
    W_dec: jax.Array
    """[F, D]"""


Saved = tuple[jax.Array, jax.Array, Cutoff, jax.Array, jax.Array]
"""For the gradient: centred rows [B, D], activations [F, B], the cutoff, W_enc, W_dec [F, D]."""
Gradients = tuple[jax.Array, jax.Array, Weights, None, None]


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def reconstruct(
    x_BD: jax.Array,
    shift_D: jax.Array,
    weights: Weights,
    keep_B: jax.Array,
    k: jax.Array | None,
    cfg: ForwardConfig,
) -> tuple[jax.Array, jax.Array]:
    """This device's part of z W_dec, [B, D], and the kept rows on which each feature fires, [F].

    z keeps the k winners of each row of relu((x - shift) W_enc^T + b_enc), ties to the lowest
    id. ``keep_B`` float32, 0 or 1, are the rows that the second counts. ``k``, [] int32, is at
    most ``cfg.max_k``, and that without it.
    """
    result, _ = _fwd(x_BD, shift_D, weights, keep_B, k, cfg)
    return result


def _fwd(*args: Any) -> tuple[tuple[jax.Array, jax.Array], Saved]:
    """The result of :func:`reconstruct`, and what its gradient needs."""
    x_BD, shift_D, weights, keep_B, k, cfg = args
    compute, axis = cfg.dtype, cfg.axis
    W_enc, b_enc, W_dec = weights
    centred_BD = (x_BD - shift_D[None, :]).astype(compute)
    product_FB = product(W_enc.astype(compute), centred_BD, over=(1, 1))
    pre_FB = barrier(jax.nn.relu(product_FB + b_enc[:, None]))
    cutoff = find_cutoff(pre_FB, cfg.max_k, axis, cfg.rows_axis, k)
    fires_FB = fires(pre_FB, cutoff, axis)
    part_BD = product(_masked(pre_FB, fires_FB, compute), W_dec.astype(compute), over=(0, 0))
    fired_F = _row_sums(fires_FB.astype(compute), keep_B.astype(compute))
    return (part_BD, fired_F), (centred_BD, pre_FB, cutoff, W_enc, W_dec)


def _bwd(cfg: ForwardConfig, saved: Saved, g: tuple[jax.Array, jax.Array]) -> Gradients:
    compute = cfg.dtype
    centred_BD, pre_FB, cutoff, W_enc, W_dec = saved
    g_BD = g[0].astype(compute)
    fires_FB = fires(pre_FB, cutoff, cfg.axis)
    d_z = product(W_dec.astype(compute), g_BD, over=(1, 1))
    d_pre = barrier(_masked(d_z, fires_FB, compute))
    d_b = _row_sums(d_pre, jnp.ones(d_pre.shape[1:], compute))
    d_enc = product(d_pre, centred_BD, over=(1, 0))
    d_dec = product(_masked(pre_FB, fires_FB, compute), g_BD, over=(1, 0))
    if cfg.unit:
        d_dec = d_dec - row_dots(d_dec, W_dec)[:, None] * W_dec
    # Training does not read that of x, and then it is not computed; shift moves all rows
    # alike, so its own needs no product over them.
    d_x = product(d_pre, W_enc.astype(compute), over=(0, 0))
    return d_x, -(d_b @ W_enc), Weights(d_enc, d_b, d_dec), None, None


reconstruct.defvjp(_fwd, _bwd)


def find_cutoff(
    pre_FB: jax.Array,
    max_k: int,
    axis: str | None,
    rows_axis: str | None,
    k: jax.Array | None = None,
) -> Cutoff:
    """What wins in each row of ``pre_FB`` >= 0, this device's part of the features.

    The cutoff is taken from the largest few of each group of features. It is right unless the
    last of some group, or a tie, reaches it too, which is seen; then all features are looked at.
    With a ``k`` that many win, at most ``max_k``.
    """
    winners = max_k if k is None else k
    best = barrier(candidates(pre_FB, max_k, axis))
    cut = kth_largest(best, winners, axis)
    reach = sum(_count(part >= cut[None, :]) for part in best)
    reach = reach if axis is None else jax.lax.psum(reach, axis)
    doubtful = (cut > 0) & ((reach > winners) | jnp.any(best[-1] >= cut[None, :], axis=0))
    again = jnp.any(doubtful | ((cut == 0) & jnp.any(best[-1] > 0, axis=0)))
    for name in (axis, rows_axis):
        again = again if name is None else jax.lax.pmax(again.astype(jnp.int32), name) > 0
    all_ties = jnp.full(cut.shape, jnp.iinfo(jnp.int32).max)
    cutoff: Cutoff = jax.lax.cond(
        again, lambda: _cutoff_of_all(pre_FB, winners, axis), lambda: Cutoff(cut, all_ties)
    )
    return cutoff


def fires(pre_FB: jax.Array, cutoff: Cutoff, axis: str | None) -> jax.Array:
    """[F, B] bool, where ``pre_FB`` is above 0 and reaches the cutoff."""
    ids = _global_ids(pre_FB, axis)
    cut, last = cutoff.value[None, :], cutoff.last_id[None, :]
    return (pre_FB > 0) & ((pre_FB > cut) | ((pre_FB == cut) & (ids <= last)))


def _cutoff_of_all(pre_FB: jax.Array, k: int | jax.Array, axis: str | None) -> Cutoff:
    cut = kth_largest([pre_FB], k, axis)
    return Cutoff(cut, last_of_ties(pre_FB, cut, k, axis))


def _masked(values: jax.Array, mask: jax.Array, compute: np.dtype) -> jax.Array:
    return jnp.where(mask, values, jnp.zeros_like(values)).astype(compute)


def _row_sums(a: jax.Array, weights: jax.Array) -> jax.Array:
    """a [F, B] times ``weights`` [B], [F] float32.

    As a product with that column repeated: a third of the time that the vector unit takes to
    add up rows.
    """
    columns = jnp.broadcast_to(weights[:, None], (weights.shape[0], LANES))
    return product(a, columns, over=(1, 0))[:, 0]
