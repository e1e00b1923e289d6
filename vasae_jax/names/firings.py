"""The firings of features on a split's rows: at which token, and before which."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.dictionary.claims import NO_NAME
from vasae_jax.stream.order import goes_on, next_tokens

MAX_ROWS = 2**18
"""About how many rows of a split are observed; each takes 24 k bytes."""


class Firings(NamedTuple):
    """Every time a feature fires on an unmasked row of a split; arrays [n]."""

    feature: np.ndarray
    activation: np.ndarray
    """float32, above 0"""
    token: np.ndarray
    """the row's token"""
    next_token: np.ndarray
    """the token after it in its window, -1 at a window's end"""
    row: np.ndarray
    """the row's index in the split"""

    def of(self, features: np.ndarray) -> "Firings":
        """The firings of some features, a mask [F]."""
        chosen = features[self.feature]
        return Firings(*(array[chosen] for array in self))


class RowTokens(NamedTuple):
    """The tokens of a split's rows, and which rows were observed; arrays [rows of the split]."""

    window: np.ndarray
    """int32, the index of the row's window"""
    token: np.ndarray
    """int32, the row's token"""
    next_token: np.ndarray
    """int32, the token after it in its window, -1 at a window's end"""
    observed: np.ndarray
    """bool, whether the row is unmasked and its firings were kept"""


class FiringObserver:
    """An observer of ``evaluate_run`` that keeps what fires on a split's rows.

    It must see the batches in storage order. Of a long split it keeps every n-th batch alone, so
    memory stays bounded.
    """

    def __init__(self, cache: Cache, split: str, max_rows: int = MAX_ROWS) -> None:
        """Observe about ``max_rows`` rows of ``split``, or all of them if there are fewer.

        Raises:
            UserError: the cache lacks the split, or a column is damaged.
        """
        rows = cache.rows(split)
        token = cache.column("tokens", split).read(0, rows)
        positions = cache.column("positions", split).read(0, rows)
        first = np.r_[True, ~goes_on(positions)][:rows]
        self._tokens = RowTokens(
            window=np.cumsum(first, dtype=np.int32),
            token=token,
            next_token=next_tokens(token, positions),
            observed=np.zeros(rows, bool),
        )
        self._every = max(1, -(-rows // max(1, max_rows)))
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._batches = 0
        self.seen = np.zeros(rows, bool)
        """bool [rows of the split], the rows of the observed batches, masked ones too."""
        self.rows = 0
        """Unmasked rows observed so far."""
        self.documents = len(np.unique(cache.column("docs", split).read(0, rows)))
        """Documents of the split."""

    def __call__(self, start: int, keep: np.ndarray, values: np.ndarray, ids: np.ndarray) -> None:
        """Keep what fires (``values`` above 0) on the rows of a batch where ``keep`` is True."""
        self._batches += 1
        if (self._batches - 1) % self._every:
            return
        self.rows += int(keep.sum())
        self.seen[start : start + len(keep)] = True
        self._tokens.observed[np.flatnonzero(keep) + start] = True
        index, column = np.nonzero((values > 0) & keep[:, None])
        row, tokens = index + start, self._tokens
        active = ids[index, column], values[index, column]
        self._parts.append((*active, tokens.token[row], tokens.next_token[row], row))

    def row_tokens(self) -> RowTokens:
        """The split's tokens, and which rows were observed."""
        return self._tokens

    def firings(self) -> Firings:
        """All firings kept so far."""
        kinds = (np.int32, np.float32, np.int32, np.int32, np.int64)
        empty = tuple(np.zeros(0, kind) for kind in kinds)
        parts = zip(empty, *self._parts, strict=True)
        return Firings(*(np.concatenate(part) for part in parts))


class SharesByRelation(NamedTuple):
    """Shares of features' activation, float64 [F] or [n, V], in the order of RELATIONS.

    A feature that never fires has shares of 0.
    """

    at: np.ndarray
    """on the rows of a token"""
    before: np.ndarray
    """on the rows whose next token it is"""


def token_shares(firings: Firings, features: Sequence[int], vocab_size: int) -> SharesByRelation:
    """The share of each of ``features``' activation by token, [n, V]."""

    def shares(tokens: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(features), vocab_size))
        for index, feature in enumerate(features):
            fired = (firings.feature == feature) & (tokens >= 0)
            sums[index] = np.bincount(tokens[fired], firings.activation[fired], vocab_size)
        return share_of(sums, sums.sum(axis=1)[:, None])

    return SharesByRelation(shares(firings.token), shares(firings.next_token))


def top_tokens(shares: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The ``count`` tokens with the largest ``shares`` [V] of one feature, those above 0 only."""
    order = np.argsort(-shares, kind="stable")[:count]
    return [(int(token), float(shares[token])) for token in order if shares[token] > 0]


def name_hold(firings: Firings, names: np.ndarray) -> SharesByRelation:
    """The share of each feature's activation that its ``names`` (ids [F, m]) hold; [F].

    A name holds the activation of the rows that have its relation to the name. The baseline to
    compare it with is :func:`shuffled_hold`.
    """
    total = activation_sums(firings, len(names))

    def hold(tokens: np.ndarray) -> np.ndarray:
        named = (names[firings.feature] == tokens[:, None]).any(axis=1) & (tokens >= 0)
        return share_of(activation_sums(firings, len(names), named), total)

    return SharesByRelation(hold(firings.token), hold(firings.next_token))


def shuffled_hold(firings: Firings, names: np.ndarray) -> SharesByRelation:
    """What :func:`name_hold` gives on average with another firing feature's names; [F].

    This is the exact mean over all ways to give every firing feature the names of another one.
    """
    fires = np.bincount(firings.feature, minlength=len(names)) > 0
    total = activation_sums(firings, len(names))
    largest = max(array.max(initial=0) for array in (names, firings.token, firings.next_token))
    of_firing = names[fires].reshape(-1)
    bearers = np.bincount(of_firing[of_firing != NO_NAME], minlength=largest + 1)

    def hold(tokens: np.ndarray) -> np.ndarray:
        named = (names[firings.feature] == tokens[:, None]).any(axis=1) & (tokens >= 0)
        others = np.where(tokens >= 0, bearers[tokens], 0) - named
        sums = np.bincount(firings.feature, firings.activation * others, len(names))
        return share_of(sums, total) / max(int(fires.sum()) - 1, 1)

    return SharesByRelation(hold(firings.token), hold(firings.next_token))


def activation_sums(
    firings: Firings, features: int, chosen: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """float64 [F], the sum of each feature's activation, over all firings or those ``chosen``."""
    return np.bincount(firings.feature[chosen], firings.activation[chosen], features)


def share_of(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """``part / total``, and ``part`` (which is then 0) where the total is 0."""
    share: np.ndarray = part / np.where(total == 0, 1, total)
    return share
