"""Features that fire on the same rows."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from vasae_jax.evaluation.contexts import Firings

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
