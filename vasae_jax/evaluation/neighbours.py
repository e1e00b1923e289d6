"""The tokens that a feature's row raises and lowers most, read straight by the head."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from scipy.sparse import csr_matrix

from vasae_jax.evaluation.name_effects import head_rows, largest_products
from vasae_jax.names.by_embedding import Names, nearest_tokens
from vasae_jax.names.firings import Firings


class HeadTokens(NamedTuple):
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


def head_tokens(
    rows: np.ndarray, final_norm: Mapping[str, Any], unembedding: np.ndarray, m: int
) -> HeadTokens:
    """Read ``rows`` through the linear part of the final norm and the unembedding.

    All blocks between the layer and the head are left out, so early layers say little here.

    Args:
        rows: [F, d] decoder rows.
        final_norm: kind and weight [d], as a cache holds it.
        unembedding: float32 [V, d].
        m: tokens wanted.
    """
    read, m = head_rows(rows, final_norm), min(m, len(unembedding))
    usual = (read @ unembedding.mean(axis=0))[:, None]
    up, raised = largest_products(read, unembedding, m)
    down, lowered = largest_products(-read, unembedding, m)
    return HeadTokens(raised, up - usual, lowered, -down - usual)


# Features whose decoder rows point most nearly the same way, in one dictionary or another.


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
    found = nearest_tokens(w_dec, w_dec, m + 1, mesh=mesh)
    own = found.ids == np.arange(features, dtype=np.int32)[:, None]
    # Equal rows may push a feature out of its own list: then the last one goes instead.
    own[:, -1] |= ~own.any(axis=1)
    keep = ~own
    return Names(found.ids[keep].reshape(features, m), found.cosines[keep].reshape(features, m))


def matches(
    w_dec: np.ndarray | jax.Array,
    other: np.ndarray | jax.Array,
    fires: np.ndarray,
    mesh: Mesh | None = None,
) -> Names:
    """The firing feature of another dictionary of largest decoder cosine to each of F; [F, 1].

    Args:
        w_dec: [F, d] decoder rows.
        other: [G, d] those of the other one.
        fires: bool [G], which of them fire; if none does, nothing matches: ids are -1.
        mesh: devices that split the features.

    Raises:
        UserError: the widths differ, or a row is not finite.
    """
    places = np.flatnonzero(fires)
    if not len(places):
        return Names(np.full((len(w_dec), 1), -1, np.int32), np.zeros((len(w_dec), 1), np.float32))
    found = nearest_tokens(w_dec, np.asarray(other)[places], 1, mesh=mesh)
    return Names(places[found.ids].astype(np.int32), found.cosines)


# Features that fire on the same rows.


LEAST = 3
"""Rows shared at least: two features that meet once or twice may do so by chance."""
BLOCK = 256
"""Features worked on at once: BLOCK x F numbers are held."""


class Together(NamedTuple):
    """For each of F features the m that share most of their rows with it, best first."""

    ids: np.ndarray
    """int32 [F, m], -1 where fewer share LEAST rows"""
    share: np.ndarray
    """float32 [F, m], the share of the feature's rows on which the other fires too"""
    overlap: np.ndarray
    """float32 [F, m], rows that both fire on over rows that either does (Jaccard's index)"""


def fire_together(found: Firings, features: int, m: int) -> Together:
    """The ``m`` features of largest overlap with each, over the firings that were watched."""
    m = min(m, features)
    _, row = np.unique(found.row, return_inverse=True)
    rows = int(row.max(initial=-1)) + 1
    ones = np.ones(len(row), np.float32)
    fires = csr_matrix((ones, (found.feature, row)), shape=(features, rows))
    count = np.bincount(found.feature, minlength=features).astype(np.float32)
    parts = [
        _block(fires, count, np.arange(at, min(at + BLOCK, features)), m)
        for at in range(0, features, BLOCK)
    ]
    return Together(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _block(fires: csr_matrix, count: np.ndarray, some: np.ndarray, m: int) -> Together:
    both = (fires[some] @ fires.T).toarray()
    both[np.arange(len(some)), some] = 0
    both[both < LEAST] = 0
    either = count[some, None] + count[None, :] - both
    overlap = both / np.maximum(either, 1)
    ids = np.argpartition(-overlap, m - 1, axis=1)[:, :m]
    best = np.take_along_axis(overlap, ids, axis=1)
    order = np.lexsort((ids, -best), axis=1)
    ids, best = (np.take_along_axis(part, order, axis=1) for part in (ids, best))
    share = np.take_along_axis(both, ids, axis=1) / np.maximum(count[some, None], 1)
    ids = np.where(best > 0, ids, -1).astype(np.int32)
    return Together(ids, share.astype(np.float32), best.astype(np.float32))
