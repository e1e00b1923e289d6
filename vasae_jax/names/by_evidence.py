"""Names by evidence: the tokens that tell, on training rows, when a feature fires.

A set of names is a detector: it says that the feature fires on the rows whose token (or next token)
is one of them. On training rows each name is worth what it adds to the detector's

    F1 = 2 hits / (named + fired),

with ``fired`` the rows on which the feature fires, ``named`` the rows that have a name, and
``hits`` those that are both. Each next name is the one that adds most, and a feature gets as many
as pay. Rows of one token are no rows of another, so sums over names are all that is needed. Other
features have no say: several may share a name.

This is done at and before. To choose between the two, each name counts one hit fewer: of many
tokens some are met by chance when the feature fires, each once, and ten of these would outdo one
token that is always there but often without the feature.

A token at which the feature never fires adds nothing, so the candidates are the tokens at which it
does. Held-out rows have no part in any of it: they test the names.
"""

from typing import NamedTuple

import numpy as np

from vasae_jax.dictionary.claims import AT, BEFORE, NO_NAME
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.counts import FiringCounts, RelationCounts

CANDIDATES = 64
"""Tokens of each feature that may become names: those of the largest F1 by themselves."""
GAIN = 0.005
"""Least share by which a name must raise the F1 of those before it."""
FEATURES = 4096
"""Features whose names are chosen at once."""


class Candidates(NamedTuple):
    """Tokens that may become names, of n features in one relation; int64 [n, C]."""

    ids: np.ndarray
    """ascending, NO_NAME where there are fewer"""
    hits: np.ndarray
    """rows with the token on which the feature fires"""
    named: np.ndarray
    """rows with the token"""


class Chosen(NamedTuple):
    """The names of n features in one relation."""

    ids: np.ndarray
    """int64 [n, m], NO_NAME after the last"""
    f1: np.ndarray
    """float64 [n], of all of them on the rows they were chosen on"""


def names_by_evidence(counts: FiringCounts, m: int) -> LayerNames:
    """At most ``m`` names of each feature, in the relation whose names tell more.

    Args:
        counts: of where features fire on training rows.
        m: names a feature, at most.

    Returns:
        The names, in the order of what each adds. ``expected`` is the share of the feature's
        activation on the counted rows. A feature that does not fire there has no names.

    The relation is that of the larger F1 with one hit fewer for each name, then of the larger F1.
    """
    at, before = (_relation_names(counts, relation, m) for relation in (AT, BEFORE))
    surer_at, surer_before = (
        surer_f1(counts.relations[relation], names.ids, counts.fired)
        for relation, names in ((AT, at), (BEFORE, before))
    )
    equal = surer_before == surer_at
    chosen = (surer_before > surer_at) | (equal & (before.f1 > at.f1))
    ids = np.where(chosen[:, None], before.ids, at.ids)
    shares = np.where(chosen[:, None], *(counts.shares(relation, ids) for relation in (BEFORE, AT)))
    return LayerNames(ids.astype(np.int32), chosen.astype(np.int8), shares.astype(np.float32))


def listed_by_evidence(counts: FiringCounts, relation: int, m: int) -> np.ndarray:
    """``m`` tokens of each feature in one relation, int64 [F, m]: its names, then the next best.

    The names are as many as pay. They are filled up with those of the remaining candidates whose
    F1 is largest by itself; a feature that fires at fewer than ``m`` tokens gets fewer, then
    NO_NAME.
    """
    names = _relation_names(counts, relation, m).ids
    others = most_telling(counts.relations[relation], counts.fired, 2 * m)
    known = (others[:, :, None] == names[:, None, :]).any(axis=2)
    both = np.concatenate([names, np.where(known, NO_NAME, others)], axis=1)
    order = np.argsort(both == NO_NAME, axis=1, kind="stable")[:, :m]
    return np.take_along_axis(both, order, axis=1)


def _relation_names(counts: FiringCounts, relation: int, m: int) -> Chosen:
    """The names of all features in one relation."""
    of_relation = counts.relations[relation]
    ids = np.sort(most_telling(of_relation, counts.fired, CANDIDATES), axis=1)
    hits, _ = of_relation.of(ids)
    named = np.where(ids == NO_NAME, 0, of_relation.rows[ids])
    candidates = Candidates(ids, hits, named)
    blocks = [slice(start, start + FEATURES) for start in range(0, len(ids), FEATURES)]
    parts = [
        choose(Candidates(*(part[block] for part in candidates)), counts.fired[block], m)
        for block in blocks
    ]
    return Chosen(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def surer_f1(counts: RelationCounts, ids: np.ndarray, fired: np.ndarray) -> np.ndarray:
    """F1 of the names ``ids`` [F, m] with one hit fewer for each, float64 [F].

    ``fired`` [F] are the rows on which each feature fires.
    """
    hits, _ = counts.of(ids)
    named = np.where(ids == NO_NAME, 0, counts.rows[ids]).sum(axis=1)
    f1: np.ndarray = 2 * np.maximum(hits - 1, 0).sum(axis=1) / np.maximum(named + fired, 1)
    return f1


def most_telling(counts: RelationCounts, fired: np.ndarray, most: int) -> np.ndarray:
    """The ``most`` tokens of largest F1 each by itself; int64 [F, most], NO_NAME where fewer.

    ``fired`` [F] are the rows on which each feature fires. Equal ones go by the lower token id.
    """
    feature, token = np.divmod(counts.pairs, len(counts.rows))
    f1 = 2 * counts.fired / (counts.rows[token] + fired[feature])
    return counts.best(f1, len(fired), most)


def choose(candidates: Candidates, fired: np.ndarray, m: int) -> Chosen:
    """Take the candidate that adds most F1, up to ``m`` times or until none adds ``GAIN``.

    ``fired`` [n] are the rows on which each feature fires. Of equal candidates the one of the
    lower id is taken.
    """
    ids, hits, named = candidates
    every = np.arange(len(ids))
    chosen, f1 = np.full((len(ids), m), NO_NAME, np.int64), np.zeros(len(ids))
    hit_sum, named_sum = np.zeros(len(ids), np.int64), fired.copy()
    free, going = ids != NO_NAME, fired > 0
    for rank in range(min(m, ids.shape[1])):
        total = np.maximum(named_sum[:, None] + named, 1)
        new = np.where(free, 2 * (hit_sum[:, None] + hits) / total, -1.0)
        best = new.argmax(axis=1)
        going = going & (new[every, best] > f1 * (1 + GAIN))
        taken, column = every[going], best[going]
        chosen[taken, rank] = ids[taken, column]
        f1[taken] = new[taken, column]
        hit_sum[taken] += hits[taken, column]
        named_sum[taken] += named[taken, column]
        free[taken, column] = False
    return Chosen(chosen, f1)
