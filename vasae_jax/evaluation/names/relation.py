"""What every relation between features and their names has in common."""

from dataclasses import dataclass

import numpy as np

TOP = 5
"""Tokens that count as those a feature says most about; see :class:`TopShares`."""


@dataclass(frozen=True)
class Share:
    """A share that names reach, and what shuffled names reach."""

    named: float
    shuffled: float
    """The mean over all ways to give features other firing features' names, worked out."""


@dataclass(frozen=True)
class TopShares:
    """How often a feature's name is the token, or among the TOP tokens, that it raises most."""

    features: int
    """Firing features measured."""
    rows: int
    """Rows that they were measured on; 0 where no row is needed."""
    top1: Share
    top5: Share


def spread_features(fired: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` features that fire, evenly spaced from the most to the least often.

    Args:
        fired: [F], rows (or share of the rows) on which each feature fires.
        most: how many to choose.
    """
    order = np.argsort(-fired, kind="stable")
    firing = int((fired > 0).sum())
    places = {(2 * index + 1) * firing // (2 * most) for index in range(most)}
    return order[sorted(place for place in places if place < firing)]


def top_shares(
    features: np.ndarray, tops: np.ndarray, names: np.ndarray, fires: np.ndarray, *, rows: int
) -> TopShares:
    """How often names are among the tokens that features raise most, and shuffled names.

    Args:
        features: int [n], the feature of each line of ``tops``; one with several lines counts
            once, by their mean.
        tops: int [n, TOP], tokens raised most, best first; -1 for none.
        names: int [F], every feature's name.
        fires: bool [F], features whose names are shuffled among themselves.
        rows: rows that were used.
    """
    own = tops == names[features][:, None]
    size = int(max(names.max(initial=0), tops.max(initial=0))) + 1
    bearers = np.bincount(names[fires], minlength=size)
    others = np.where(tops >= 0, bearers[tops], 0) - own
    chance = others / max(int(fires.sum()) - 1, 1)
    _, place, lines = np.unique(features, return_inverse=True, return_counts=True)
    weight = 1 / (lines[place] * max(len(lines), 1))

    def share(count: int) -> Share:
        both = (float(weight @ part[:, :count].sum(axis=1)) for part in (own, chance))
        return Share(*both)

    return TopShares(len(lines), rows, share(1), share(TOP))
