"""Counts of where features fire: by feature and token, in both relations, kept sparse.

A feature fires at few of the V tokens, so only pairs that were met are kept, in ascending order:
the memory grows with the firings that were read, not with F times V.
"""

from typing import NamedTuple

import numpy as np

from vasae_jax.names.firings import share_of

PENDING = 2**22
"""Firings that are kept one by one before they are counted by pair."""


class RelationCounts(NamedTuple):
    """How often each feature fires at (or before) each token, on the rows that were read."""

    pairs: np.ndarray
    """int64 [n], feature * V + token of every pair that was met, ascending"""
    fired: np.ndarray
    """int64 [n], rows at (or before) the token on which the feature fires"""
    activation: np.ndarray
    """float64 [n], the sum of its activation there"""
    rows: np.ndarray
    """int64 [V], rows at (or before) each token in all"""

    def of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``fired`` and ``activation`` of each feature at its tokens ``ids`` [F, n]; 0 unmet."""
        if not len(self.pairs):
            return np.zeros(ids.shape, np.int64), np.zeros(ids.shape)
        key = np.arange(len(ids))[:, None] * np.int64(len(self.rows)) + ids
        place = np.minimum(np.searchsorted(self.pairs, key), len(self.pairs) - 1)
        met = (self.pairs[place] == key) & (ids >= 0)
        return np.where(met, self.fired[place], 0), np.where(met, self.activation[place], 0.0)


class FiringCounts(NamedTuple):
    """How often features fire on the rows that were read, and at (or before) which tokens."""

    relations: tuple[RelationCounts, RelationCounts]
    """at, before"""
    fired: np.ndarray
    """int64 [F], rows on which each feature fires"""
    activation: np.ndarray
    """float64 [F], the sum of its activation"""
    rows: int
    """Rows that were read and are not masked."""

    def shares(self, relation: int, ids: np.ndarray) -> np.ndarray:
        """The share of each feature's activation at (or before) its tokens ``ids``, [F, n]."""
        return share_of(self.relations[relation].of(ids)[1], self.activation[:, None])


class FiringCounter:
    """Counts firings, some rows at a time."""

    def __init__(self, features: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._fired = np.zeros(features, np.int64)
        self._activation = np.zeros(features)
        self._relations = tuple(_PairCounter(vocab_size) for _ in range(2))
        self._rows = 0

    def add(
        self, values: np.ndarray, ids: np.ndarray, token: np.ndarray, next_token: np.ndarray
    ) -> None:
        """Count what fires on n rows, none of them masked.

        Args:
            values: [n, K] activations; those above 0 fire.
            ids: [n, K] their features.
            token: [n], each row's token.
            next_token: [n], the token after it in its window, -1 at a window's end.
        """
        row, column = np.nonzero(values > 0)
        feature, activation = ids[row, column], values[row, column].astype(np.float64)
        features = len(self._fired)
        self._fired += np.bincount(feature, minlength=features)
        self._activation += np.bincount(feature, activation, features)
        self._rows += len(token)
        for counter, tokens in zip(self._relations, (token, next_token), strict=True):
            counter.add(feature, activation, tokens[row])
            counter.rows += np.bincount(tokens[tokens >= 0], minlength=self._vocab_size)

    def counts(self) -> FiringCounts:
        """Everything counted so far."""
        at, before = (counter.counts() for counter in self._relations)
        return FiringCounts((at, before), self._fired, self._activation, self._rows)


class _PairCounter:
    """Counts pairs of a feature and a token."""

    def __init__(self, vocab_size: int) -> None:
        self.rows = np.zeros(vocab_size, np.int64)
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._pending = 0

    def add(self, feature: np.ndarray, activation: np.ndarray, token: np.ndarray) -> None:
        """Count firings at tokens, arrays [n]; those whose token is -1 have none."""
        known = token >= 0
        key = feature[known].astype(np.int64) * len(self.rows) + token[known]
        self._parts.append((key, np.ones(len(key), np.int64), activation[known]))
        self._pending += len(key)
        if self._pending > PENDING:
            self._merge()

    def counts(self) -> RelationCounts:
        self._merge()
        return RelationCounts(*self._parts[0], self.rows)

    def _merge(self) -> None:
        """Make one part of all, in which each pair comes once."""
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        keys, fired, activation = (
            np.concatenate(part) for part in zip(empty, *self._parts, strict=True)
        )
        pairs, index = np.unique(keys, return_inverse=True)
        # Counts are whole numbers below 2^53: float64 adds them exactly.
        sums = (np.bincount(index, weight, len(pairs)) for weight in (fired, activation))
        total, mass = sums
        self._parts = [(pairs, total.astype(np.int64), mass)]
        self._pending = 0
