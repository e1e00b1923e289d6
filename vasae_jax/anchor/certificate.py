"""Nearest anchors without searching them every step: candidates and a certificate.

Angles obey the triangle inequality. Let a feature have pointed along ``ref`` when it was
last looked at, let every anchor outside its candidate list be at least ``outside`` away
from ``ref``, and every anchor but its nearest at least ``runner`` away. If it now points
along ``w``, having turned by ``delta = angle(w, ref)``, every other anchor is at least
``runner - delta`` away. So while ``angle(w, nearest) <= runner - delta`` its nearest anchor
is certainly still nearest, and no search is needed.

Each step all features are tested (one pass over W_dec, memory-bound as Adam is). Those that
fail are looked at again, those that turned furthest first: through their candidate list, which
is cheap, and through all anchors where even the list no longer covers them. Both go on, up to
a budget, while what they find is worth it: in the first steps, when everything turns, much is
searched, and later next to nothing. A feature left over keeps its stale name, which is
harmless: its gradient still pulls to a near anchor.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.anchor.search import cosine_topm
from vasae_jax.distributed.mesh import DATA, MODEL
from vasae_jax.sae.params import row_dots, unit_rows

CANDIDATES = 16
"""Anchors remembered per feature."""

TILE = 64
"""Features renewed at once: few enough that a step in which one needs a search pays for little
more than reading the anchors, enough to make the search a matrix product."""

WORTH = 3e-5
"""Mean cosine gained by a tile, below which the next, less needy, is not looked at."""

WAITING = 64
"""One feature in so many, and no more than a tile, may wait uncertified before a search is made:
it costs the same for one feature as for a tile."""

SLACK = 2e-3
"""Radians taken off every bound for float32 rounding: arccos near 0 loses half the digits."""


class AnchorState(NamedTuple):
    """What is remembered per feature; all arrays are split by feature like W_dec."""

    anchor_near: jax.Array
    """[F] int32, the (last known) nearest anchor."""
    anchor_rows: jax.Array
    """[F, d] float32, that anchor itself: gradient and certificate read it in order instead
    of gathering it at every step."""
    anchor_list: jax.Array
    """[F, C] int32, candidates: the nearest anchors at the last search."""
    anchor_ref: jax.Array
    """[F, d] float32 unit rows, the direction that the two bounds below hold for."""
    anchor_runner: jax.Array
    """[F] float32, radians: every anchor but the nearest is at least this far from ref."""
    anchor_outside: jax.Array
    """[F] float32, radians: every anchor outside the list is at least this far from ref."""
    anchor_slip: jax.Array
    """[F] float32, radians: how far ref has moved, in all, since the last search."""


class Budget(NamedTuple):
    """Features that may be looked at again in a step, per device's part of the features."""

    search: int
    """through all anchors"""
    refresh: int
    """through their candidate list"""


def angle(cosine: jax.Array) -> jax.Array:
    """Angle in radians of a cosine, clipped to [-1, 1]."""
    return jnp.arccos(jnp.clip(cosine, -1.0, 1.0))


def _angle_to(square: jax.Array, product: jax.Array) -> jax.Array:
    """Angles [n] of rows w to unit rows u, from |w|^2 and <w, u>."""
    across = jnp.sqrt(jnp.maximum(square - jnp.square(product), jnp.zeros_like(square)))
    return jnp.arctan2(across, product)


def search(W_dec: jax.Array, anchors: jax.Array) -> AnchorState:
    """State from a full search for rows ``W_dec [n, d]`` among unit ``anchors [V, d]``."""
    unit = unit_rows(W_dec)
    count = min(CANDIDATES + 1, anchors.shape[0])
    cosines, ids = cosine_topm(unit, anchors, count)
    angles = angle(cosines)
    all_listed = count <= CANDIDATES
    outside = jnp.full_like(angles[:, 0], jnp.inf) if all_listed else angles[:, -1]
    near, runner = ids[:, 0], angles[:, min(1, count - 1)]
    slip = jnp.zeros_like(outside)
    return AnchorState(near, anchors[near], ids[:, :CANDIDATES], unit, runner, outside, slip)


def gaps(
    W_dec: jax.Array, state: AnchorState, unit: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How far each feature is from being certified, in radians (certified where <= 0).

    ``unit``: the rows of W_dec are known to have norm 1, which saves measuring them.

    Returns:
        gap [F] of the nearest anchor against every other, gap [F] against those outside the
        list, and how far each has turned [F] since its bounds were set.
    """
    square = (
        jnp.ones_like(state.anchor_slip) if unit else row_dots(W_dec, W_dec)
    )  # no normalised copy of W_dec is made
    turned = _angle_to(square, row_dots(W_dec, state.anchor_ref)) + SLACK
    reach = _angle_to(square, row_dots(W_dec, state.anchor_rows)) + turned
    return reach - state.anchor_runner, reach - state.anchor_outside, turned


def update(
    W_dec: jax.Array, anchors: jax.Array, state: AnchorState, budget: Budget, unit: bool = False
) -> tuple[AnchorState, jax.Array]:
    """One step of upkeep: the new state, and which features are still uncertified [F] bool.

    ``budget.search`` = F is exact: every feature is searched, none is uncertified. ``unit``: the
    rows of W_dec are known to have norm 1.
    """
    if budget.search >= W_dec.shape[0]:
        return search(W_dec, anchors), jnp.zeros(W_dec.shape[0], bool)
    gap, gap_outside, turned = gaps(W_dec, state, unit)

    def refreshed(ids: jax.Array, old: AnchorState) -> tuple[AnchorState, jax.Array]:
        return _refresh(W_dec[ids], anchors, old, turned[ids])

    def searched(ids: jax.Array, old: AnchorState) -> tuple[AnchorState, jax.Array]:
        return search(W_dec[ids], anchors), jnp.full(ids.shape, -jnp.inf, jnp.float32)

    # Those that turned furthest since they were last looked at come first: ordered by gap,
    # features that two anchors claim equally would be looked at forever and keep out others.
    none = jnp.zeros_like(gap)
    unlisted = jnp.where(gap_outside > 0, state.anchor_slip + turned, none)
    unsure = jnp.where(gap > 0, turned, none)
    state, gap = _worst_first(refreshed, W_dec, unsure, gap, state, budget.refresh)
    least = max(1, min(TILE, W_dec.shape[0] // WAITING))
    unlisted = jnp.where((unlisted > 0).sum() >= least, unlisted, none)
    state, gap = _worst_first(searched, W_dec, unlisted, gap, state, budget.search)
    return state, gap > 0


class Staleness(NamedTuple):
    """Cached nearest anchors against a full search."""

    mismatch: jax.Array
    """[] share of features whose cached anchor is not a nearest one."""
    shortfall: jax.Array
    """[] mean cosine lost: the nearest anchor's minus the cached one's."""


def staleness(W_dec: jax.Array, anchors: jax.Array, state: AnchorState) -> Staleness:
    """How far ``state`` is from the truth, found by searching every feature.

    ``W_dec`` [F, d], ``anchors`` [V, d] unit rows.
    """
    unit = unit_rows(W_dec)
    cosines, ids = cosine_topm(unit, anchors, m=1)
    short = jnp.maximum(cosines[:, 0] - row_dots(unit, state.anchor_rows), 0.0)
    # Tokens may share an embedding: another id at the same cosine is no mismatch.
    differs = (ids[:, 0] != state.anchor_near) & (short > 0)
    return Staleness(differs.astype(jnp.float32).mean(), short.mean())


def _worst_first(
    renew: Callable[[jax.Array, AnchorState], tuple[AnchorState, jax.Array]],
    W_dec: jax.Array,
    need: jax.Array,
    gap: jax.Array,
    state: AnchorState,
    limit: int,
) -> tuple[AnchorState, jax.Array]:
    """Renew the features with the largest ``need`` [F] above 0, tile by tile.

    It ends at ``limit`` features, at the first tile that needs none, or after a tile that
    gained next to nothing. ``renew`` gives the new state and gap of some features.
    """
    features = need.shape[0]
    tile = min(limit, TILE)
    tiles = min(-(-limit // tile), features // tile)

    def worthwhile(carry: _Carry) -> jax.Array:
        number, gain, need, _, _ = carry
        return (number < tiles) & (need.max() > 0) & (gain > WORTH)

    def renew_tile(carry: _Carry) -> _Carry:
        number, gain, need, state, gap = carry
        worst, ids = jax.lax.top_k(need, tile)
        old = _take(state, ids)
        new, new_gap = renew(ids, old)
        # A feature that needs nothing would lose part of its bound.
        new = jax.tree.map(lambda a, b: _choose(worst > 0, a, b), new, old)
        gap = gap.at[ids].set(jnp.where(worst > 0, new_gap, gap[ids]))
        gained = jnp.sum(unit_rows(W_dec[ids]) * (new.anchor_rows - old.anchor_rows), axis=1)
        need = need.at[ids].set(jnp.zeros_like(worst))
        return number + 1, (gain + gained.mean()) / 2, need, _put(state, ids, new), gap

    # A first gain of four times the limit lets two barren tiles pass before giving up.
    start = (jnp.int32(0), jnp.float32(4 * WORTH), need, state, gap)
    _, _, _, state, gap = jax.lax.while_loop(worthwhile, renew_tile, start)
    return state, gap


_Carry = tuple[jax.Array, jax.Array, jax.Array, AnchorState, jax.Array]


def _refresh(
    rows: jax.Array, anchors: jax.Array, state: AnchorState, turned: jax.Array
) -> tuple[AnchorState, jax.Array]:
    """State of ``rows [n, d]`` after measuring their candidates anew from where they point.

    The candidates' angles become exact; the others' bound shrinks by the angle turned.
    Also the gap [n] of each row's nearest candidate against the anchors outside the list.
    """
    unit = unit_rows(rows)
    cosines = jnp.einsum("nd,ncd->nc", unit, anchors[state.anchor_list])
    # Lowest id among equals, as a search would have it.
    order = jnp.lexsort((state.anchor_list, -cosines), axis=1)
    ids = jnp.take_along_axis(state.anchor_list, order, axis=1)
    angles = angle(jnp.take_along_axis(cosines, order, axis=1))
    outside = state.anchor_outside - turned
    runner = jnp.minimum(outside, angles[:, 1]) if angles.shape[1] > 1 else outside
    near = ids[:, 0]
    slip = state.anchor_slip + turned
    new = AnchorState(near, anchors[near], ids, unit, runner, outside, slip)
    return new, angles[:, 0] - outside


def _take(state: AnchorState, ids: jax.Array) -> AnchorState:
    taken: AnchorState = jax.tree.map(lambda leaf: leaf[ids], state)
    return taken


def _put(state: AnchorState, ids: jax.Array, new: AnchorState) -> AnchorState:
    put: AnchorState = jax.tree.map(lambda leaf, rows: leaf.at[ids].set(rows), state, new)
    return put


def _choose(needs: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(needs.reshape(-1, *[1] * (new.ndim - 1)), new, old)


# Full searches over a mesh: every device searches an equal part of the features.
#
# What a device pays, F V d / devices products, falls with devices along either axis of the
# mesh: those along ``data`` hold the same features, and share them out for the search. Left to
# itself, a compiler has each device search all features, for the loops over them are not split.


def spread_search(mesh: Mesh, features: int) -> Callable[[jax.Array, jax.Array], AnchorState]:
    """:func:`search` of W_dec [``features``, d] among anchors [V, d], split over ``mesh``."""
    split = P(_axes(mesh, features))
    return jax.shard_map(search, mesh=mesh, in_specs=(split, P()), out_specs=split, check_vma=False)


def spread_staleness(
    mesh: Mesh, features: int
) -> Callable[[jax.Array, jax.Array, AnchorState], Staleness]:
    """:func:`staleness` of a state of ``features`` features, split over ``mesh``."""
    axes = _axes(mesh, features)

    def part(W_dec: jax.Array, anchors: jax.Array, state: AnchorState) -> Staleness:
        return Staleness(*jax.lax.pmean(staleness(W_dec, anchors, state), axes))

    split = P(axes)
    return jax.shard_map(
        part, mesh=mesh, in_specs=(split, P(), split), out_specs=P(), check_vma=False
    )


def _axes(mesh: Mesh, features: int) -> tuple[str, ...]:
    both = mesh.shape[MODEL] * mesh.shape[DATA]
    return (MODEL, DATA) if features % both == 0 else (MODEL,)
