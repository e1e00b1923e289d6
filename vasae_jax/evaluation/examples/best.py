"""The firings of every feature with the largest scores, kept while firings stream by.

With the activation as the score these are the strongest firings. With a number that chance
gives each firing they are a sample in which every firing is as likely as any other, whatever
their number: a reservoir. Both depend on neither the order nor the batches that firings come in.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


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
