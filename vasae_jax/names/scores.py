"""How much of their features' activation layer names hold, and how much any names could hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.dictionary.claims import AT, BEFORE, CONTRADICTED, HOLDS
from vasae_jax.names.by_layer import LIFT, LayerNames, RelationNames, better_relation
from vasae_jax.names.evidence import Evidence, by_relation
from vasae_jax.names.firings import Firings, RowTokens, activation_sums, share_of, shuffled_hold

BLOCK = 256
"""Features worked on at once: two arrays of BLOCK x V float64 are held."""


@dataclass(frozen=True)
class NameScores:
    """What layer names hold in a group of firing features: means in which each counts once."""

    group: str
    features: int
    hold1: float
    """hold@1: share of a feature's activation that its first name holds."""
    hold10: float
    """hold@10: share that all its names hold."""
    mass10: float
    """mass@10: share of the group's activation (times decoder norm) that names hold."""
    holds: float
    """Share of the features whose verdict is "holds"."""
    contradicted: float
    """Share of the features whose verdict is "contradicted"."""
    shuffled1: float
    """hold@1 with other firing features' first names."""
    shuffled10: float
    """hold@10 with other firing features' names."""
    ceiling1: float
    """hold@1 of each feature's best token in its relation, chosen on these very rows."""
    ceiling10: float
    """hold@10 of its best ten."""
    ceiling_mass10: float
    """mass@10 of its best ten."""


def name_scores(
    firings: Firings, names: LayerNames, evidence: Evidence, norms: np.ndarray
) -> tuple[NameScores, ...]:
    """The scores over all firing features, by relation, and by how often features fire.

    ``norms`` [F] are those of the decoder rows.
    """
    features = len(names.ids)
    mass = activation_sums(firings, features) * norms
    ceilings = [ceiling(firings, features, relation) for relation in (AT, BEFORE)]
    ceiling1, ceiling10 = (by_relation(names, *pair) for pair in zip(*ceilings, strict=True))
    per_feature = {
        "hold1": evidence.name_hold[:, 0],
        "hold10": evidence.hold,
        "holds": evidence.verdict == HOLDS,
        "contradicted": evidence.verdict == CONTRADICTED,
        "shuffled1": _shuffled(firings, names, 1),
        "shuffled10": _shuffled(firings, names, names.ids.shape[1]),
        "ceiling1": ceiling1,
        "ceiling10": ceiling10,
    }

    def scores(group: str, members: np.ndarray) -> NameScores:
        count, total = int(members.sum()), float(mass[members].sum()) or 1.0
        means = {
            name: float(np.mean(values[members], dtype=np.float64)) if count else 0.0
            for name, values in per_feature.items()
        }
        mass10, ceiling_mass10 = (
            float((mass * shares)[members].sum()) / total for shares in (evidence.hold, ceiling10)
        )
        return NameScores(group, count, mass10=mass10, ceiling_mass10=ceiling_mass10, **means)

    fired = np.bincount(firings.feature, minlength=features)
    return tuple(scores(group, members) for group, members in _groups(names, fired))


def _groups(names: LayerNames, fired: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """All firing features, those of each relation, and four equal parts by fire rate."""
    fires = fired > 0
    yield "all", fires
    yield "at", fires & (names.relation == AT)
    yield "before", fires & (names.relation == BEFORE)
    order = np.flatnonzero(fires)[np.argsort(-fired[fires], kind="stable")]
    for number, part in enumerate(np.array_split(order, 4), start=1):
        yield f"fire rate, quarter {number}", np.isin(np.arange(len(fired)), part)


def _shuffled(firings: Firings, names: LayerNames, most: int) -> np.ndarray:
    hold = shuffled_hold(firings, names.ids[:, :most])
    return by_relation(names, hold.at, hold.before)


COLUMNS = (
    ("features", "features", "{:,}"),
    ("hold@1", "hold1", "{:.1%}"),
    ("(shuffled)", "shuffled1", "{:.2%}"),
    ("(ceiling)", "ceiling1", "{:.1%}"),
    ("hold@10", "hold10", "{:.1%}"),
    ("(shuffled)", "shuffled10", "{:.2%}"),
    ("(ceiling)", "ceiling10", "{:.1%}"),
    ("mass@10", "mass10", "{:.1%}"),
    ("(ceiling)", "ceiling_mass10", "{:.1%}"),
    ("holds", "holds", "{:.1%}"),
    ("contradicted", "contradicted", "{:.1%}"),
)
"""Columns of the table: head, score, and how it is written."""


def score_table(groups: tuple[NameScores, ...], rows: int) -> str:
    """The scores as a readable table, a line a group."""
    lines = [("firing features", *(head for head, _, _ in COLUMNS))]
    for scores in groups:
        cells = (form.format(getattr(scores, name)) for _, name, form in COLUMNS)
        lines.append((scores.group, *cells))
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    text = [
        "  ".join([f"{head:<{first}}", *(f"{x:>{w}}" for x, w in zip(cells, widths, strict=True))])
        for head, *cells in lines
    ]
    return "\n".join([f"layer names, over {rows:,} unmasked rows", *text])


# The most that any names could hold, and the names that an observer of activations would give.


class Ceiling(NamedTuple):
    """Shares of each feature's activation, float64 [F]; 0 where it never fires."""

    top1: np.ndarray
    """at (or before) the token that holds most"""
    top10: np.ndarray
    """at (or before) the ten that hold most"""


def ceiling(firings: Firings, features: int, relation: int, most: int = 10) -> Ceiling:
    """What the best tokens, chosen on these very rows, hold of each feature's activation.

    They are chosen with knowledge of what they are then measured on: for a feature that fires
    on few rows that flatters, up to 1 for one that fires on at most ``most``.
    """
    tokens = firings.token if relation == AT else firings.next_token
    known = tokens >= 0
    size = int(tokens.max(initial=0)) + 1
    key = firings.feature[known].astype(np.int64) * size + tokens[known]
    pairs, index = np.unique(key, return_inverse=True)
    mass = np.bincount(index, firings.activation[known], len(pairs))
    feature = pairs // size
    order = np.lexsort((-mass, feature))
    feature, mass = feature[order], mass[order]
    first = np.searchsorted(feature, np.arange(features))
    rank = np.arange(len(feature)) - first[feature]
    shares = share_of(mass, activation_sums(firings, features)[feature])
    return Ceiling(*(np.bincount(feature[rank < n], shares[rank < n], features) for n in (1, most)))


def observed_names(firings: Firings, tokens: RowTokens, features: int, m: int = 10) -> LayerNames:
    """The tokens that held most of each feature's activation on the rows that were observed.

    What such names hold on other rows is as much as any rule without activations could promise.
    They are ordered as layer names are, by their share less ``LIFT`` times the token's share of the
    rows, and a feature takes the relation with more excess. ``expected`` are the shares.
    """
    size = int(max(tokens.token.max(initial=0), tokens.next_token.max(initial=0))) + 1
    shape = (features, size, min(m, size))
    return better_relation(
        _observed(firings, firings.token, tokens.token[tokens.observed], shape),
        _observed(firings, firings.next_token, tokens.next_token[tokens.observed], shape),
    )


def _observed(
    firings: Firings, token: np.ndarray, text: np.ndarray, shape: tuple[int, int, int]
) -> RelationNames:
    """The names of one relation.

    ``token`` [n] is that of each firing, ``text`` those of the rows; -1 is none. ``shape`` is
    F, V and m.
    """
    features, size, m = shape
    known = text[text >= 0]
    rate = np.bincount(known, minlength=size) / max(len(known), 1)
    total = activation_sums(firings, features)
    order = np.argsort(firings.feature, kind="stable")
    ends = np.searchsorted(firings.feature[order], np.arange(0, features + BLOCK, BLOCK))
    parts = []
    for number, first in enumerate(range(0, features, BLOCK)):
        chosen = order[ends[number] : ends[number + 1]]
        chosen = chosen[token[chosen] >= 0]
        count = min(BLOCK, features - first)
        key = (firings.feature[chosen] - first).astype(np.int64) * size + token[chosen]
        mass = np.bincount(key, firings.activation[chosen], count * size).reshape(count, size)
        parts.append(_largest(share_of(mass, total[first : first + count, None]), rate, m))
    ids, shares, excess = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ids, shares, excess


def _largest(shares: np.ndarray, rate: np.ndarray, m: int) -> RelationNames:
    """Of ``shares`` [n, V], the m best names: ids and shares [n, m], and their excess [n]."""
    score = shares - LIFT * rate[None, :]
    best = np.argpartition(-score, m - 1, axis=1)[:, :m]
    order = np.argsort(-np.take_along_axis(score, best, axis=1), axis=1, kind="stable")
    ids = np.take_along_axis(best, order, axis=1)
    excess = np.maximum(np.take_along_axis(score, ids, axis=1), 0.0).sum(axis=1)
    return ids, np.take_along_axis(shares, ids, axis=1), excess
