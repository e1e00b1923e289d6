"""Examples out of a stream of batches: the strongest firings, a sample, a histogram."""

from collections.abc import Mapping

import numpy as np

from vasae_jax.evaluation.examples.best import Best, Offers
from vasae_jax.evaluation.examples.chance import chance

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
