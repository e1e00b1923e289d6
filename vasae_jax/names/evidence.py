"""The evidence for names on held-out rows, which had no part in making them.

Every name has a relation to a feature: it should fire *at* the token or *before* it. Each name is
tested by itself: how much of the feature's activation it holds, on how many of its rows the feature
fires, and whether the feature meets the name more often than the text brings it.
"""

from dataclasses import dataclass, fields

import numpy as np
from scipy.stats import binom, false_discovery_control

from vasae_jax.dictionary.claims import AT, FAILS, HOLDS, IN_PART, NO_NAME, UNTESTED
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.firings import (
    Firings,
    RowTokens,
    activation_sums,
    name_hold,
    share_of,
    shuffled_hold,
)

LIFT = 2.0
"""A name holds where its feature meets it more than so many times as often as the text does."""
LEAST_HELD = 0.2
"""Share of the feature's activation from which a name *holds*; below it holds *in part*."""
MIN_OCCASIONS = 5
"""Occasions, of the feature and of the name, below which a name is untested: a rare name met once
or twice proves little."""
FALSE_DISCOVERIES = 0.05
"""Expected share of names that do no better than chance among those whose test says so."""
TOP = 5
"""Tokens that count as those a feature raises most; see :class:`TopShares`."""


@dataclass(frozen=True)
class Evidence:
    """The evidence for the layer names of F features, m names a feature; 0 where there is none."""

    name_hold: np.ndarray
    """float32 [F, m], share of the feature's activation at (or just before) each name."""
    name_lift: np.ndarray
    """float32 [F, m], that share over the share of rows at (or before) the token; 0 where the
    token does not occur."""
    name_rows: np.ndarray
    """int32 [F, m], rows at (or before) the name on which the feature fires."""
    name_text_rows: np.ndarray
    """int32 [F, m], rows at (or before) the name in all."""
    name_verdict: np.ndarray
    """int8 [F, m], of each name: HOLDS, IN_PART, FAILS or UNTESTED."""
    hold: np.ndarray
    """float32 [F], share of the feature's activation that its names hold together."""
    fired: np.ndarray
    """int32 [F], rows on which the feature fires."""
    verdict: np.ndarray
    """int8 [F], of the first name that is tested; UNTESTED where none is."""
    verdict_together: np.ndarray
    """int8 [F], the same test of all names as if they were one."""


def evidence(firings: Firings, names: LayerNames, tokens: RowTokens) -> Evidence:
    """Test each of ``names`` on the firings of rows that had no part in making them.

    A test counts occasions: different pairs of a window and a token, so a word that one window
    repeats counts once. Of the n occasions of a feature, x have the name for their token; of all
    occasions of the text a share q has. A name *does not hold* unless a binomial test finds x / n
    above ``LIFT`` q. If it does, the name *holds* from ``LEAST_HELD`` of the feature's activation
    on, and holds *in part* below. Benjamini and Hochberg's procedure (1995), over all names that
    are tested, keeps false discoveries to 5%. With fewer than ``MIN_OCCASIONS`` occasions of the
    feature, or of the name in the text, a name is *untested*.
    """
    total = activation_sums(firings, len(names.ids))
    slot, activation, rows = _by_name(firings, names)
    share = share_of(activation, total[:, None])
    text_rows, base = _text_rows(names, tokens)
    lift = np.divide(share, base, out=np.zeros_like(share), where=base > 0)
    hold = share.sum(axis=1)
    occasions, hits = _occasions(firings, names, slot, tokens)
    text, size = _text_occasions(names, tokens)
    verdict = verdicts(hits, occasions[:, None], text, size, share)
    every = verdicts(hits.sum(axis=1), occasions, text.sum(axis=1), size, hold)
    return Evidence(
        name_hold=share.astype(np.float32),
        name_lift=lift.astype(np.float32),
        name_rows=rows.astype(np.int32),
        name_text_rows=text_rows.astype(np.int32),
        name_verdict=verdict,
        hold=hold.astype(np.float32),
        fired=np.bincount(firings.feature, minlength=len(total)).astype(np.int32),
        verdict=np.take_along_axis(verdict, _first_tested(verdict)[:, None], axis=1)[:, 0],
        verdict_together=every,
    )


def _first_tested(verdict: np.ndarray) -> np.ndarray:
    """The column of each feature's first tested name [F]; 0 where none is."""
    first: np.ndarray = (verdict != UNTESTED).argmax(axis=1)
    return first


def ordered_evidence(
    firings: Firings, names: LayerNames, tokens: RowTokens
) -> tuple[LayerNames, Evidence]:
    """The evidence for names, and both with each feature's tested names before untested ones."""
    return tested_first(names, evidence(firings, names, tokens))


def tested_first(names: LayerNames, found: Evidence) -> tuple[LayerNames, Evidence]:
    """Names and their evidence, with each feature's tested names before its untested ones.

    Otherwise their order stays: which names are tested is a matter of the text alone, so held-out
    rows choose no name.
    """
    order = np.argsort(found.name_verdict == UNTESTED, axis=1, kind="stable")

    def ordered(array: np.ndarray) -> np.ndarray:
        return np.take_along_axis(array, order, axis=1) if array.ndim == 2 else array

    moved = {field.name: ordered(getattr(found, field.name)) for field in fields(found)}
    return LayerNames(*(ordered(array) for array in names)), Evidence(**moved)


def by_relation(names: LayerNames, at: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Of two arrays [F, ...], each feature's values in its relation."""
    is_at = (names.relation == AT).reshape(-1, *[1] * (at.ndim - 1))
    return np.where(is_at, at, before)


def _related_token(firings: Firings, names: LayerNames) -> np.ndarray:
    """Of each firing, the token that the names of its feature are compared with."""
    is_at = names.relation[firings.feature] == AT
    return np.where(is_at, firings.token, firings.next_token)


def _by_name(firings: Firings, names: LayerNames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The name that each firing meets, -1 or feature * m + column [n]; activation, rows [F, m]."""
    features, m = names.ids.shape
    token = _related_token(firings, names)[:, None]
    equal = (names.ids[firings.feature] == token) & (token >= 0)
    slot = np.where(
        equal.any(axis=1), firings.feature.astype(np.int64) * m + equal.argmax(axis=1), -1
    )
    met = slot >= 0
    activation = np.bincount(slot[met], firings.activation[met], features * m)
    rows = np.bincount(slot[met], minlength=features * m)
    return slot, activation.reshape(features, m), rows.reshape(features, m)


def _text_rows(names: LayerNames, tokens: RowTokens) -> tuple[np.ndarray, np.ndarray]:
    """The observed rows at (or before) each name, and their share of all, [F, m]."""
    columns = (tokens.token, tokens.next_token)
    rows = by_relation(names, *(_counts(column[tokens.observed], names) for column in columns))
    return rows, rows / max(int(tokens.observed.sum()), 1)


def _counts(tokens: np.ndarray, names: LayerNames) -> np.ndarray:
    """[F, m], how many of ``tokens`` each name is."""
    size = int(names.ids.max(initial=0)) + 1
    counts = np.bincount(tokens[(tokens >= 0) & (tokens < size)], minlength=size)
    found: np.ndarray = np.where(names.ids == NO_NAME, 0, counts[names.ids])
    return found


def _text_occasions(names: LayerNames, tokens: RowTokens) -> tuple[np.ndarray, np.ndarray]:
    """Occasions of the text at each name [F, m], and in all in the feature's relation, int [F]."""
    found, totals = [], []
    for column in (tokens.token, tokens.next_token):
        pairs = np.stack([tokens.window, column], axis=1)[tokens.observed]
        unique = np.unique(pairs, axis=0)[:, 1]
        found.append(_counts(unique, names))
        totals.append(np.full(len(names.ids), len(unique)))
    return by_relation(names, *found), by_relation(names, *totals)


def _occasions(
    firings: Firings, names: LayerNames, slot: np.ndarray, tokens: RowTokens
) -> tuple[np.ndarray, np.ndarray]:
    """Occasions on which each feature fires [F], and those at each of its names [F, m]."""
    features, m = names.ids.shape
    # A window's end counts as a token of its own, 0.
    token = _related_token(firings, names).astype(np.int64) + 1
    window = tokens.window[firings.row].astype(np.int64)
    key = (window * (int(token.max(initial=0)) + 1) + token) * features + firings.feature
    _, first = np.unique(key, return_index=True)
    met = slot[first]
    hits = np.bincount(met[met >= 0], minlength=features * m).reshape(features, m)
    return np.bincount(firings.feature[first], minlength=features), hits


def verdicts(
    hits: np.ndarray, occasions: np.ndarray, text: np.ndarray, size: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """The verdicts on names, int8 of the shape of ``hits``: [F], or [F, m].

    Args:
        hits: occasions of the feature that have the name.
        occasions: of the feature; [F], or [F, 1].
        text: occasions of the text that have the name.
        size: [F], occasions of the text.
        held: share of the feature's activation that the name holds.
    """
    occasions = np.broadcast_to(occasions, hits.shape)
    rate = text / np.maximum(size, 1).reshape(-1, *[1] * (hits.ndim - 1))
    tested = (occasions >= MIN_OCCASIONS) & (text >= MIN_OCCASIONS)
    p = binom.sf(hits - 1, occasions, np.minimum(LIFT * rate, 1.0))
    above = np.zeros(hits.shape, bool)
    above[tested] = false_discovery_control(p[tested]) <= FALSE_DISCOVERIES
    verdict = np.where(above, np.where(held >= LEAST_HELD, HOLDS, IN_PART), FAILS)
    return np.where(tested, verdict, UNTESTED).astype(np.int8)


# Shares over firing features, of the names as they are and of shuffled names.


@dataclass(frozen=True)
class Share:
    """A share that names reach, and the share that shuffled names reach."""

    named: float
    shuffled: float
    """The exact mean over all ways to give every firing feature the names of another one."""


@dataclass(frozen=True)
class EmbeddingHold:
    """The mean share of a firing feature's activation that its embedding names hold."""

    features: int
    """Features that fire."""
    names: int
    """Names of a feature that count, its nearest."""
    at: Share
    """At rows whose token is one of the names."""
    before: Share
    """At rows whose next token is one of the names."""


def embedding_hold(firings: Firings, names: np.ndarray) -> EmbeddingHold:
    """What embedding names [F, m] hold, over the features that fire."""
    fires = np.bincount(firings.feature, minlength=len(names)) > 0
    count = int(fires.sum())

    def mean(shares: np.ndarray) -> float:
        return float(shares[fires].mean()) if count else 0.0

    pairs = zip(name_hold(firings, names), shuffled_hold(firings, names), strict=True)
    at, before = (Share(mean(named), mean(shuffled)) for named, shuffled in pairs)
    return EmbeddingHold(count, names.shape[1], at, before)


@dataclass(frozen=True)
class TopShares:
    """How often a feature's name is the token, or among the TOP tokens, that it raises most."""

    features: int
    """Firing features measured."""
    rows: int
    """Rows that they were measured on; 0 where no row is needed."""
    top1: Share
    top5: Share


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
    named = tops == names[features][:, None]
    size = int(max(names.max(initial=0), tops.max(initial=0))) + 1
    bearers = np.bincount(names[fires], minlength=size)
    others = np.where(tops >= 0, bearers[tops], 0) - named
    chance = others / max(int(fires.sum()) - 1, 1)
    _, index, lines = np.unique(features, return_inverse=True, return_counts=True)
    weight = 1 / (lines[index] * max(len(lines), 1))

    def share(count: int) -> Share:
        return Share(*(float(weight @ hit[:, :count].sum(axis=1)) for hit in (named, chance)))

    return TopShares(len(lines), rows, share(1), share(TOP))


def spread_features(fired: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` features that fire, evenly spaced from the most to the least often.

    Args:
        fired: [F], rows (or share of the rows) on which each feature fires.
        most: how many to choose.
    """
    order = np.argsort(-fired, kind="stable")
    firing = int((fired > 0).sum())
    chosen = {(2 * index + 1) * firing // (2 * most) for index in range(most)}
    return order[sorted(index for index in chosen if index < firing)]
