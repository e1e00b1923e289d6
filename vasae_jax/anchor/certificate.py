"""Nearest anchors without searching them every step: candidates and a certificate.

Angles obey the triangle inequality. Let a feature have pointed along ``ref`` when it was
last looked at, let every anchor outside its candidate list be at least ``outside`` away
from ``ref``, and every anchor but its nearest at least ``runner`` away. If it now points
along ``w``, having turned by ``delta = angle(w, ref)``, every other anchor is at least
``runner - delta`` away. So while ``angle(w, nearest) <= runner - delta`` its nearest anchor
is certainly still nearest, and no search is needed.

Each step all features are tested (one pass over W_dec, memory-bound as Adam is), then two
fixed budgets go to those that fail: a search through all anchors for those that even their
candidate list no longer covers, and a look through the candidate list, which is cheap, for
the others; the worst first in both. A feature left over keeps its stale name, which is
harmless: its gradient still pulls to a near anchor.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.sae.params import unit_rows
from vasae_jax.topm import cosine_topm

CANDIDATES = 8
"""Anchors remembered per feature."""

SEARCH_TILES = 256
"""Features are searched in tiles of this part of them: small enough to stop soon after the
last that needs it, large enough to be a matrix product."""

SLACK = 2e-3
"""Radians taken off every bound for float32 rounding: arccos near 0 loses half the digits."""


class AnchorState(NamedTuple):
    """What is remembered per feature; all arrays are split by feature like W_dec."""

    anchor_near: jax.Array
    """[F] int32, the (last known) nearest anchor."""
    anchor_list: jax.Array
    """[F, C] int32, candidates: the nearest anchors at the last search."""
    anchor_ref: jax.Array
    """[F, d] float32 unit rows, the direction that the two bounds below hold for."""
    anchor_runner: jax.Array
    """[F] float32, radians: every anchor but the nearest is at least this far from ref."""
    anchor_outside: jax.Array
    """[F] float32, radians: every anchor outside the list is at least this far from ref."""


class Budget(NamedTuple):
    """Features looked at again each step, per device's part of the features."""

    search: int
    """through all anchors"""
    refresh: int
    """through their candidate list"""


def angle(cosine: jax.Array) -> jax.Array:
    """Angle in radians of a cosine, clipped to [-1, 1]."""
    return jnp.arccos(jnp.clip(cosine, -1.0, 1.0))


def search(W_dec: jax.Array, anchors: jax.Array) -> AnchorState:
    """State from a full search for rows ``W_dec [n, d]`` among unit ``anchors [V, d]``."""
    unit = unit_rows(W_dec)
    count = min(CANDIDATES + 1, anchors.shape[0])
    cosines, ids = cosine_topm(unit, anchors, count)
    angles = angle(cosines)
    all_listed = count <= CANDIDATES
    outside = jnp.full_like(angles[:, 0], jnp.inf) if all_listed else angles[:, -1]
    return AnchorState(ids[:, 0], ids[:, :CANDIDATES], unit, angles[:, min(1, count - 1)], outside)


def gaps(
    W_dec: jax.Array, anchors: jax.Array, state: AnchorState
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How far each feature is from being certified, in radians (certified where <= 0).

    Returns:
        gap [F] of the nearest anchor against every other, gap [F] against those outside the
        list, and how far each has turned [F] since its bounds were set.
    """
    unit = unit_rows(W_dec)
    turned = angle(jnp.sum(unit * state.anchor_ref, axis=1)) + SLACK
    reach = angle(jnp.sum(unit * anchors[state.anchor_near], axis=1)) + turned
    return reach - state.anchor_runner, reach - state.anchor_outside, turned


def update(
    W_dec: jax.Array, anchors: jax.Array, state: AnchorState, budget: Budget
) -> tuple[AnchorState, jax.Array]:
    """One step of upkeep: the new state, and which features are still uncertified [F] bool.

    ``budget.search`` = F is exact: every feature is searched, none is uncertified.
    """
    if budget.search >= W_dec.shape[0]:
        return search(W_dec, anchors), jnp.zeros(W_dec.shape[0], bool)
    gap, gap_outside, turned = gaps(W_dec, anchors, state)
    state, gap = _search_worst(W_dec, anchors, state, gap, gap_outside, budget.search)
    _, loose = jax.lax.top_k(gap, budget.refresh)
    old = _take(state, loose)
    fresh, fresh_gap = _refresh(W_dec[loose], anchors, old, turned[loose])
    # A feature that is certified as it is gains nothing and would lose part of its bound.
    needs = gap[loose] > 0
    state = _put(state, loose, jax.tree.map(lambda new, was: _choose(needs, new, was), fresh, old))
    gap = gap.at[loose].set(jnp.where(needs, fresh_gap, gap[loose]))
    return state, gap > 0


def _search_worst(
    W_dec: jax.Array,
    anchors: jax.Array,
    state: AnchorState,
    gap: jax.Array,
    gap_outside: jax.Array,
    limit: int,
) -> tuple[AnchorState, jax.Array]:
    """Search the ``limit`` features with the largest gap outside their list, tile by tile.

    It ends at the first tile that needs none, so a quiet step costs no search at all.
    """
    features = W_dec.shape[0]
    tile = min(limit, max(8, features // SEARCH_TILES))
    tiles = min(-(-limit // tile), features // tile)
    worst, order = jax.lax.top_k(gap_outside, tiles * tile)

    def needed(carry: tuple[jax.Array, AnchorState]) -> jax.Array:
        return (carry[0] < tiles) & (worst[jnp.minimum(carry[0], tiles - 1) * tile] > 0)

    def search_tile(carry: tuple[jax.Array, AnchorState]) -> tuple[jax.Array, AnchorState]:
        number, state = carry
        rows = jax.lax.dynamic_slice_in_dim(order, number * tile, tile)
        return number + 1, _put(state, rows, search(W_dec[rows], anchors))

    done, state = jax.lax.while_loop(needed, search_tile, (jnp.int32(0), state))
    searched = jnp.arange(tiles * tile) < done * tile
    return state, gap.at[order].set(jnp.where(searched, -jnp.inf, gap[order]))


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
    return AnchorState(ids[:, 0], ids, unit, runner, outside), angles[:, 0] - outside


def _take(state: AnchorState, ids: jax.Array) -> AnchorState:
    return jax.tree.map(lambda leaf: leaf[ids], state)


def _put(state: AnchorState, ids: jax.Array, new: AnchorState) -> AnchorState:
    return jax.tree.map(lambda leaf, rows: leaf.at[ids].set(rows), state, new)


def _choose(needs: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(needs.reshape(-1, *[1] * (new.ndim - 1)), new, old)
