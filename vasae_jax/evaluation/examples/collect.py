"""Examples out of a stream of batches: the strongest firings, a sample, a histogram."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.cache import Cache

# The firings of every feature with the largest scores, kept while firings stream by.
#
# With the activation as the score these are the strongest firings. With a number that chance
# gives each firing they are a sample in which every firing is as likely as any other, whatever
# their number: a reservoir. Both depend on neither the order nor the batches that firings come in.


class Offers(NamedTuple):
    """Firings that may be kept; arrays [n]."""

    feature: np.ndarray
    score: np.ndarray
    """float64"""
    value: np.ndarray
    """float32, the activation"""
    row: np.ndarray
    """int64, the row's place in the split"""

    def some(self, places: np.ndarray) -> "Offers":
        """Those at ``places``."""
        return Offers(*(part[places] for part in self))


class Best:
    """For each of F features its n best firings, best first; equal scores go to the earlier row.

    Attributes:
        fields: ``score`` float64 [F, n], -inf where fewer were met; ``value`` float32 [F, n];
            ``row`` int64 [F, n], -1 where fewer were met; ``shade`` float16 [F, n, width].
    """

    def __init__(self, features: int, count: int, width: int) -> None:
        self.count = count
        self.fields: dict[str, np.ndarray] = {
            "score": np.full((features, count), -np.inf),
            "value": np.zeros((features, count), np.float32),
            "row": np.full((features, count), -1, np.int64),
            "shade": np.zeros((features, count, width), np.float16),
        }

    def wanted(self, offers: Offers) -> np.ndarray:
        """Places of the offers that will be kept, at most ``count`` of a feature.

        Offers are in the order of their rows, and follow all that were put in before.
        """
        able = np.flatnonzero(offers.score > self.fields["score"][offers.feature, -1])
        order = able[np.lexsort((-offers.score[able], offers.feature[able]))]
        return order[_rank(offers.feature[order]) < self.count]

    def put(self, offers: Offers, shade: np.ndarray) -> None:
        """Keep what ``wanted`` chose, in that order, with its ``shade`` [n, width]."""
        touched, line = np.unique(offers.feature, return_inverse=True)
        place = line, _rank(offers.feature)
        new = {"score": offers.score, "value": offers.value, "row": offers.row, "shade": shade}
        both = {
            name: np.concatenate([kept[touched], _table(new[name], place, kept[touched])], axis=1)
            for name, kept in self.fields.items()
        }
        order = np.argsort(-both["score"], axis=1, kind="stable")[:, : self.count]
        for name, kept in self.fields.items():
            kept[touched] = both[name][np.arange(len(touched))[:, None], order]

    def load(self, fields: Mapping[str, np.ndarray]) -> None:
        """Go on from ``fields`` that were saved."""
        self.fields = dict(fields)


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


# A number that chance gives to each pair of a feature and a row, the same every time.


def chance(feature: np.ndarray, row: np.ndarray) -> np.ndarray:
    """float64 [n] in [0, 1), from ``feature`` and ``row`` [n] alone.

    The mixing of SplitMix64 (Steele, Lea and Flood 2014) on the pair: no generator is drawn
    from, so a sample does not depend on the order in which firings are met.
    """
    x = row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + feature.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


# How well rows are reconstructed by their position in the window.


class ByPosition(NamedTuple):
    """Sums over the unmasked rows at each position, float64 [T] (or [T, d])."""

    rows: np.ndarray
    error: np.ndarray
    """sum of |x - x_hat|^2"""
    square: np.ndarray
    """sum of |x|^2"""
    total: np.ndarray
    """[T, d], sum of x"""

    @classmethod
    def zeros(cls, length: int, width: int) -> "ByPosition":
        """No rows yet."""
        rows, error, square = np.zeros((3, length))
        return cls(rows, error, square, np.zeros((length, width)))

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
        some = (self.rows > 0) & (spread > 0)
        fvu: np.ndarray = np.divide(
            self.error, spread, out=np.full(len(spread), np.nan), where=some
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

    Memory is bounded: a feature takes 2.9 kB, however many rows there are. Rows are settled
    once the ``AFTER`` rows that follow them are known, so results do not depend on batches.

    Attributes:
        top, sample: the strongest firings, and the sample, by its chance.
        histogram: int64 [F, bins], firings by activation.
    """

    def __init__(self, features: int, k: int) -> None:
        """Of ``features`` features, with at least ``k`` activations a row to come."""
        self.top, self.sample = (Best(features, count, WIDTH) for count in (TOP, SAMPLE))
        self.histogram = np.zeros((features, len(EDGES) - 1), np.int64)
        self._held: Parts = (
            np.zeros(0, bool),
            np.zeros((0, k), np.float32),
            np.zeros((0, k), np.int32),
        )
        self._first = self._new = 0  # the held rows' place in the split; those settled already

    def add(self, keep: np.ndarray, values: np.ndarray, ids: np.ndarray) -> None:
        """Take the next rows: ``keep`` bool [n], activations and features [n, k].

        k may grow: what is held then gets slots in which nothing fires.
        """
        wider = max(0, values.shape[1] - self._held[1].shape[1])
        slots = ((0, 0), (0, wider))
        self._held = (self._held[0], np.pad(self._held[1], slots), np.pad(self._held[2], slots))
        given = (keep, values, ids)
        a, b, c = (np.concatenate(pair) for pair in zip(self._held, given, strict=True))
        self._held = (a, b, c)
        self._settle(len(a) - AFTER)

    def finish(self) -> None:
        """Settle the last rows; nothing may be added after it."""
        self._settle(len(self._held[0]))

    def _settle(self, stop: int) -> None:
        if stop <= self._new:
            return
        keep, values, ids = self._held
        rows = slice(self._new, stop)
        line, slot = np.nonzero((values[rows] > 0) & keep[rows, None])
        line += self._new
        self._take(ids[line, slot], values[line, slot], line)
        drop = max(stop - BEFORE, 0)
        self._held = (keep[drop:], values[drop:], ids[drop:])
        self._first, self._new = self._first + drop, stop - drop

    def _take(self, feature: np.ndarray, value: np.ndarray, line: np.ndarray) -> None:
        bins = np.clip(np.searchsorted(EDGES, value, "right") - 1, 0, len(EDGES) - 2)
        np.add.at(self.histogram, (feature, bins), 1)
        row = line.astype(np.int64) + self._first
        for best, score in (
            (self.top, value.astype(np.float64)),
            (self.sample, chance(feature, row)),
        ):
            offers = Offers(feature, score, value, row)
            chosen = best.wanted(offers)
            if len(chosen):
                best.put(offers.some(chosen), self._shade(line[chosen], feature[chosen]))

    def _shade(self, line: np.ndarray, feature: np.ndarray) -> np.ndarray:
        """The activation of ``feature`` on the rows around ``line``; float16 [n, WIDTH]."""
        keep, values, ids = self._held
        out = np.zeros((len(line), WIDTH), np.float16)
        for at in range(0, len(line), _AT_ONCE):
            part = slice(at, at + _AT_ONCE)
            near = line[part, None] + np.arange(-BEFORE, AFTER + 1)[None, :]
            there = (near >= 0) & (near < len(keep))
            near = np.clip(near, 0, len(keep) - 1)
            own = ids[near] == feature[part, None, None]
            found = np.where(own, values[near], 0).max(axis=2)
            out[part] = np.where(there & keep[near], np.clip(found, 0, 65504), 0)
        return out

    def state(self) -> dict[str, np.ndarray]:
        """All that is needed to go on later, as arrays by name."""
        names = ("keep", "values", "ids")
        return {
            "histogram": self.histogram,
            "place": np.array([self._first, self._new]),
            **dict(zip(names, self._held, strict=True)),
            **{f"top_{name}": array for name, array in self.top.fields.items()},
            **{f"sample_{name}": array for name, array in self.sample.fields.items()},
        }

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what :meth:`state` gave."""
        self.histogram = state["histogram"]
        self._first, self._new = (int(number) for number in state["place"])
        self._held = (state["keep"], state["values"], state["ids"])
        for name, best in (("top", self.top), ("sample", self.sample)):
            best.load({field: state[f"{name}_{field}"] for field in best.fields})


# Examples as text: the tokens around each, from the same window.


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


def examples(top: Best, sample: Best, cache: Cache, split: str) -> Examples:
    """The firings that were kept, with the text around them.

    Raises:
        UserError: a column of the cache is damaged.
    """
    places, quantile = _by_quantile(sample)
    rows, value, shade = (
        np.concatenate([top.fields[name], _take(sample.fields[name], places)], axis=1, dtype=kind)
        for name, kind in (("row", np.int64), ("value", np.float32), ("shade", np.float16))
    )
    ones = np.ones((len(rows), TOP), np.float32)
    tokens = _tokens(rows, cache, split)
    shade = np.where(tokens >= 0, shade, np.float16(0))
    return Examples(tokens, shade, value, np.concatenate([ones, quantile], axis=1))


def _by_quantile(sample: Best) -> tuple[np.ndarray, np.ndarray]:
    """Places in the sample and their quantiles [F, QUANTILES], the strongest first.

    A feature with a smaller sample has some of its firings named once each, and then places
    that hold nothing.
    """
    value = sample.fields["value"]
    met = sample.fields["row"] >= 0
    count = met.sum(axis=1, keepdims=True)
    order = np.argsort(np.where(met, -value, np.inf), axis=1, kind="stable")
    step = np.arange(QUANTILES)[None, :]
    few = count <= QUANTILES
    rank = np.where(few, step, ((2 * step + 1) * count) // (2 * QUANTILES))
    rank = np.minimum(rank, value.shape[1] - 1)
    quantile = 1 - (rank + 0.5) / np.maximum(count, 1)
    return np.take_along_axis(order, rank, axis=1), np.clip(quantile, 0, 1).astype(np.float32)


def _take(field: np.ndarray, places: np.ndarray) -> np.ndarray:
    taken: np.ndarray = field[np.arange(len(field))[:, None], places]
    return taken


def _tokens(rows: np.ndarray, cache: Cache, split: str) -> np.ndarray:
    """The tokens around ``rows`` int64 [F, n], -1 where they are of another window; see Examples.

    A row lies in the same window if its position differs by as much as its place does.
    """
    whole = cache.rows(split)
    tokens = cache.column("tokens", split).read(0, whole)
    positions = cache.column("positions", split).read(0, whole)
    offsets = np.arange(-BEFORE, AFTER + 1)
    out = np.full((*rows.shape, len(offsets)), -1, np.int32)
    for at in range(0, len(rows), BLOCK):
        part = rows[at : at + BLOCK, :, None]
        near = part + offsets
        there = (part >= 0) & (near >= 0) & (near < whole)
        near = np.clip(near, 0, whole - 1)
        same = positions[near] - positions[np.clip(part, 0, None)] == offsets
        out[at : at + BLOCK] = np.where(there & same, tokens[near], -1)
    return out
