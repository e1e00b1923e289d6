"""Counts of where features fire: by feature and token, in both relations, kept sparse.

A feature fires at few of the V tokens, so only pairs that were met are kept, in ascending order:
the memory grows with the firings that were read, not with F times V.
"""

from typing import NamedTuple

import numpy as np

from vasae_jax.dictionary.claims import NO_NAME
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
    strongest: np.ndarray
    """float64 [n], its largest activation there"""
    rows: np.ndarray
    """int64 [V], rows at (or before) each token in all"""

    def of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``fired`` and ``activation`` of each feature at its tokens ``ids`` [F, n]; 0 unmet."""
        place, met = self._find(np.arange(len(ids))[:, None], ids)
        fired, activation = np.zeros(ids.shape, np.int64), np.zeros(ids.shape)
        fired[met], activation[met] = self.fired[place[met]], self.activation[place[met]]
        return fired, activation

    def fired_at(self, feature: np.ndarray, token: np.ndarray) -> np.ndarray:
        """``fired`` of each ``feature`` at ``token``, as the two broadcast; 0 unmet."""
        place, met = self._find(feature, token)
        fired = np.zeros(met.shape, np.int64)
        fired[met] = self.fired[place[met]]
        return fired

    def _find(self, feature: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each pair stands in ``pairs``, and whether it was met."""
        key = feature.astype(np.int64) * len(self.rows) + token
        place = np.minimum(np.searchsorted(self.pairs, key), max(len(self.pairs) - 1, 0))
        if not len(self.pairs):
            return place, np.zeros(key.shape, bool)
        return place, (self.pairs[place] == key) & (token >= 0)

    def best(self, score: np.ndarray, features: int, most: int) -> np.ndarray:
        """The ``most`` tokens of largest ``score`` of each feature; int64 [F, most], then NO_NAME.

        ``score`` [n] is one of every pair. Of equal tokens the lower one comes first.
        """
        feature, token = np.divmod(self.pairs, len(self.rows))
        order = np.lexsort((token, -score, feature))
        feature, token = feature[order], token[order]
        rank = np.arange(len(feature)) - np.searchsorted(feature, feature)
        ids = np.full((features, most), NO_NAME, np.int64)
        kept = rank < most
        ids[feature[kept], rank[kept]] = token[kept]
        return ids


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
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._pending = 0

    def add(self, feature: np.ndarray, activation: np.ndarray, token: np.ndarray) -> None:
        """Count firings at tokens, arrays [n]; those whose token is -1 have none."""
        known = token >= 0
        key = feature[known].astype(np.int64) * len(self.rows) + token[known]
        value = activation[known]
        self._parts.append((key, np.ones(len(key), np.int64), value, value))
        self._pending += len(key)
        if self._pending > PENDING:
            self._merge()

    def counts(self) -> RelationCounts:
        self._merge()
        pairs, fired, activation, strongest = self._parts[0]
        return RelationCounts(pairs, fired, activation, strongest, self.rows)

    def _merge(self) -> None:
        """Make one part of all, in which each pair comes once."""
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
        keys, fired, activation, largest = (
            np.concatenate(part) for part in zip(empty, *self._parts, strict=True)
        )
        pairs, index = np.unique(keys, return_inverse=True)
        # Counts are whole numbers below 2^53: float64 adds them exactly.
        total, mass = (np.bincount(index, weight, len(pairs)) for weight in (fired, activation))
        strongest = np.zeros(len(pairs))
        np.maximum.at(strongest, index, largest)
        self._parts = [(pairs, total.astype(np.int64), mass, strongest)]
        self._pending = 0
