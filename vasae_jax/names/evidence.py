"""What each layer name is worth on rows that had no part in making it.

A feature's names are tokens with a relation: it fires *at* them or *before* them. Watched on
held-out rows, each name holds a share of the feature's activation; and a test says whether the
feature meets its names more often than the text brings them.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from vasae_jax.dictionary.claims import AT
from vasae_jax.dictionary.claims import CONTRADICTED as CONTRADICTED
from vasae_jax.dictionary.claims import HOLDS as HOLDS
from vasae_jax.dictionary.claims import NO_EVIDENCE as NO_EVIDENCE
from vasae_jax.dictionary.claims import VERDICTS as VERDICTS
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.firings import Firings, Hold, Watched, name_hold, shuffled_hold

# What every relation between features and their names has in common.


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


# The input relation: does a feature fire at its name, or just before it?


@dataclass(frozen=True)
class InputRelation:
    """Mean over firing features of the share of their activation that a name is at hand for."""

    features: int
    """Features that fire."""
    names: int
    """Names of a feature that count, its nearest."""
    at: Share
    """At rows whose token is one of the names."""
    just_before: Share
    """At rows whose next token is one of the names."""


def input_relation(found: Firings, names: np.ndarray) -> InputRelation:
    """The input relation of ``names`` [F, m]; features that never fire do not count."""
    fires = np.bincount(found.feature, minlength=len(names)) > 0
    count = int(fires.sum())

    def mean(shares: np.ndarray) -> float:
        return float(shares[fires].mean()) if count else 0.0

    held: tuple[Hold, Hold] = (name_hold(found, names), shuffled_hold(found, names))
    at = Share(*(mean(hold.at) for hold in held))
    return InputRelation(count, names.shape[1], at, Share(*(mean(hold.before) for hold in held)))


LIFT = 2.0
"""A name holds where its feature meets it more than so many times as often as the text does."""
LEAST = 5
"""Occasions below which there is no evidence: a rare name met once or twice proves little."""
FALSE_DISCOVERIES = 0.05
"""Expected share of false ones among the verdicts other than "no evidence"."""


@dataclass(frozen=True)
class Evidence:
    """What the layer names of F features are worth; m names a feature."""

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


def evidence(found: Firings, names: LayerNames, watched: Watched) -> Evidence:
    """Weigh ``names`` on the firings of rows that had no part in making them.

    The verdict counts occasions: different pairs of a window and a token, so that a word that
    one window repeats counts once. Of the n occasions of a feature, x have one of its names for
    their token; of all occasions of the text a share q has. A two-sided binomial test asks
    whether x / n is above ``LIFT`` q (holds) or below q (contradicted), and Benjamini and
    Hochberg's procedure (1995) keeps false discoveries over the dictionary to 5%.
    """
    features = len(names.ids)
    total = np.bincount(found.feature, found.activation, features)
    met, activation, rows = _by_name(found, names)
    share = activation / np.where(total == 0, 1, total)[:, None]
    base = _base_rates(names, watched)
    lift = np.divide(share, base, out=np.zeros_like(share), where=base > 0)
    occasions, hits = _occasions(found, names, met, watched)
    verdict = verdicts(hits, occasions, _occasion_rates(names, watched))
    return Evidence(
        name_hold=share.astype(np.float32),
        name_lift=lift.astype(np.float32),
        name_rows=rows.astype(np.int32),
        hold=share.sum(axis=1).astype(np.float32),
        verdict=verdict,
    )


def verdicts(hits: np.ndarray, occasions: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """int8 [F] from hits of so many occasions, against a base rate each; all [F]."""
    upper = binom.sf(hits - 1, occasions, np.minimum(LIFT * rate, 1.0))
    lower = binom.cdf(hits, occasions, rate)
    tested = occasions >= LEAST
    chosen = _discoveries(np.where(tested, 2 * np.minimum(upper, lower), 1.0), tested)
    sign = np.where(upper < lower, HOLDS, CONTRADICTED)
    return np.where(chosen, sign, NO_EVIDENCE).astype(np.int8)


def _discoveries(p: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """bool [F]: Benjamini and Hochberg's choice among the tested."""
    order = np.argsort(p[tested], kind="stable")
    count = len(order)
    below = p[tested][order] <= FALSE_DISCOVERIES * np.arange(1, count + 1) / max(count, 1)
    last = int(np.flatnonzero(below).max(initial=-1))
    chosen = np.zeros(count, bool)
    chosen[order[: last + 1]] = True
    out = np.zeros(len(p), bool)
    out[tested] = chosen
    return out


def _token(found: Firings, names: LayerNames) -> np.ndarray:
    """The token of each firing that its feature's names are held against."""
    return np.where(names.relation[found.feature] == AT, found.token, found.following)


def _by_name(found: Firings, names: LayerNames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each firing meets a name [n], and by name the activation and the rows [F, m]."""
    features, m = names.ids.shape
    equal = names.ids[found.feature] == _token(found, names)[:, None]
    met = equal.any(axis=1)
    place = found.feature[met].astype(np.int64) * m + equal[met].argmax(axis=1)
    activation = np.bincount(place, found.activation[met], features * m)
    rows = np.bincount(place, minlength=features * m)
    return met, activation.reshape(features, m), rows.reshape(features, m)


def _base_rates(names: LayerNames, watched: Watched) -> np.ndarray:
    """[F, m], the share of watched rows at (or before) each name."""
    size = int(names.ids.max(initial=0)) + 1
    at, before = (_rates(tokens[watched.seen], size) for tokens in (watched.at, watched.before))
    rates: np.ndarray = np.where(names.relation[:, None] == AT, at[names.ids], before[names.ids])
    return rates


def _rates(tokens: np.ndarray, size: int) -> np.ndarray:
    counts = np.bincount(tokens[(tokens >= 0) & (tokens < size)], minlength=size)
    rates: np.ndarray = counts / max(len(tokens), 1)
    return rates


def _occasion_rates(names: LayerNames, watched: Watched) -> np.ndarray:
    """[F], the share of the text's occasions that have one of the feature's names."""
    size = int(names.ids.max(initial=0)) + 1
    rates = []
    for tokens in (watched.at, watched.before):
        pairs = np.stack([watched.window, tokens], axis=1)[watched.seen]
        rates.append(_rates(np.unique(pairs, axis=0)[:, 1], size))
    at, before = (rate[names.ids].sum(axis=1) for rate in rates)
    rate: np.ndarray = np.minimum(np.where(names.relation == AT, at, before), 1.0)
    return rate


def _occasions(
    found: Firings, names: LayerNames, met: np.ndarray, watched: Watched
) -> tuple[np.ndarray, np.ndarray]:
    """Occasions on which each feature fires, and those at one of its names; int [F] each."""
    features = len(names.ids)
    token = _token(found, names).astype(np.int64) + 1  # a window's end is a token of its own
    window = watched.window[found.row].astype(np.int64)
    key = (window * (int(token.max(initial=0)) + 1) + token) * features + found.feature
    _, first = np.unique(key, return_index=True)
    feature = found.feature[first]
    hits = np.bincount(feature[met[first]], minlength=features)
    return np.bincount(feature, minlength=features), hits
