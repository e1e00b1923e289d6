"""How much of their features' activation layer names hold, and how much any names could hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.dictionary.claims import AT, BEFORE, HOLDS, IN_PART, UNTESTED
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.evidence import Evidence, by_relation
from vasae_jax.names.firings import (
    Firings,
    activation_sums,
    share_of,
    shuffled_hold,
)


@dataclass(frozen=True)
class NameScores:
    """What layer names hold in a group of features: means in which each that fires counts once."""

    group: str
    features: int
    hold1: float
    """hold@1: share of a feature's activation that its first name holds; 0 if it is untested."""
    hold10: float
    """hold@10: share that all its names hold."""
    hold10_dead_as_0: float
    """hold@10 over all features of the group, of which a dead one counts 0."""
    mass10: float
    """mass@10: share of the group's activation (times decoder norm) that names hold."""
    holds: float
    """Share of the features whose first name holds, by its own test."""
    in_part: float
    """Share of the features whose first name holds in part."""
    untested: float
    """Share of the features of which no name is tested."""
    holds_together: float
    """Share of the features whose names hold if all are tested as one."""
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

    ``names`` and ``evidence`` have tested names first; ``norms`` [F] are those of the decoder rows.
    """
    features = len(names.ids)
    mass = activation_sums(firings, features) * norms
    ceilings = [ceiling(firings, features, relation) for relation in (AT, BEFORE)]
    ceiling1, ceiling10 = (by_relation(names, *pair) for pair in zip(*ceilings, strict=True))
    per_feature = {
        "hold1": np.where(evidence.verdict == UNTESTED, 0, evidence.name_hold[:, 0]),
        "hold10": evidence.hold,
        "holds": evidence.verdict == HOLDS,
        "in_part": evidence.verdict == IN_PART,
        "untested": evidence.verdict == UNTESTED,
        "holds_together": evidence.verdict_together == HOLDS,
        "shuffled1": shuffled_scores(firings, names, 1),
        "shuffled10": shuffled_scores(firings, names),
        "ceiling1": ceiling1,
        "ceiling10": ceiling10,
    }

    fired = np.bincount(firings.feature, minlength=features)

    def scores(group: str, everyone: np.ndarray) -> NameScores:
        members = everyone & (fired > 0)
        count, total = int(members.sum()), float(mass[members].sum()) or 1.0
        means = {
            name: float(np.mean(values[members], dtype=np.float64)) if count else 0.0
            for name, values in per_feature.items()
        }
        mass10, ceiling_mass10 = (
            float((mass * shares)[members].sum()) / total for shares in (evidence.hold, ceiling10)
        )
        return NameScores(
            group,
            count,
            hold10_dead_as_0=means["hold10"] * count / max(int(everyone.sum()), 1),
            mass10=mass10,
            ceiling_mass10=ceiling_mass10,
            **means,
        )

    return tuple(scores(group, members) for group, members in _groups(names, fired))


def _groups(names: LayerNames, fired: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """All features, those of each relation, and four equal parts of those that fire, by rate."""
    yield "all", np.ones(len(fired), bool)
    yield "at", names.relation == AT
    yield "before", names.relation == BEFORE
    fires = fired > 0
    order = np.flatnonzero(fires)[np.argsort(-fired[fires], kind="stable")]
    for number, part in enumerate(np.array_split(order, 4), start=1):
        yield f"fire rate, quarter {number}", np.isin(np.arange(len(fired)), part)


def shuffled_scores(firings: Firings, names: LayerNames, most: int | None = None) -> np.ndarray:
    """Share of each feature's activation, [F], that other firing features' names hold on average.

    Of every feature the first ``most`` names count, or all of them.
    """
    return by_relation(names, *shuffled_hold(firings, names.ids[:, :most]))


COLUMNS = (
    ("features", "features", "{:,}"),
    ("hold@1", "hold1", "{:.1%}"),
    ("(shuffled)", "shuffled1", "{:.2%}"),
    ("(ceiling)", "ceiling1", "{:.1%}"),
    ("hold@10", "hold10", "{:.1%}"),
    ("(shuffled)", "shuffled10", "{:.2%}"),
    ("(ceiling)", "ceiling10", "{:.1%}"),
    ("dead as 0", "hold10_dead_as_0", "{:.1%}"),
    ("mass@10", "mass10", "{:.1%}"),
    ("(ceiling)", "ceiling_mass10", "{:.1%}"),
    ("first holds", "holds", "{:.1%}"),
    ("in part", "in_part", "{:.1%}"),
    ("untested", "untested", "{:.1%}"),
    ("hold together", "holds_together", "{:.1%}"),
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
