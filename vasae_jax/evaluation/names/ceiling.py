"""The most that any names could hold: each feature's own best tokens on the same rows."""

from typing import NamedTuple

import numpy as np

from vasae_jax.evaluation.contexts import Firings
from vasae_jax.naming.layer import AT


class Ceiling(NamedTuple):
    """Shares of each feature's activation, float64 [F]; 0 where it never fires."""

    one: np.ndarray
    """at (or before) the token that holds most"""
    ten: np.ndarray
    """at (or before) the ten that hold most"""


def ceiling(found: Firings, features: int, relation: int, most: int = 10) -> Ceiling:
    """What the best tokens, chosen on these very rows, hold of each feature's activation.

    They are chosen with knowledge of what they are then measured on: for a feature that fires
    on few rows that flatters, up to 1 for one that fires on at most ``most``.
    """
    tokens = found.token if relation == AT else found.following
    known = tokens >= 0
    size = int(tokens.max(initial=0)) + 1
    key = found.feature[known].astype(np.int64) * size + tokens[known]
    pairs, place = np.unique(key, return_inverse=True)
    mass = np.bincount(place, found.activation[known], len(pairs))
    feature = pairs // size
    order = np.lexsort((-mass, feature))
    feature, mass = feature[order], mass[order]
    first = np.searchsorted(feature, np.arange(features))
    rank = np.arange(len(feature)) - first[feature]
    total = np.bincount(found.feature, found.activation, features)
    shares = mass / np.where(total == 0, 1, total)[feature]
    one, ten = (np.bincount(feature[rank < n], shares[rank < n], features) for n in (1, most))
    return Ceiling(one, ten)
