"""Neighbours of a feature: tokens by the logit lens, near features, features that fire with it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from scipy.sparse import csr_matrix

from vasae_jax.evaluation.name_effects import head_rows, largest_products
from vasae_jax.names.by_embedding import Names, nearest_tokens
from vasae_jax.names.firings import Firings

MIN_SHARED_ROWS = 3
"""Two features that fire together on fewer rows may do so by chance."""
BLOCK = 256
"""Features worked on at once: BLOCK x F numbers are held."""


class LogitLensTokens(NamedTuple):
    """For each of F features the m tokens that its row raises most, and lowers most."""

    raised: np.ndarray
    """int32 [F, m], most first"""
    raised_by: np.ndarray
    """float32 [F, m], by how much a logit rises for an activation of 1, less the mean over the
    vocabulary and before the final norm's scale"""
    lowered: np.ndarray
    """int32 [F, m], most first"""
    lowered_by: np.ndarray
    """float32 [F, m], the same; falling logits are negative"""


def logit_lens_tokens(
    rows: np.ndarray, final_norm: Mapping[str, Any], unembedding: np.ndarray, m: int
) -> LogitLensTokens:
    """The logit lens of ``rows``: the linear part of the final norm, then the unembedding.

    All blocks between the layer and the head are left out, so early layers say little here.

    Args:
        rows: [F, d] decoder rows.
        final_norm: kind and weight [d], as a cache holds it.
        unembedding: float32 [V, d].
        m: tokens wanted.
    """
    normed, m = head_rows(rows, final_norm), min(m, len(unembedding))
    mean = (normed @ unembedding.mean(axis=0))[:, None]
    up, raised = largest_products(normed, unembedding, m)
    down, lowered = largest_products(-normed, unembedding, m)
    return LogitLensTokens(raised, up - mean, lowered, -down - mean)


def near_features(w_dec: np.ndarray | jax.Array, m: int, mesh: Mesh | None = None) -> Names:
    """The ``m`` other features of largest decoder cosine to each of F, or F - 1 if there are fewer.

    Args:
        w_dec: [F, d] decoder rows.
        m: features wanted.
        mesh: devices that split the features.

    Raises:
        UserError: a row is not finite.
    """
    features = w_dec.shape[0]
    m = min(m, features - 1)
    near = nearest_tokens(w_dec, w_dec, m + 1, mesh=mesh)
    itself = near.ids == np.arange(features, dtype=np.int32)[:, None]
    # Equal rows may push a feature out of its own list: then the last one goes instead.
    itself[:, -1] |= ~itself.any(axis=1)
    return Names(*(array[~itself].reshape(features, m) for array in near))


def firing_matches(
    w_dec: np.ndarray | jax.Array,
    other: np.ndarray | jax.Array,
    fires: np.ndarray,
    mesh: Mesh | None = None,
) -> Names:
    """The firing feature of another dictionary of largest decoder cosine to each of F; [F, 1].

    Args:
        w_dec: [F, d] decoder rows.
        other: [G, d] decoder rows of the other dictionary.
        fires: bool [G], which of them fire; if none does, nothing matches: ids are -1.
        mesh: devices that split the features.

    Raises:
        UserError: the widths differ, or a row is not finite.
    """
    firing = np.flatnonzero(fires)
    if not len(firing):
        return Names(np.full((len(w_dec), 1), -1, np.int32), np.zeros((len(w_dec), 1), np.float32))
    near = nearest_tokens(w_dec, np.asarray(other)[firing], 1, mesh=mesh)
    return Names(firing[near.ids].astype(np.int32), near.cosines)


class CofiringFeatures(NamedTuple):
    """For each of F features the m that share most of their rows with it, best first."""

    ids: np.ndarray
    """int32 [F, m], -1 where fewer share MIN_SHARED_ROWS rows"""
    share: np.ndarray
    """float32 [F, m], the share of the feature's rows on which the other fires too"""
    overlap: np.ndarray
    """float32 [F, m], rows that both fire on over rows that either does (Jaccard's index)"""


def cofiring_features(firings: Firings, features: int, m: int) -> CofiringFeatures:
    """The ``m`` features of largest overlap with each, over the observed firings."""
    m = min(m, features)
    _, row = np.unique(firings.row, return_inverse=True)
    rows = int(row.max(initial=-1)) + 1
    ones = np.ones(len(row), np.float32)
    fires = csr_matrix((ones, (firings.feature, row)), shape=(features, rows))
    count = np.bincount(firings.feature, minlength=features).astype(np.float32)
    parts = [
        _cofiring(fires, count, np.arange(start, min(start + BLOCK, features)), m)
        for start in range(0, features, BLOCK)
    ]
    return CofiringFeatures(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _cofiring(fires: csr_matrix, count: np.ndarray, block: np.ndarray, m: int) -> CofiringFeatures:
    both = (fires[block] @ fires.T).toarray()
    both[np.arange(len(block)), block] = 0
    both[both < MIN_SHARED_ROWS] = 0
    either = count[block, None] + count[None, :] - both
    overlap = both / np.maximum(either, 1)
    ids = np.argpartition(-overlap, m - 1, axis=1)[:, :m]
    best = np.take_along_axis(overlap, ids, axis=1)
    order = np.lexsort((ids, -best), axis=1)
    ids, best = (np.take_along_axis(part, order, axis=1) for part in (ids, best))
    share = np.take_along_axis(both, ids, axis=1) / np.maximum(count[block, None], 1)
    ids = np.where(best > 0, ids, -1).astype(np.int32)
    return CofiringFeatures(ids, share.astype(np.float32), best.astype(np.float32))
