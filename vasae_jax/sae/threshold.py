"""The k-th largest of each row by comparing and counting, where gathers and sorts are slow.

Everything here takes ``pre`` feature-major, [F, B] >= 0: sums over features then run over
the leading axis, which a TPU's vector unit does without moving numbers between lanes.
"""

import jax
import jax.numpy as jnp

GROUPS = 256
"""Groups that a device's features fall into; each offers its three largest."""
OFFERS = 3


def candidates(pre: jax.Array) -> list[jax.Array]:
    """The largest, second and third of each group of features: three [groups, B]."""
    features, rows = pre.shape
    groups = min(GROUPS, features)
    best = [jnp.zeros((groups, rows), pre.dtype)] * OFFERS
    for start in range(0, features, groups):
        value = pre[start : start + groups]
        value = jnp.pad(value, ((0, groups - value.shape[0]), (0, 0)))
        for place in range(OFFERS):
            best[place], value = (
                jnp.maximum(best[place], value),
                jnp.minimum(best[place], value),
            )
    return best


def kth_largest(parts: list[jax.Array], k: int, axis: str | None) -> jax.Array:
    """The k-th largest [B] of the numbers >= 0 in ``parts`` (each [n, B]) of all devices.

    Floats >= 0 are ordered as their bits are, so two bits a round settle it in 16 rounds.
    Where there are fewer than k numbers above 0 it is 0.
    """
    bits = [jax.lax.bitcast_convert_type(part, jnp.int32) for part in parts]

    def settle(place: jax.Array, found: jax.Array) -> jax.Array:
        shift = 30 - 2 * place
        tries = [found + (step << shift) for step in (1, 2, 3)]
        counts = [sum(_count(part >= least[None, :]) for part in bits) for least in tries]
        # In the first round two tries overflow to below 0; no float has such bits.
        reached = (_sum(jnp.stack(counts), axis) >= k) & (jnp.stack(tries) >= 0)
        return found + (jnp.sum(reached.astype(jnp.int32), axis=0) << shift)

    start = jnp.zeros(parts[0].shape[1:], jnp.int32)
    found = jax.lax.fori_loop(0, 16, settle, start)
    return jax.lax.bitcast_convert_type(found, jnp.float32)


def last_of_ties(pre: jax.Array, cut: jax.Array, k: int, axis: str | None) -> jax.Array:
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

    return jax.lax.fori_loop(0, bits, settle, jnp.zeros(cut.shape, jnp.int32))


def _count(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask.astype(jnp.int32), axis=0)


def _sum(counts: jax.Array, axis: str | None) -> jax.Array:
    return counts if axis is None else jax.lax.psum(counts, axis)
