"""Where features fire: the tokens they fire at, and the tokens that come next.

A name says where a direction points among the embeddings. Whether a feature fires where its
name is at hand is another question, and these counts let a reader look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.stream import next_tokens

ROWS = 2**18
"""Rows of a split over which it is watched what fires, about; k of 24 bytes are kept of each."""


class Firings(NamedTuple):
    """Every time a feature fires on an unmasked row of a split; arrays [n]."""

    feature: np.ndarray
    activation: np.ndarray
    """float32, above 0"""
    token: np.ndarray
    """the row's token"""
    following: np.ndarray
    """the token after it in its window, -1 at a window's end"""
    row: np.ndarray
    """the row's place in the split"""

    def of(self, features: np.ndarray) -> "Firings":
        """Those of some features, a mask [F]."""
        mine = features[self.feature]
        return Firings(*(part[mine] for part in self))


class Watched(NamedTuple):
    """The rows of a split over which firings were watched; arrays [rows of the split]."""

    window: np.ndarray
    """int32, a number for each window of the text"""
    at: np.ndarray
    """int32, the row's token"""
    before: np.ndarray
    """int32, the token after it in its window, -1 at a window's end"""
    seen: np.ndarray
    """bool, whether the row is unmasked and was watched"""


@dataclass(frozen=True)
class Contexts:
    """Of some features' activation over a split, the share at each token.

    Attributes:
        at: float64 [n, V], share at rows of each token.
        before: float64 [n, V], share at rows that each token follows in the same window.
    """

    at: np.ndarray
    before: np.ndarray


@dataclass(frozen=True)
class Hold:
    """Of each feature's activation, the share where one of its names is at hand, float64 [F].

    Features that never fire have 0.
    """

    at: np.ndarray
    """at rows whose token is one of the feature's names"""
    before: np.ndarray
    """at rows that one of the feature's names follows"""


class Watch:
    """Gathers firings from batches in storage order; an observer of ``evaluate``.

    Of a long split only every n-th batch is kept, so that memory stays bounded.
    """

    def __init__(self, cache: Cache, split: str, most_rows: int) -> None:
        """Watch about ``most_rows`` rows of ``split``, or all of them if there are fewer.

        Raises:
            UserError: the cache lacks the split, or a column is damaged.
        """
        rows = cache.rows(split)
        self._tokens = cache.column("tokens", split).read(0, rows)
        positions = cache.column("positions", split).read(0, rows)
        self._following = next_tokens(self._tokens, positions)
        self._window = np.cumsum(
            np.r_[True, positions[1:] != positions[:-1] + 1][:rows], dtype=np.int32
        )
        self._seen = np.zeros(rows, bool)
        self._every = max(1, -(-rows // max(1, most_rows)))
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._batches = 0
        self.rows = 0
        """Unmasked rows watched so far."""

    def __call__(self, start: int, keep: np.ndarray, values: np.ndarray, ids: np.ndarray) -> None:
        """Keep what fires (``values`` above 0) on the rows of a batch where ``keep`` is True."""
        self._batches += 1
        if (self._batches - 1) % self._every:
            return
        self.rows += int(keep.sum())
        self._seen[np.flatnonzero(keep) + start] = True
        row, slot = np.nonzero((values > 0) & keep[:, None])
        place = row + start
        found = ids[row, slot], values[row, slot], self._tokens[place], self._following[place]
        self._parts.append((*found, place))

    def watched(self) -> Watched:
        """The rows that were watched."""
        return Watched(self._window, self._tokens, self._following, self._seen)

    def firings(self) -> Firings:
        """Everything kept so far."""
        kinds = (np.int32, np.float32, np.int32, np.int32, np.int64)
        empty = tuple(np.zeros(0, kind) for kind in kinds)
        parts = zip(empty, *self._parts, strict=True)
        return Firings(*(np.concatenate(part) for part in parts))


def contexts(found: Firings, features: Sequence[int], vocab_size: int) -> Contexts:
    """The activation of ``features`` by token."""
    at, before = np.zeros((2, len(features), vocab_size))
    for place, feature in enumerate(features):
        mine = found.feature == feature
        weight, following = found.activation[mine], found.following[mine]
        at[place] = np.bincount(found.token[mine], weight, vocab_size)
        known = following >= 0
        before[place] = np.bincount(following[known], weight[known], vocab_size)
    return Contexts(_shares(at), _shares(before))


def name_hold(found: Firings, names: np.ndarray) -> Hold:
    """How much of each feature's activation its ``names`` (ids [F, m]) are at hand for.

    The baseline to compare with is :func:`shuffled_hold`.
    """
    features = len(names)
    total = np.bincount(found.feature, found.activation, features)

    def share(tokens: np.ndarray) -> np.ndarray:
        named = (names[found.feature] == tokens[:, None]).any(axis=1)
        held = np.bincount(found.feature[named], found.activation[named], features)
        return held / np.where(total == 0, 1, total)

    return Hold(share(found.token), share(found.following))


def shuffled_hold(found: Firings, names: np.ndarray) -> Hold:
    """What :func:`name_hold` gives on average with another firing feature's names; [F].

    This is the mean over all ways to deal the names of firing features out anew in which no
    feature gets its own, worked out and not drawn.
    """
    features = len(names)
    fires = np.bincount(found.feature, minlength=features) > 0
    total = np.bincount(found.feature, found.activation, features)
    largest = max(names.max(initial=0), found.token.max(initial=0), found.following.max(initial=0))
    bearers = np.bincount(names[fires].reshape(-1), minlength=largest + 1)

    def share(tokens: np.ndarray) -> np.ndarray:
        own = (names[found.feature] == tokens[:, None]).any(axis=1)
        others = np.where(tokens >= 0, bearers[tokens], 0) - own
        held = np.bincount(found.feature, found.activation * others, features)
        return held / np.where(total == 0, 1, total) / max(int(fires.sum()) - 1, 1)

    return Hold(share(found.token), share(found.following))


def largest(shares: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The ``count`` tokens with the largest ``shares`` [V] of one feature, those above 0 only."""
    order = np.argsort(-shares, kind="stable")[:count]
    return [(int(token), float(shares[token])) for token in order if shares[token] > 0]


def _shares(sums: np.ndarray) -> np.ndarray:
    total = sums.sum(axis=1, keepdims=True)
    return sums / np.where(total == 0, 1, total)
