"""The most that any names could hold: each feature's own best tokens on the same rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.dictionary.claims import AT, BEFORE, CONTRADICTED, HOLDS
from vasae_jax.names.by_layer import LIFT, LayerNames
from vasae_jax.names.evidence import Evidence
from vasae_jax.names.firings import Firings, Watched, shuffled_hold


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


# How much of what features do their layer names hold: the figures to tune to.


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


# Names that an observer of activations would give: a ceiling for names made of weights alone.
#
# :func:`vasae_jax.evaluation.names.ceiling.ceiling` chooses tokens on the very rows that are then
# measured, which no rule can do. An observer chooses on other rows of the same text. What such
# names hold is as much as any rule could promise, and how much less they hold on another text is
# what the text, not the rule, takes away.


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
