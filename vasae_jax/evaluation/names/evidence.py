"""What each layer name is worth on rows that had no part in making it.

A feature's names are tokens with a relation: it fires *at* them or *before* them. Watched on
held-out rows, each name holds a share of the feature's activation; and a test says whether the
feature meets its names more often than the text brings them.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from vasae_jax.evaluation.contexts import Firings, Watched
from vasae_jax.named.words import CONTRADICTED as CONTRADICTED
from vasae_jax.named.words import HOLDS as HOLDS
from vasae_jax.named.words import NO_EVIDENCE as NO_EVIDENCE
from vasae_jax.named.words import VERDICTS as VERDICTS
from vasae_jax.naming.layer import AT, LayerNames

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
