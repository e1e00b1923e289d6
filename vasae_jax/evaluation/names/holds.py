"""How much of what features do their layer names hold: the figures to tune to."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vasae_jax.evaluation.contexts import Firings, shuffled_hold
from vasae_jax.evaluation.names.ceiling import ceiling
from vasae_jax.evaluation.names.evidence import CONTRADICTED, HOLDS, Evidence
from vasae_jax.naming.layer import AT, BEFORE, LayerNames


@dataclass(frozen=True)
class Held:
    """What layer names hold in one group of firing features; means in which each counts once."""

    group: str
    features: int
    hold1: float
    """Share of a feature's activation that its first name holds."""
    hold10: float
    """Share that all its names hold."""
    mass: float
    """Share of the group's activation (times decoder norm) that names hold."""
    holds: float
    """Share of the features whose verdict is "holds"."""
    contradicted: float
    """Share of the features whose verdict is "contradicted"."""
    shuffled1: float
    """hold1 with other firing features' first names."""
    shuffled10: float
    """hold10 with other firing features' names."""
    ceiling1: float
    """Mean share of each feature's own best token in its relation."""
    ceiling10: float
    """Mean share of its own best ten."""
    ceiling_mass: float
    """Share of the group's activation (times decoder norm) that own best tens hold."""


def held(found: Firings, names: LayerNames, worth: Evidence, norms: np.ndarray) -> tuple[Held, ...]:
    """The figures over all firing features, by relation, and by how often features fire.

    ``norms`` [F] are those of the decoder rows.
    """
    features = len(names.ids)
    fired = np.bincount(found.feature, minlength=features)
    mass = np.bincount(found.feature, found.activation, features) * norms
    per_feature = {
        "hold1": worth.name_hold[:, 0],
        "hold10": worth.hold,
        "holds": worth.verdict == HOLDS,
        "contradicted": worth.verdict == CONTRADICTED,
        "shuffled1": _shuffled(found, names, 1),
        "shuffled10": _shuffled(found, names, names.ids.shape[1]),
    }
    best = [ceiling(found, features, relation) for relation in (AT, BEFORE)]
    for index, name in enumerate(("ceiling1", "ceiling10")):
        per_feature[name] = _own(names, best[0][index], best[1][index])

    def figures(group: str, members: np.ndarray) -> Held:
        count = int(members.sum())
        means = {
            name: float(np.mean(values[members], dtype=np.float64)) if count else 0.0
            for name, values in per_feature.items()
        }
        whole = float(mass[members].sum()) or 1.0
        parts = {
            name: float((mass * shares)[members].sum()) / whole
            for name, shares in (("mass", worth.hold), ("ceiling_mass", per_feature["ceiling10"]))
        }
        return Held(group, count, **parts, **means)

    return tuple(figures(group, members) for group, members in _groups(names, fired))


def _groups(names: LayerNames, fired: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """All firing features, those of each relation, and four equal parts by fire rate."""
    fires = fired > 0
    yield "all", fires
    yield "at", fires & (names.relation == AT)
    yield "before", fires & (names.relation == BEFORE)
    order = np.flatnonzero(fires)[np.argsort(-fired[fires], kind="stable")]
    for number, part in enumerate(np.array_split(order, 4), start=1):
        members = np.zeros(len(fired), bool)
        members[part] = True
        yield f"fire rate, quarter {number}", members


def _shuffled(found: Firings, names: LayerNames, most: int) -> np.ndarray:
    hold = shuffled_hold(found, names.ids[:, :most])
    return _own(names, hold.at, hold.before)


def _own(names: LayerNames, at: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Of two arrays [F], each feature's in its own relation."""
    return np.where(names.relation == AT, at, before)


HEADS = (
    ("features", "features", "{:,}"),
    ("hold@1", "hold1", "{:.1%}"),
    ("(shuffled)", "shuffled1", "{:.2%}"),
    ("(ceiling)", "ceiling1", "{:.1%}"),
    ("hold@10", "hold10", "{:.1%}"),
    ("(shuffled)", "shuffled10", "{:.2%}"),
    ("(ceiling)", "ceiling10", "{:.1%}"),
    ("mass@10", "mass", "{:.1%}"),
    ("(ceiling)", "ceiling_mass", "{:.1%}"),
    ("holds", "holds", "{:.1%}"),
    ("contradicted", "contradicted", "{:.1%}"),
)
"""Columns of the table: head, figure, and how it is written."""


def held_table(groups: tuple[Held, ...], rows: int) -> str:
    """The figures as a readable table, a line a group."""
    lines = [("firing features", *(head for head, _, _ in HEADS))]
    for one in groups:
        values = vars(one)
        lines.append((one.group, *(form.format(values[key]) for _, key, form in HEADS)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(
            [
                f"{line[0]:<{widths[0]}}",
                *(f"{x:>{w}}" for x, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    ]
    return "\n".join([f"layer names, over {rows:,} unmasked rows", *text])
