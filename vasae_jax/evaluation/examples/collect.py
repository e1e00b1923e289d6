"""Examples out of a stream of batches: the strongest firings, a sample, a histogram."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.cache import Cache


class Candidates(NamedTuple):
    """Firings that may be kept; arrays [n]."""

    feature: np.ndarray
    score: np.ndarray
    """float64"""
    value: np.ndarray
    """float32, the activation"""
    row: np.ndarray
    """int64, the row's place in the split"""


class BestFirings:
    """For each of F features its n best firings, best first; equal scores go to the earlier row.

    With the activation as the score these are the strongest firings. With a pseudorandom score
    they are a sample in which every firing is as likely as any other, however many there are.
    Both depend on neither the order nor the batches in which firings come.

    Attributes:
        fields: ``score`` float64 [F, n], -inf where there are fewer; ``value`` float32 [F, n];
            ``row`` int64 [F, n], -1 where there are fewer; ``shade`` float16 [F, n, width].
    """

    def __init__(self, features: int, count: int, width: int) -> None:
        self.count = count
        self.fields: dict[str, np.ndarray] = {
            "score": np.full((features, count), -np.inf),
            "value": np.zeros((features, count), np.float32),
            "row": np.full((features, count), -1, np.int64),
            "shade": np.zeros((features, count, width), np.float16),
        }

    def select(self, candidates: Candidates) -> np.ndarray:
        """Places of the candidates that will be kept, at most ``count`` of a feature.

        Candidates are in the order of their rows, and follow all that were put in before.
        """
        score, feature = candidates.score, candidates.feature
        better = np.flatnonzero(score > self.fields["score"][feature, -1])
        order = better[np.lexsort((-score[better], feature[better]))]
        return order[_rank(feature[order]) < self.count]

    def put(self, firings: Candidates, shade: np.ndarray) -> None:
        """Keep what ``select`` chose, in that order, with its ``shade`` [n, width]."""
        touched, line = np.unique(firings.feature, return_inverse=True)
        place = line, _rank(firings.feature)
        new = {"score": firings.score, "value": firings.value, "row": firings.row, "shade": shade}
        both = {
            name: np.concatenate([kept[touched], _table(new[name], place, kept[touched])], axis=1)
            for name, kept in self.fields.items()
        }
        order = np.argsort(-both["score"], axis=1, kind="stable")[:, : self.count]
        for name, kept in self.fields.items():
            kept[touched] = both[name][np.arange(len(touched))[:, None], order]


def _rank(feature: np.ndarray) -> np.ndarray:
    """The place of each line among those of its feature; lines of a feature lie together."""
    lines = np.arange(len(feature))
    new = np.r_[True, feature[1:] != feature[:-1]][: len(feature)]
    first = np.maximum.accumulate(np.where(new, lines, 0))
    return lines - first


def _table(
    values: np.ndarray, place: tuple[np.ndarray, np.ndarray], like: np.ndarray
) -> np.ndarray:
    """``values`` laid out by feature as ``like`` is; -inf where a feature has fewer."""
    empty = -np.inf if like.dtype == np.float64 else -1 if like.dtype == np.int64 else 0
    table = np.full(like.shape, empty, like.dtype)
    table[place] = values
    return table


def sampling_score(feature: np.ndarray, row: np.ndarray) -> np.ndarray:
    """A pseudorandom float64 in [0, 1) for each pair of ``feature`` and ``row`` [n].

    SplitMix64 (Steele, Lea and Flood 2014) hashes the pair, so a sample does not depend on the
    order in which firings come.
    """
    x = row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + feature.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


class ByPosition(NamedTuple):
    """Reconstruction by position in the window: sums over unmasked rows, float64 [T] or [T, d]."""

    rows: np.ndarray
    error: np.ndarray
    """sum of |x - x_hat|^2"""
    square: np.ndarray
    """sum of |x|^2"""
    total: np.ndarray
    """[T, d], sum of x"""

    def add(self, position: np.ndarray, x: np.ndarray, error: np.ndarray) -> None:
        """Add rows ``x`` [n, d] at ``position`` [n] with their squared ``error`` [n]."""
        length, wide = len(self.rows), x.astype(np.float64)
        self.rows[:] += np.bincount(position, minlength=length)
        self.error[:] += np.bincount(position, error.astype(np.float64), length)
        self.square[:] += np.bincount(position, np.square(wide).sum(axis=1), length)
        np.add.at(self.total, position, wide)

    def fvu(self) -> np.ndarray:
        """[T], squared error over squared distance to the mean of all rows; nan without rows."""
        mean = self.total.sum(axis=0) / max(self.rows.sum(), 1)
        spread = self.square - 2 * self.total @ mean + self.rows * float(mean @ mean)
        defined = (self.rows > 0) & (spread > 0)
        fvu: np.ndarray = np.divide(
            self.error, spread, out=np.full(len(spread), np.nan), where=defined
        )
        return fvu


BEFORE, AFTER = 15, 8
"""Rows on either side of a firing whose activation is kept with it."""
WIDTH = BEFORE + 1 + AFTER
TOP, SAMPLE = 8, 32
"""Strongest firings kept of a feature, and firings sampled."""
EDGES = 2.0 ** np.arange(-8.0, 12.5, 0.5)
"""Edges of the histogram of activations; the first and last bin take what lies beyond."""
_AT_ONCE = 4096  # firings whose neighbours are looked up at once

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of some rows: whether each counts bool [n], activations [n, k], features [n, k]."""


class Collector:
    """Gathers examples of F features from the rows of a split, in storage order.

    Memory is bounded: a feature takes 2.9 kB, however many rows there are. A row is processed
    when the ``AFTER`` rows that follow it are known, so results do not depend on batches.

    Attributes:
        top, sample: the strongest firings, and a random sample of them.
        histogram: int64 [F, bins], firings by activation.
    """

    def __init__(self, features: int, max_active: int) -> None:
        """Of ``features`` features, with at least ``max_active`` activations a row to come."""
        self.top, self.sample = (BestFirings(features, count, WIDTH) for count in (TOP, SAMPLE))
        self.histogram = np.zeros((features, len(EDGES) - 1), np.int64)
        self._pending: Parts = (
            np.zeros(0, bool),
            np.zeros((0, max_active), np.float32),
            np.zeros((0, max_active), np.int32),
        )
        self._first = self._processed = 0  # place of the pending rows; how many are processed

    def add(self, keep: np.ndarray, values: np.ndarray, ids: np.ndarray) -> None:
        """Take the next rows: ``keep`` bool [n], activations and features [n, K].

        K may grow: the pending rows then get columns in which nothing fires.
        """
        mask, *active = self._pending
        columns = ((0, 0), (0, max(0, values.shape[1] - active[0].shape[1])))
        pending = (mask, *(np.pad(part, columns) for part in active))
        parts = zip(pending, (keep, values, ids), strict=True)
        a, b, c = (np.concatenate(pair) for pair in parts)
        self._pending = (a, b, c)
        self._process(len(a) - AFTER)

    def finish(self) -> None:
        """Process the last rows; nothing may be added after it."""
        self._process(len(self._pending[0]))

    def _process(self, stop: int) -> None:
        if stop <= self._processed:
            return
        keep, values, ids = self._pending
        rows = slice(self._processed, stop)
        line, column = np.nonzero((values[rows] > 0) & keep[rows, None])
        line += self._processed
        self._record(ids[line, column], values[line, column], line)
        drop = max(stop - BEFORE, 0)
        self._pending = (keep[drop:], values[drop:], ids[drop:])
        self._first, self._processed = self._first + drop, stop - drop

    def _record(self, feature: np.ndarray, value: np.ndarray, line: np.ndarray) -> None:
        bins = np.clip(np.searchsorted(EDGES, value, "right") - 1, 0, len(EDGES) - 2)
        np.add.at(self.histogram, (feature, bins), 1)
        row = line.astype(np.int64) + self._first
        for best, score in (
            (self.top, value.astype(np.float64)),
            (self.sample, sampling_score(feature, row)),
        ):
            candidates = Candidates(feature, score, value, row)
            chosen = best.select(candidates)
            if len(chosen):
                kept = Candidates(*(part[chosen] for part in candidates))
                best.put(kept, self._shade(line[chosen], kept.feature))

    def _shade(self, line: np.ndarray, feature: np.ndarray) -> np.ndarray:
        """The activation of ``feature`` on the rows around ``line``; float16 [n, WIDTH]."""
        keep, values, ids = self._pending
        out = np.zeros((len(line), WIDTH), np.float16)
        for at in range(0, len(line), _AT_ONCE):
            part = slice(at, at + _AT_ONCE)
            near = line[part, None] + np.arange(-BEFORE, AFTER + 1)[None, :]
            inside = (near >= 0) & (near < len(keep))
            near = np.clip(near, 0, len(keep) - 1)
            same = ids[near] == feature[part, None, None]
            value = np.where(same, values[near], 0).max(axis=2)
            out[part] = np.where(inside & keep[near], np.clip(value, 0, 65504), 0)
        return out

    def state(self) -> dict[str, np.ndarray]:
        """What :meth:`load` needs to continue, as arrays by name."""
        names = ("keep", "values", "ids")
        return {
            "histogram": self.histogram,
            "place": np.array([self._first, self._processed]),
            **dict(zip(names, self._pending, strict=True)),
            **{f"top_{name}": array for name, array in self.top.fields.items()},
            **{f"sample_{name}": array for name, array in self.sample.fields.items()},
        }

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what :meth:`state` gave."""
        self.histogram = state["histogram"]
        self._first, self._processed = (int(number) for number in state["place"])
        self._pending = (state["keep"], state["values"], state["ids"])
        for name, best in (("top", self.top), ("sample", self.sample)):
            best.fields = {field: state[f"{name}_{field}"] for field in best.fields}


QUANTILES = 8
"""Examples shown of the sample, evenly spaced by activation from the strongest to the weakest."""
SHOWN = TOP + QUANTILES
BLOCK = 4096
"""Features whose text is read at once."""


@dataclass(frozen=True)
class Examples:
    """Examples of F features: the TOP strongest, then QUANTILES by quantile; n = SHOWN of each.

    Where a feature fires less often, ``value`` is 0 and ``tokens`` are -1.
    """

    tokens: np.ndarray
    """int32 [F, n, WIDTH], -1 beyond the window; the firing token is at place BEFORE"""
    shade: np.ndarray
    """float16 [F, n, WIDTH], the feature's activation at each"""
    value: np.ndarray
    """float32 [F, n], its activation at the firing token"""
    quantile: np.ndarray
    """float32 [F, n], the quantile of that value; 1 for the strongest"""


def examples(top: BestFirings, sample: BestFirings, cache: Cache, split: str) -> Examples:
    """The firings that were kept, with the text around them.

    Raises:
        UserError: a column of the cache is damaged.
    """
    places, quantile = _by_quantile(sample)
    line = np.arange(len(places))[:, None]
    rows, value, shade = (
        np.concatenate([top.fields[name], sample.fields[name][line, places]], axis=1, dtype=kind)
        for name, kind in (("row", np.int64), ("value", np.float32), ("shade", np.float16))
    )
    ones = np.ones((len(rows), TOP), np.float32)
    tokens = _tokens(rows, cache, split)
    shade = np.where(tokens >= 0, shade, np.float16(0))
    return Examples(tokens, shade, value, np.concatenate([ones, quantile], axis=1))


def _by_quantile(sample: BestFirings) -> tuple[np.ndarray, np.ndarray]:
    """Places in the sample and their quantiles [F, QUANTILES], the strongest first.

    Of a smaller sample all firings come first, and then empty places.
    """
    value = sample.fields["value"]
    filled = sample.fields["row"] >= 0
    count = filled.sum(axis=1, keepdims=True)
    order = np.argsort(np.where(filled, -value, np.inf), axis=1, kind="stable")
    step = np.arange(QUANTILES)[None, :]
    few = count <= QUANTILES
    rank = np.where(few, step, ((2 * step + 1) * count) // (2 * QUANTILES))
    rank = np.minimum(rank, value.shape[1] - 1)
    quantile = 1 - (rank + 0.5) / np.maximum(count, 1)
    return np.take_along_axis(order, rank, axis=1), np.clip(quantile, 0, 1).astype(np.float32)


def _tokens(rows: np.ndarray, cache: Cache, split: str) -> np.ndarray:
    """The tokens around ``rows`` int64 [F, n], -1 where they are of another window; see Examples.

    A row lies in the same window if its position differs by as much as its place does.
    """
    count = cache.rows(split)
    tokens = cache.column("tokens", split).read(0, count)
    positions = cache.column("positions", split).read(0, count)
    offsets = np.arange(-BEFORE, AFTER + 1)
    out = np.full((*rows.shape, len(offsets)), -1, np.int32)
    for at in range(0, len(rows), BLOCK):
        part = rows[at : at + BLOCK, :, None]
        near = part + offsets
        inside = (part >= 0) & (near >= 0) & (near < count)
        near = np.clip(near, 0, count - 1)
        at_row, at_near = positions[np.clip(part, 0, None)], positions[near]
        # A row of a negative position stands alone.
        same = (at_near - at_row == offsets) & (at_row >= 0) & (at_near >= 0) | (offsets == 0)
        out[at : at + BLOCK] = np.where(inside & same, tokens[near], -1)
    return out
