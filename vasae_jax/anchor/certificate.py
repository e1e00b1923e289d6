"""Nearest anchors without a full search at every step: candidates and a certificate.

Angles obey the triangle inequality. Let a feature's row have pointed along ``ref`` when it was
last measured, let every anchor outside its candidate list be at least ``outside`` away from
``ref``, and every anchor but its nearest at least ``runner`` away. If the row now points along
``w``, having turned by ``delta = angle(w, ref)``, every other anchor is at least ``runner - delta``
away. So while ``angle(w, nearest) <= runner - delta`` its nearest anchor is certainly still
nearest, and no search is needed.

Each step tests all features, or those whose turn it is (:mod:`vasae_jax.anchor.turns`): one pass
over their rows, memory-bound as Adam is. Those that fail are renewed, those that turned furthest
first: from their candidate list, which is cheap, and by a search of all anchors where even the list
no longer covers them. Both go on, up to a budget, while they gain enough cosine: in the first
steps, when everything turns, much is searched, and later next to nothing. A feature left over keeps
an anchor that may no longer be the nearest, which is harmless: its gradient still pulls towards a
near one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.anchor.search import cosine_topm
from vasae_jax.anchor.turns import Turn
from vasae_jax.distributed.mesh import DATA, MODEL
from vasae_jax.sae.params import row_dots, unit_rows

CANDIDATES = 16
"""Anchors remembered per feature."""

TILE = 64
"""Features renewed at once: few enough that a step in which one needs a search pays for little
more than reading the anchors, enough to make the search a matrix product."""

MIN_GAIN = 3e-5
"""Mean cosine that a tile gains, below which no further tile is renewed."""

WAITING = 64
"""One feature in so many, and no more than a tile, may wait uncertified before a search is made:
it costs the same for one feature as for a tile."""

SLACK = 2e-3
"""Radians taken off every bound for float32 rounding: arccos near 0 loses half the digits."""


class AnchorState(NamedTuple):
    """What is remembered per feature; all arrays are split by feature like the rows."""

    anchor_near: jax.Array
    """[F] int32, the (last known) nearest anchor."""
    anchor_rows: jax.Array
    """[F, d] float32, that anchor's row: gradient and certificate read it in order instead
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
    """Features that may be renewed in a step, per device's part of the features."""

    search: int
    """through all anchors"""
    refresh: int
    """through their candidate list"""


def angle(cosine: jax.Array) -> jax.Array:
    """Angle in radians of a cosine, clipped to [-1, 1]."""
    return jnp.arccos(jnp.clip(cosine, -1.0, 1.0))


def _angle_to(square_F: jax.Array, product_F: jax.Array) -> jax.Array:
    """Angles of rows w to unit rows u, from |w|^2 and <w, u>."""
    across = jnp.sqrt(jnp.maximum(square_F - jnp.square(product_F), jnp.zeros_like(square_F)))
    return jnp.arctan2(across, product_F)


def full_search(rows_FD: jax.Array, anchors_AD: jax.Array) -> AnchorState:
    """State from a search of all unit anchors for rows."""
    unit = unit_rows(rows_FD)
    count = min(CANDIDATES + 1, anchors_AD.shape[0])
    cosines, ids = cosine_topm(unit, anchors_AD, count)
    angles = angle(cosines)
    all_listed = count <= CANDIDATES
    outside = jnp.full_like(angles[:, 0], jnp.inf) if all_listed else angles[:, -1]
    near, runner = ids[:, 0], angles[:, min(1, count - 1)]
    slip = jnp.zeros_like(outside)
    return AnchorState(near, anchors_AD[near], ids[:, :CANDIDATES], unit, runner, outside, slip)


def gaps(
    rows_FD: jax.Array, state: AnchorState, unit: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How far each feature is from being certified, in radians (certified where <= 0).

    ``unit``: the rows are known to have norm 1, which saves measuring them.

    Returns:
        gap [F] of the nearest anchor against every other, gap [F] against those outside the
        list, and how far each has turned [F] since its bounds were set.
    """
    # No normalised copy of the rows is made.
    square_F = jnp.ones_like(state.anchor_slip) if unit else row_dots(rows_FD, rows_FD)
    turned_F = _angle_to(square_F, row_dots(rows_FD, state.anchor_ref)) + SLACK
    reach_F = _angle_to(square_F, row_dots(rows_FD, state.anchor_rows)) + turned_F
    return reach_F - state.anchor_runner, reach_F - state.anchor_outside, turned_F


def update(
    rows_FD: jax.Array,
    anchors_AD: jax.Array,
    state: AnchorState,
    budget: Budget,
    unit: bool = False,
    turn: Turn | None = None,
) -> tuple[AnchorState, jax.Array]:
    """One step of upkeep: the new state, and which features are still uncertified [N] bool.

    ``budget.search`` = F is exact: every feature is searched, none is uncertified. ``unit``: the
    rows are known to have norm 1. ``turn``: the N features to look after; None: all of them.
    """
    features = rows_FD.shape[0]
    if budget.search >= features:
        count = features if turn is None else turn.ids.shape[0]
        return full_search(rows_FD, anchors_AD), jnp.zeros(count, bool)
    rows_ND, some = rows_FD, state
    if turn is None:
        turn = Turn(jnp.arange(features), jnp.ones(features, bool))
    else:
        rows_ND, some = jax.tree.map(lambda leaf: leaf[turn.ids], (rows_FD, state))
    gap_N, gap_outside_N, turned_N = gaps(rows_ND, some, unit)
    ids_N, none = turn.ids, jnp.zeros_like(gap_N)

    def refresh(at: jax.Array, old: AnchorState) -> tuple[AnchorState, jax.Array]:
        return _refresh(rows_FD[ids_N[at]], anchors_AD, old, turned_N[at])

    def search(at: jax.Array, old: AnchorState) -> tuple[AnchorState, jax.Array]:
        new = full_search(rows_FD[ids_N[at]], anchors_AD)
        return new, jnp.full(at.shape, -jnp.inf, jnp.float32)

    # Those that turned furthest since they were last measured come first: ordered by gap,
    # features between two equally near anchors would be renewed forever and keep out others.
    unlisted_N = jnp.where(turn.has & (gap_outside_N > 0), some.anchor_slip + turned_N, none)
    unsure_N = jnp.where(turn.has & (gap_N > 0), turned_N, none)
    state, gap_N = _worst_first(refresh, rows_FD, ids_N, unsure_N, gap_N, state, budget.refresh)
    least = max(1, min(TILE, features // WAITING))
    unlisted_N = jnp.where((unlisted_N > 0).sum() >= least, unlisted_N, none)
    state, gap_N = _worst_first(search, rows_FD, ids_N, unlisted_N, gap_N, state, budget.search)
    return state, turn.has & (gap_N > 0)


class Staleness(NamedTuple):
    """Cached nearest anchors against a full search."""

    mismatch: jax.Array
    """[] share of features whose cached anchor is not a nearest one."""
    shortfall: jax.Array
    """[] mean cosine lost: the nearest anchor's minus the cached one's."""


def staleness(rows_FD: jax.Array, anchors_AD: jax.Array, state: AnchorState) -> Staleness:
    """How far ``state`` is from the truth, measured by a full search for every feature."""
    unit = unit_rows(rows_FD)
    cosines, ids = cosine_topm(unit, anchors_AD, m=1)
    short_F = jnp.maximum(cosines[:, 0] - row_dots(unit, state.anchor_rows), 0.0)
    # Tokens may share an embedding: another id at the same cosine is no mismatch.
    differs_F = (ids[:, 0] != state.anchor_near) & (short_F > 0)
    return Staleness(differs_F.astype(jnp.float32).mean(), short_F.mean())


def _worst_first(
    renew: Callable[[jax.Array, AnchorState], tuple[AnchorState, jax.Array]],
    rows_FD: jax.Array,
    ids_N: jax.Array,
    need_N: jax.Array,
    gap_N: jax.Array,
    state: AnchorState,
    most: int,
) -> tuple[AnchorState, jax.Array]:
    """Renew the features with the largest ``need_N`` above 0, tile by tile.

    It ends at ``most`` features, at the first tile without need, or after a tile that gained next
    to nothing. ``renew`` gives the new state and gap of some of the features ``ids_N``.
    """
    tile = min(most, TILE, need_N.shape[0])
    tiles = min(-(-most // tile), need_N.shape[0] // tile)

    def worthwhile(carry: _Carry) -> jax.Array:
        number, gain, need, _, _ = carry
        return (number < tiles) & (need.max() > 0) & (gain > MIN_GAIN)

    def renew_tile(carry: _Carry) -> _Carry:
        number, gain, need, state, gap = carry
        worst, at = jax.lax.top_k(need, tile)
        ids = ids_N[at]
        old: AnchorState = jax.tree.map(lambda leaf: leaf[ids], state)
        new, new_gap = renew(at, old)
        # A feature that needs nothing would lose part of its bound.
        new = jax.tree.map(lambda a, b: jnp.where(_column(worst > 0, a.ndim), a, b), new, old)
        gap = gap.at[at].set(jnp.where(worst > 0, new_gap, gap[at]))
        gained = jnp.sum(unit_rows(rows_FD[ids]) * (new.anchor_rows - old.anchor_rows), axis=1)
        need = need.at[at].set(jnp.zeros_like(worst))
        state = jax.tree.map(lambda leaf, rows: leaf.at[ids].set(rows), state, new)
        return number + 1, (gain + gained.mean()) / 2, need, state, gap

    # A first gain of twice the least lets one barren tile pass before giving up.
    start = (jnp.int32(0), jnp.float32(2 * MIN_GAIN), need_N, state, gap_N)
    _, _, _, state, gap_N = jax.lax.while_loop(worthwhile, renew_tile, start)
    return state, gap_N


_Carry = tuple[jax.Array, jax.Array, jax.Array, AnchorState, jax.Array]


def _refresh(
    rows_ND: jax.Array, anchors_AD: jax.Array, state: AnchorState, turned_N: jax.Array
) -> tuple[AnchorState, jax.Array]:
    """State of some rows after measuring their candidates anew from where they point.

    The candidates' angles become exact; the others' bound shrinks by the angle turned.
    Also the gap [N] of each row's nearest candidate against the anchors outside the list.
    """
    unit = unit_rows(rows_ND)
    cosines = jnp.einsum("nd,ncd->nc", unit, anchors_AD[state.anchor_list])
    # Lowest id among equals, as in a search.
    order = jnp.lexsort((state.anchor_list, -cosines), axis=1)
    ids = jnp.take_along_axis(state.anchor_list, order, axis=1)
    angles = angle(jnp.take_along_axis(cosines, order, axis=1))
    outside = state.anchor_outside - turned_N
    runner = jnp.minimum(outside, angles[:, 1]) if angles.shape[1] > 1 else outside
    near = ids[:, 0]
    slip = state.anchor_slip + turned_N
    new = AnchorState(near, anchors_AD[near], ids, unit, runner, outside, slip)
    return new, angles[:, 0] - outside


def _column(mask: jax.Array, ndim: int) -> jax.Array:
    """``mask`` [n] with trailing axes of length 1, to choose whole rows by."""
    return mask.reshape(-1, *[1] * (ndim - 1))


# Full searches over a mesh: every device searches an equal part of the features.
#
# What a device pays, F A d / devices products, falls with devices along either axis of the mesh:
# those along ``data`` hold the same features, and share them out for the search. Without this, a
# compiler has each device search all features, for the loops over them are not split.


def sharded_search(mesh: Mesh, features: int) -> Callable[[jax.Array, jax.Array], AnchorState]:
    """:func:`full_search` for rows [``features``, d] among anchors [A, d], split over ``mesh``."""
    split = P(_axes(mesh, features))
    return jax.shard_map(
        full_search, mesh=mesh, in_specs=(split, P()), out_specs=split, check_vma=False
    )


def sharded_staleness(
    mesh: Mesh, features: int
) -> Callable[[jax.Array, jax.Array, AnchorState], Staleness]:
    """:func:`staleness` of a state of ``features`` features, split over ``mesh``."""
    axes = _axes(mesh, features)

    def local(rows_FD: jax.Array, anchors_AD: jax.Array, state: AnchorState) -> Staleness:
        return Staleness(*jax.lax.pmean(staleness(rows_FD, anchors_AD, state), axes))

    split = P(axes)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(split, P(), split), out_specs=P(), check_vma=False
    )


def _axes(mesh: Mesh, features: int) -> tuple[str, ...]:
    both = mesh.shape[MODEL] * mesh.shape[DATA]
    return (MODEL, DATA) if features % both == 0 else (MODEL,)
