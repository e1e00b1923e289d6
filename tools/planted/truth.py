"""Learned features held against planted ones: which are the same, and which names are right.

A learned feature *matches* a planted one if their directions have a cosine of COSINE or more, and
their firing on held-out rows has a correlation of CORRELATION or more; of several it matches the
one with the largest correlation. A planted feature is *recovered* if one matches it.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from layer import CONTEXT, DENSE, KINDS, PAIR, Layer, Rule

from vasae_jax.dictionary.claims import HOLDS, RELATIONS, UNTESTED, VERDICTS
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.evidence import Evidence
from vasae_jax.names.firings import FiringObserver

COSINE, CORRELATION = 0.7, 0.5
"""Least cosine of directions and least correlation of firing of features that are the same."""
MIN_FIRINGS = 5
"""Held-out rows on which a feature must fire, planted or learned, to count."""
WITH_TOKEN = (0, 1, 2)
"""Kinds whose features names can say in full: at one token, at several, before one."""
WITHOUT_TOKEN = (CONTEXT, DENSE)


@dataclass(frozen=True)
class Learned:
    """The features of a run on the held-out rows, with their names, tested ones first."""

    W_dec: np.ndarray
    """float32 [F, d]"""
    observer: FiringObserver
    names: LayerNames
    evidence: Evidence

    def fires(self) -> scipy.sparse.csr_matrix:
        """Whether each feature fires, float64 [observed rows, F]."""
        firings, observed = self.observer.firings(), self.observer.row_tokens().observed
        row = np.cumsum(observed)[firings.row] - 1
        shape = (int(observed.sum()), len(self.W_dec))
        return scipy.sparse.csr_matrix((np.ones(len(row)), (row, firings.feature)), shape)


@dataclass(frozen=True)
class Matches:
    """Which learned features are which planted ones."""

    planted: np.ndarray
    """int [F], the planted feature that each learned one matches, -1 for none"""
    counts: np.ndarray
    """bool [F], learned features that fire often enough to count"""
    live: np.ndarray
    """bool [P], planted features that do"""
    direction: np.ndarray
    """bool [F], whether the direction of each learned feature is that of some planted one"""
    firing: np.ndarray
    """bool [F], whether its firing is"""

    @property
    def recovered(self) -> np.ndarray:
        """bool [P], planted features that a learned one matches."""
        return np.isin(np.arange(len(self.live)), self.planted[self.counts])


def match(
    layer: Layer, learned: Learned, cosine: float = COSINE, correlation: float = CORRELATION
) -> Matches:
    """Match the features of a run that was trained on the rows of ``layer``."""
    rows = np.flatnonzero(layer.text.heldout)[learned.observer.row_tokens().observed]
    planted, fires = (layer.activations[rows] > 0).astype(np.float64), learned.fires()
    live = np.asarray(planted.sum(axis=0)).ravel() >= MIN_FIRINGS
    phi = np.where(live, correlations(fires, planted), -1.0)
    directions = learned.W_dec / np.linalg.norm(learned.W_dec, axis=1, keepdims=True)
    near, together = directions @ layer.directions.T >= cosine, phi >= correlation
    same = near & together
    best = np.where(same, phi, -1.0).argmax(axis=1)
    return Matches(
        planted=np.where(same.any(axis=1), best, -1),
        counts=learned.evidence.fired >= MIN_FIRINGS,
        live=live,
        direction=(near & live).any(axis=1),
        firing=together.any(axis=1),
    )


def correlations(first: scipy.sparse.csr_matrix, second: scipy.sparse.csr_matrix) -> np.ndarray:
    """Pearson's correlation of each column of 0 and 1 of ``first`` with each of ``second``."""
    rows = first.shape[0]
    p, q = (np.asarray(matrix.sum(axis=0)).ravel() / rows for matrix in (first, second))
    both = (first.T @ second).toarray() / rows
    variance = np.outer(p * (1 - p), q * (1 - q))
    return (both - np.outer(p, q)) / np.sqrt(np.maximum(variance, 1e-30))


def is_right(rule: Rule, relation: int, name: int) -> bool:
    """Whether a name, a token in a relation, is one of those of a planted feature."""
    return bool(rule.tokens) and rule.relation == relation and name in rule.tokens


def has_feature(layer: Layer) -> np.ndarray:
    """bool [2, V]: whether some planted feature fires at (or before) each token by its rule."""
    found = np.zeros((len(RELATIONS), len(layer.text.strings)), bool)
    for rule in layer.rules:
        found[rule.relation, list(rule.tokens)] = True
    return found


def is_token_mean(layer: Layer, learned: Learned) -> np.ndarray:
    """bool [F]: whether a feature writes what all planted ones add up to at (before) its name.

    That is the mean row there, less that of all rows; COSINE decides.
    """
    size, found = len(layer.text.strings), np.zeros(len(learned.W_dec), bool)
    name = learned.names.ids[:, 0]
    for relation, token in enumerate((layer.text.token, layer.text.next_token)):
        rows = np.flatnonzero(token >= 0)
        shape = (size, len(token))
        of_token = scipy.sparse.csr_matrix((np.ones(len(rows)), (token[rows], rows)), shape)
        count = np.maximum(np.asarray(of_token.sum(axis=1)), 1)
        active = (of_token @ layer.activations).toarray() / count
        means = (active - np.asarray(layer.activations.mean(axis=0))) @ layer.directions
        chosen = (learned.names.relation == relation) & (name >= 0)
        found[chosen] = cosines(learned.W_dec[chosen], means[name[chosen]]) >= COSINE
    return found


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosine of each row of ``first`` with the same row of ``second``; 0 for rows of 0."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.sum(first * second, axis=1) / np.maximum(norms, 1e-30)


Tally = dict[str, tuple[int, int]]
"""How many of how many, by what is counted."""


def tally(layer: Layer, learned: Learned, matches: Matches) -> Tally:
    """Everything that is counted of one run."""
    verdict = learned.evidence.verdict
    relation, name = learned.names.relation, learned.names.ids[:, 0]
    kind = np.where(matches.planted < 0, -1, layer.kinds[matches.planted])
    right = np.array(
        [
            found >= 0 and verdict[i] != UNTESTED and is_right(layer.rules[found], *of)
            for i, (found, of) in enumerate(
                zip(matches.planted, zip(relation, name, strict=True), strict=True)
            )
        ]
    )
    planted_there = (name >= 0) & has_feature(layer)[relation, name]
    counts = matches.counts
    token, tokenless = np.isin(kind, WITH_TOKEN), np.isin(kind, WITHOUT_TOKEN)
    return {
        **_recovered(layer, matches),
        "matched, with a token: named rightly": _of(right, counts & token),
        "matched, pair: named by its second token": _of(right, counts & (kind == PAIR)),
        **_verdicts("matched, without a token", verdict, counts & tokenless),
        **_verdicts("matched, with a token", verdict, counts & token),
        **_verdicts("matches nothing", verdict, counts & (kind < 0)),
        **_made(kind, right, planted_there, counts & (verdict == HOLDS)),
        "holds, matches none: writes the mean row of its name": _of(
            is_token_mean(layer, learned), counts & (kind < 0) & (verdict == HOLDS)
        ),
        "matches nothing: fires as a planted one, which writes otherwise": _of(
            matches.firing, counts & (kind < 0)
        ),
        "matches nothing: writes as a planted one, which fires otherwise": _of(
            matches.direction & ~matches.firing, counts & (kind < 0)
        ),
    }


def _recovered(layer: Layer, matches: Matches) -> Tally:
    kinds = {name: layer.kinds == kind for kind, name in enumerate(KINDS)}
    kinds["with a token"] = np.isin(layer.kinds, WITH_TOKEN)
    kinds["all"] = np.ones_like(matches.live)
    return {
        f"recovered, {name}": _of(matches.recovered, matches.live & chosen)
        for name, chosen in kinds.items()
    }


def _verdicts(what: str, verdict: np.ndarray, chosen: np.ndarray) -> Tally:
    return {f"{what}: {word}": _of(verdict == of, chosen) for of, word in VERDICTS.items()}


def _made(kind: np.ndarray, right: np.ndarray, planted: np.ndarray, holds: np.ndarray) -> Tally:
    """What the features are whose name holds: ``planted`` says if the layer has one there."""
    unmatched = kind < 0
    return {
        "holds: matches a feature of that name": _of(right, holds),
        "holds: matches another feature": _of(~unmatched & ~right, holds),
        "holds: matches none, a planted one has the name": _of(unmatched & planted, holds),
        "holds: matches none, no planted one has the name": _of(unmatched & ~planted, holds),
    }


def _of(what: np.ndarray, among: np.ndarray) -> tuple[int, int]:
    return int(np.sum(what & among)), int(np.sum(among))
