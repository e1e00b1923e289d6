"""The k-th largest of each row by comparing and counting, where gathers and sorts are slow.

Everything here takes ``pre`` feature-major, [F, B] >= 0: sums over features then run over
the leading axis, which a TPU's vector unit does without moving numbers between lanes.
"""

import jax
import jax.numpy as jnp

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
