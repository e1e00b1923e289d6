"""Names that an observer of activations would give: a ceiling for names made of weights alone.

:func:`vasae_jax.evaluation.names.ceiling.ceiling` chooses tokens on the very rows that are then
measured, which no rule can do. An observer chooses on other rows of the same text. What such
names hold is as much as any rule could promise, and how much less they hold on another text is
what the text, not the rule, takes away.
"""

import numpy as np

from vasae_jax.evaluation.contexts import Firings, Watched
from vasae_jax.naming.layer import LIFT, LayerNames

BLOCK = 256
"""Features worked on at once: two arrays of BLOCK x V float64 are held."""


def observed_names(found: Firings, watched: Watched, features: int, m: int = 10) -> LayerNames:
    """The tokens that held most of each feature's activation on the rows that were watched.

    They are ordered as layer names are: by their share less ``LIFT`` times the token's share of
    the rows, and a feature takes the relation with more excess. ``expected`` are the shares.
    """
    size = int(max(watched.at.max(initial=0), watched.before.max(initial=0))) + 1
    m = min(m, size)
    seen = watched.seen
    shape = (features, size, m)
    at = _best(found, found.token, watched.at[seen], shape)
    later = _best(found, found.following, watched.before[seen], shape)
    (ids, shares, excess), (later_ids, later_shares, later_excess) = at, later
    before = later_excess > excess
    return LayerNames(
        np.where(before[:, None], later_ids, ids).astype(np.int32),
        before.astype(np.int8),
        np.where(before[:, None], later_shares, shares).astype(np.float32),
    )


def _best(
    found: Firings, token: np.ndarray, text: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one relation: ids and shares [F, m], and the sum of excess [F].

    ``token`` [n] is that of each firing, ``text`` those of the rows; -1 is none. ``shape`` is
    F, V and m.
    """
    features, size, m = shape
    known = text[text >= 0]
    rate = np.bincount(known, minlength=size) / max(len(known), 1)
    total = np.bincount(found.feature, found.activation, features)
    order = np.argsort(found.feature, kind="stable")
    ends = np.searchsorted(found.feature[order], np.arange(0, features + BLOCK, BLOCK))
    parts = []
    for number, first in enumerate(range(0, features, BLOCK)):
        mine = order[ends[number] : ends[number + 1]]
        mine = mine[token[mine] >= 0]
        count = min(BLOCK, features - first)
        key = (found.feature[mine] - first).astype(np.int64) * size + token[mine]
        mass = np.bincount(key, found.activation[mine], count * size).reshape(count, size)
        shares = mass / np.where(total == 0, 1, total)[first : first + count, None]
        parts.append(_largest(shares, rate, m))
    ids, shares, excess = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ids, shares, excess


def _largest(
    shares: np.ndarray, rate: np.ndarray, m: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of ``shares`` [n, V], the m best names: ids and shares [n, m], and their excess [n]."""
    score = shares - LIFT * rate[None, :]
    some = np.argpartition(-score, m - 1, axis=1)[:, :m]
    order = np.argsort(-np.take_along_axis(score, some, axis=1), axis=1, kind="stable")
    ids = np.take_along_axis(some, order, axis=1)
    excess = np.maximum(np.take_along_axis(score, ids, axis=1), 0.0).sum(axis=1)
    return ids, np.take_along_axis(shares, ids, axis=1), excess
