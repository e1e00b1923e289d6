"""The evidence for names on held-out rows, which had no part in making them.

Every name has a relation to a feature: it should fire *at* the token or *before* it. Each name
holds a share of the feature's activation, and a test says whether the feature meets its names more
often than the text brings them.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, false_discovery_control

from vasae_jax.dictionary.claims import AT, CONTRADICTED, HOLDS, NO_EVIDENCE
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
MIN_OCCASIONS = 5
"""Occasions below which there is no evidence: a rare name met once or twice proves little."""
FALSE_DISCOVERIES = 0.05
"""Expected share of false ones among the verdicts other than "no evidence"."""
TOP = 5
"""Tokens that count as those a feature raises most; see :class:`TopShares`."""


@dataclass(frozen=True)
class Evidence:
    """The evidence for the layer names of F features, m names a feature."""

    name_hold: np.ndarray
    """float32 [F, m], share of the feature's activation at (or just before) each name."""
    name_lift: np.ndarray
    """float32 [F, m], that share over the share of rows at (or before) the token; 0 where the
    token does not occur."""
    name_rows: np.ndarray
    """int32 [F, m], rows at (or before) the name on which the feature fires."""
    hold: np.ndarray
    """float32 [F], share of the feature's activation that its m names hold together."""
    verdict: np.ndarray
    """int8 [F], 1 holds, 0 no evidence, -1 contradicted."""


def evidence(firings: Firings, names: LayerNames, tokens: RowTokens) -> Evidence:
    """Test ``names`` on the firings of rows that had no part in making them.

    The verdict counts occasions: different pairs of a window and a token, so a word that one
    window repeats counts once. Of the n occasions of a feature, x have one of its names for their
    token; of all occasions of the text a share q has. A two-sided binomial test asks whether x / n
    is above ``LIFT`` q (holds) or below q (contradicted), and Benjamini and Hochberg's procedure
    (1995) keeps false discoveries over the dictionary to 5%.
    """
    total = activation_sums(firings, len(names.ids))
    named, activation, rows = _by_name(firings, names)
    share = share_of(activation, total[:, None])
    base = _base_rates(names, tokens)
    lift = np.divide(share, base, out=np.zeros_like(share), where=base > 0)
    occasions, hits = _occasions(firings, names, named, tokens)
    return Evidence(
        name_hold=share.astype(np.float32),
        name_lift=lift.astype(np.float32),
        name_rows=rows.astype(np.int32),
        hold=share.sum(axis=1).astype(np.float32),
        verdict=verdicts(hits, occasions, _occasion_rates(names, tokens)),
    )


def by_relation(names: LayerNames, at: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Of two arrays [F, ...], each feature's values in its relation."""
    is_at = (names.relation == AT).reshape(-1, *[1] * (at.ndim - 1))
    return np.where(is_at, at, before)


def _related_token(firings: Firings, names: LayerNames) -> np.ndarray:
    """Of each firing, the token that the names of its feature are compared with."""
    is_at = names.relation[firings.feature] == AT
    return np.where(is_at, firings.token, firings.next_token)


def _by_name(firings: Firings, names: LayerNames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each firing meets a name [n], and by name the activation and the rows [F, m]."""
    features, m = names.ids.shape
    equal = names.ids[firings.feature] == _related_token(firings, names)[:, None]
    named = equal.any(axis=1)
    index = firings.feature[named].astype(np.int64) * m + equal[named].argmax(axis=1)
    activation = np.bincount(index, firings.activation[named], features * m)
    rows = np.bincount(index, minlength=features * m)
    return named, activation.reshape(features, m), rows.reshape(features, m)


def _base_rates(names: LayerNames, tokens: RowTokens) -> np.ndarray:
    """[F, m], the share of observed rows at (or before) each name."""
    columns = (tokens.token, tokens.next_token)
    return by_relation(names, *(_rates(column[tokens.observed], names) for column in columns))


def _rates(tokens: np.ndarray, names: LayerNames) -> np.ndarray:
    """[F, m], the share of ``tokens`` that each name has."""
    size = int(names.ids.max(initial=0)) + 1
    counts = np.bincount(tokens[(tokens >= 0) & (tokens < size)], minlength=size)
    rates: np.ndarray = (counts / max(len(tokens), 1))[names.ids]
    return rates


def _occasion_rates(names: LayerNames, tokens: RowTokens) -> np.ndarray:
    """[F], the share of the text's occasions that have one of the feature's names."""
    rates = []
    for column in (tokens.token, tokens.next_token):
        pairs = np.stack([tokens.window, column], axis=1)[tokens.observed]
        rates.append(_rates(np.unique(pairs, axis=0)[:, 1], names).sum(axis=1))
    rate: np.ndarray = np.minimum(by_relation(names, *rates), 1.0)
    return rate


def _occasions(
    firings: Firings, names: LayerNames, named: np.ndarray, tokens: RowTokens
) -> tuple[np.ndarray, np.ndarray]:
    """Occasions on which each feature fires, and those with one of its names; int [F] each."""
    features = len(names.ids)
    # A window's end counts as a token of its own, 0.
    token = _related_token(firings, names).astype(np.int64) + 1
    window = tokens.window[firings.row].astype(np.int64)
    key = (window * (int(token.max(initial=0)) + 1) + token) * features + firings.feature
    _, first = np.unique(key, return_index=True)
    feature = firings.feature[first]
    hits = np.bincount(feature[named[first]], minlength=features)
    return np.bincount(feature, minlength=features), hits


def verdicts(hits: np.ndarray, occasions: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """int8 [F] from hits of so many occasions, against a base rate each; all [F]."""
    upper = binom.sf(hits - 1, occasions, np.minimum(LIFT * rate, 1.0))
    lower = binom.cdf(hits, occasions, rate)
    p = np.minimum(2 * np.minimum(upper, lower), 1.0)
    tested = occasions >= MIN_OCCASIONS
    rejected = np.zeros(len(p), bool)
    rejected[tested] = false_discovery_control(p[tested]) <= FALSE_DISCOVERIES
    sign = np.where(upper < lower, HOLDS, CONTRADICTED)
    return np.where(rejected, sign, NO_EVIDENCE).astype(np.int8)


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
