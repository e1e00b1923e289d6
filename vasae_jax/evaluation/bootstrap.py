"""Intervals by bootstrap over documents, from sums by document.

Rows of one document are alike, so documents are what is drawn: G of G with replacement, ``DRAWS``
times, with a fixed seed (Efron and Tibshirani 1993, chapter 6). A draw is G weights, how often it
has each document. Figures are functions of sums by document, so that no row is read twice. More
than ``GROUPS`` documents are put into as many groups, which are then drawn in their place: groups
of documents are independent too, and the sums stay small.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.dictionary.claims import AT
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.firings import Firings, share_of
from vasae_jax.stream.source import Batch

DRAWS = 1000
"""How often documents are drawn."""
TAIL = 2.5
"""Percent of the draws below an interval, and above it."""
GROUPS = 200
"""Groups at most that documents are put into: the n-th goes into group n modulo this."""
BLOCK = 50
"""Draws that are worked on at once."""
SEED = 0

Measure = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""From weights float64 [n, G] of documents to figures by name, float64 [n]; NaN where a figure
is undefined."""


@dataclass(frozen=True)
class Figure:
    """A figure and its 95% interval; None where it cannot be told."""

    value: float | None
    low: float | None
    high: float | None


def draw_weights(groups: int) -> np.ndarray:
    """How often each of ``groups`` is drawn, float64 [DRAWS, groups]; the same every time."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(groups, np.full(groups, 1 / groups), DRAWS).astype(np.float64)


def figures(measure: Measure, groups: int) -> dict[str, Figure]:
    """Every figure of ``measure`` over all ``groups`` of documents, with its interval.

    A draw has about 63% of the documents, so a feature that fires in few of them is often dead in
    it, and every figure that depends on such features is shifted. That shift is taken off:
    an interval runs between the 2.5th and the 97.5th percentile of the draws, less their mean, plus
    the figure.
    """
    values = measure(np.ones((1, groups)))
    weights = draw_weights(groups)
    blocks = [measure(weights[start : start + BLOCK]) for start in range(0, DRAWS, BLOCK)]
    return {
        name: _figure(float(value[0]), np.concatenate([block[name] for block in blocks]))
        for name, value in values.items()
    }


def _figure(value: float, draws: np.ndarray) -> Figure:
    """A figure by its value and its draws; draws of a single document are all alike."""
    if not np.isfinite(value):
        return Figure(None, None, None)
    draws = draws[np.isfinite(draws)]
    if not len(draws) or np.ptp(draws) == 0:
        return Figure(value, None, None)
    low, high = np.percentile(draws, (TAIL, 100 - TAIL)) - draws.mean() + value
    return Figure(value, float(low), float(high))


def bounded(figure: Figure, least: float = 0.0) -> Figure:
    """``figure`` with an interval that begins at ``least`` or above: no share is below 0."""
    return figure if figure.low is None else replace(figure, low=max(figure.low, least))


class DocumentSums:
    """Sums over a split's unmasked rows by document (or group of them), added batch by batch.

    Squared distances are from the mean of the first batch, which is near that of all rows: sums
    lose no digits to rows that lie far from the origin.
    """

    def __init__(self, docs: np.ndarray) -> None:
        """Begin without a row; ``docs`` int [rows of the split] are the rows' documents."""
        self.documents, index = np.unique(docs, return_inverse=True)
        self.group = index % GROUPS
        """int [rows of the split], the group of each row's document"""
        self._rows, self._squares, self._errors, self._token_errors = np.zeros((4, len(self)))
        self._offset: np.ndarray | None = None
        self._sums = np.zeros((len(self), 0))

    @classmethod
    def of(cls, cache: Cache, split: str) -> Self:
        """Sums over a split of ``cache``; UserError where it is missing or damaged."""
        return cls(cache.column("docs", split).read(0, cache.rows(split)))

    def __len__(self) -> int:
        """How many groups there are: as many as documents, up to GROUPS."""
        return min(len(self.documents), GROUPS)

    def add(
        self, batch: Batch, keep: np.ndarray, error: np.ndarray, token_error: np.ndarray | None
    ) -> None:
        """Add the rows of ``batch`` where ``keep`` [B] is True.

        ``error`` [B] is their |x - x_hat|^2, and ``token_error`` [B] that of their tokens' means.
        """
        if not keep.any():
            return
        x = batch.x[keep].astype(np.float32)
        if self._offset is None:
            self._offset = x.mean(axis=0, dtype=np.float64).astype(np.float32)
            self._sums = np.zeros((len(self), x.shape[1]))
        x -= self._offset
        group = np.searchsorted(self.documents, batch.docs[keep]) % GROUPS
        self._rows += self._by_group(group)
        self._squares += self._by_group(group, np.einsum("nd,nd->n", x, x))
        self._errors += self._by_group(group, error[keep])
        left = np.full(len(group), np.nan) if token_error is None else token_error[keep]
        self._token_errors += self._by_group(group, left)
        order = np.argsort(group, kind="stable")
        present, starts = np.unique(group[order], return_index=True)
        self._sums[present] += np.add.reduceat(x[order], starts, axis=0, dtype=np.float64)

    def _by_group(self, group: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        sums: np.ndarray = np.bincount(group, values, len(self))
        return sums

    def explained(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Variance explained, and that within tokens, for each of ``weights`` [n, G]."""
        rows, squares, errors = (
            weights @ sums for sums in (self._rows, self._squares, self._errors)
        )
        sums = weights @ self._sums
        spread = squares - np.square(sums).sum(axis=1) / np.maximum(rows, 1)
        return {
            "variance_explained": 1 - ratio(errors, spread),
            "variance_explained_within_tokens": 1 - ratio(errors, weights @ self._token_errors),
        }


class NameSums:
    """Sums by document and feature: of its activation, and of that at (or before) its names."""

    def __init__(
        self, firings: Firings, names: LayerNames, norms: np.ndarray, documents: DocumentSums
    ) -> None:
        """Sum over firings of a split.

        Args:
            firings: on rows of the split.
            names: of the features; -1 is no name.
            norms: [F], of the decoder rows.
            documents: of the split.
        """
        features, self._norms = len(names.ids), norms
        is_at = names.relation[firings.feature] == AT
        token = np.where(is_at, firings.token, firings.next_token)
        is_name = (names.ids[firings.feature] == token[:, None]) & (token >= 0)[:, None]
        is_named = is_name.any(axis=1)
        fires = np.bincount(firings.feature, minlength=features) > 0
        self._others = max(int(fires.sum()) - 1, 1)
        place = documents.group[firings.row] * features + firings.feature
        size = len(documents) * features

        def sums(share: np.ndarray) -> np.ndarray:
            """Summed activation, of which ``share`` [n] counts; [G, F]."""
            values: np.ndarray = np.bincount(place, firings.activation * share, size)
            return values.reshape(-1, features)

        self._total, self._first = sums(np.ones(len(token))), sums(is_name[:, 0])
        self._named = sums(is_named)
        self._shuffled = sums(_bearers(names.ids[fires], token) - is_named)

    def measure(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The figures of names for each of ``weights`` [n, G] of documents; [n] each.

        They are means over the features that fire on a document with a weight.
        """
        total, first, named, shuffled = (
            weights @ sums for sums in (self._total, self._first, self._named, self._shuffled)
        )
        firing, features = np.count_nonzero(total, axis=1), total.shape[1]
        held = share_of(named, total).sum(axis=1)
        return {
            "dead": 1 - firing / features,
            "hold1": ratio(share_of(first, total).sum(axis=1), firing),
            "hold10": ratio(held, firing),
            "hold10_dead_as_0": held / features,
            "mass10": ratio(named @ self._norms, total @ self._norms),
            "shuffled10": ratio(share_of(shuffled, total).sum(axis=1), firing * self._others),
        }


def _bearers(names: np.ndarray, token: np.ndarray) -> np.ndarray:
    """How many of the features with ``names`` [n, m] have each of ``token`` for a name; -1: none.

    The names of a feature differ from one another.
    """
    known = names[names >= 0]
    size = int(max(known.max(initial=0), token.max(initial=0))) + 1
    bearers = np.bincount(known, minlength=size)
    return np.where(token >= 0, bearers[token], 0)


def ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """``part / total``, NaN where the total is not above 0."""
    out = np.full(np.broadcast_shapes(part.shape, total.shape), np.nan)
    result: np.ndarray = np.divide(part, total, out=out, where=total > 0)
    return result
