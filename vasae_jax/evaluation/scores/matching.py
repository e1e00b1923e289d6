"""The matching game: of five features with like encoder rows, which one fires on a held-out row?

A round has a row, a feature that fires on it, and the features of nearest encoder row that do not.
A player sees the row's token and the next token, and what the candidates are called; nothing of
their activations. Chance is one in CANDIDATES. No language model plays: the rule is

1. a candidate one of whose names is the row's token (or its next token, where the names say
   *before*) comes before all others, and among those the one with the earlier name;
2. the others are ordered by the largest cosine between the embedding of that token and that of
   one of their names.

Candidates that are equal share the round: each counts one over their number.

A player who knows more than names shows how much the token can tell at all: he sees how often each
candidate fires at each token on training rows, and takes the largest ratio of the token's share of
the candidate's firings to its share of the text.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vasae_jax.dictionary.claims import AT, NO_NAME
from vasae_jax.evaluation.bootstrap import DocumentSums, Figure, figures, ratio
from vasae_jax.names.by_embedding import nearest_tokens
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.counts import FiringCounts
from vasae_jax.names.detection import MIN_FIRINGS
from vasae_jax.names.firings import Firings, RowTokens

CANDIDATES = 5
"""Features of a round, of which one fires."""
FEATURES = 1000
"""Features that rounds are about at most, drawn from those with MIN_FIRINGS firings or more."""
ROWS = 8
"""Rows of each such feature at most, drawn from those on which it fires."""
NEAREST = 64
"""Features of nearest encoder row among which the other candidates are."""
STRONG = 0.75
"""Share of a feature's firings that are no stronger than a row that counts as *strong*."""
PRIOR = 10.0
"""Firings that each feature is taken to have had besides, spread as the text is."""
SEED = 0
BLOCK = 256
"""Rounds worked on at once."""


class Rounds(NamedTuple):
    """R rounds of the game."""

    candidates: np.ndarray
    """int64 [R, CANDIDATES], features; the first fires on the row, and no other does"""
    row: np.ndarray
    """int64 [R], rows of the split"""
    strong: np.ndarray
    """bool [R], whether the feature's activation is in the upper quarter of its own"""


def draw_rounds(firings: Firings, W_enc: np.ndarray, seed: int = SEED) -> Rounds:
    """Draw rounds: features, rows on which each fires, and the nearest that do not fire there.

    A round without enough such features among the NEAREST is left out.

    Args:
        firings: on the observed rows of a split.
        W_enc: [F, d] encoder rows.
        seed: of the draws.
    """
    fired = np.bincount(firings.feature, minlength=len(W_enc))
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.flatnonzero(fired >= MIN_FIRINGS))[:FEATURES]
    near = near_features(W_enc, chosen, fired > 0)
    order = np.argsort(firings.feature, kind="stable")
    ends = np.cumsum(fired)
    fires = np.sort(_key(firings.row, firings.feature, len(W_enc)))
    parts = [_no_rounds()]
    for feature, others in zip(chosen, near, strict=True):
        own = order[ends[feature] - fired[feature] : ends[feature]]
        drawn = rng.permutation(own)[:ROWS]
        above = np.sort(firings.activation[own])
        rank = np.searchsorted(above, firings.activation[drawn], side="right")
        strong = rank > STRONG * len(own)
        parts.append(_rounds_of(feature, firings.row[drawn], strong, others, fires, len(W_enc)))
    return Rounds(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def near_features(W_enc: np.ndarray, chosen: np.ndarray, fires: np.ndarray) -> np.ndarray:
    """The NEAREST other features with ``fires`` [F] of each ``chosen`` [n], by encoder cosine.

    int64 [n, m] with m at most NEAREST; the nearest first.
    """
    firing = np.flatnonzero(fires)
    m = min(NEAREST, len(firing) - 1)
    if m < 1:
        return np.zeros((len(chosen), 0), np.int64)
    near = firing[nearest_tokens(W_enc[chosen], W_enc[firing], m + 1).ids]
    itself = near == chosen[:, None]
    # Equal rows may push a feature out of its own list: then the last one goes instead.
    itself[:, -1] |= ~itself.any(axis=1)
    others: np.ndarray = near[~itself].reshape(len(chosen), m)
    return others


def _key(row: np.ndarray, feature: np.ndarray | int, features: int) -> np.ndarray:
    key: np.ndarray = row.astype(np.int64) * features + feature
    return key


def _no_rounds() -> Rounds:
    return Rounds(np.zeros((0, CANDIDATES), np.int64), np.zeros(0, np.int64), np.zeros(0, bool))


def _rounds_of(
    feature: int,
    rows: np.ndarray,
    strong: np.ndarray,
    others: np.ndarray,
    fires: np.ndarray,
    features: int,
) -> Rounds:
    """The rounds of one feature; ``fires`` are the keys of all firings, ascending."""
    key = _key(rows[:, None], others, features)
    place = np.minimum(np.searchsorted(fires, key), len(fires) - 1)
    is_silent = fires[place] != key
    enough = is_silent.sum(axis=1) >= CANDIDATES - 1
    first = np.argsort(~is_silent[enough], axis=1, kind="stable")[:, : CANDIDATES - 1]
    count = int(enough.sum())
    silent = others[first] if count else np.zeros((0, CANDIDATES - 1), np.int64)
    candidates = np.concatenate([np.full((count, 1), feature), silent], axis=1)
    return Rounds(candidates.astype(np.int64), rows[enough].astype(np.int64), strong[enough])


def credit(scores: np.ndarray) -> np.ndarray:
    """What each round counts, [R]: 1 over the number of best ``scores`` [R, C], or 0.

    The right candidate is the first; NaN is not allowed.
    """
    is_best = scores == scores.max(axis=1, keepdims=True)
    shared: np.ndarray = np.where(is_best[:, 0], 1 / is_best.sum(axis=1), 0.0)
    return shared


def scores_by_names(
    names: LayerNames, rounds: Rounds, tokens: RowTokens, embedding: np.ndarray
) -> np.ndarray:
    """How well each candidate's names fit the row of its round, float64 [R, CANDIDATES].

    Args:
        names: of all features.
        rounds: of the game.
        tokens: of the split.
        embedding: float32 [V, d] of norm 1 (or 0), one row a token.
    """
    blocks = [slice(start, start + BLOCK) for start in range(0, len(rounds.row), BLOCK)]
    scores = [
        _fit(names, rounds.candidates[block], rounds.row[block], tokens, embedding)
        for block in blocks
    ]
    return np.concatenate([np.zeros((0, CANDIDATES)), *scores])


def _fit(
    names: LayerNames,
    candidates: np.ndarray,
    row: np.ndarray,
    tokens: RowTokens,
    embedding: np.ndarray,
) -> np.ndarray:
    """A match at column j of m counts 1 + m - j, no match its cosine, nothing known -1."""
    ids = names.ids[candidates]
    is_at = names.relation[candidates] == AT
    token = np.where(is_at, tokens.token[row][:, None], tokens.next_token[row][:, None])[..., None]
    is_match = (ids == token) & (token >= 0)
    known = (ids != NO_NAME) & (token >= 0)
    of_token, of_names = embedding[np.maximum(token[..., 0], 0)], embedding[np.maximum(ids, 0)]
    cosine = np.einsum("rcmd,rcd->rcm", of_names, of_token).astype(np.float64)
    m = ids.shape[2]
    fit = np.where(is_match, 1.0 + m - np.arange(m), np.where(known, cosine, -1.0))
    best: np.ndarray = fit.max(axis=2)
    return best


def scores_by_counts(counts: FiringCounts, rounds: Rounds, tokens: RowTokens) -> np.ndarray:
    """The lift of the row's token in each candidate's firings on training rows; [R, CANDIDATES].

    With h firings at the token of n, and q the token's share of the rows, the lift is
    (h + PRIOR q) / (n + PRIOR) / q; tokens that training rows lack count as met once.
    """
    at = counts.relations[AT]
    token = tokens.token[rounds.row][:, None]
    hits, fired = at.fired_at(rounds.candidates, token), counts.fired[rounds.candidates]
    share = np.maximum(at.rows[token], 1) / max(counts.rows, 1)
    lift: np.ndarray = (hits + PRIOR * share) / (fired + PRIOR) / share
    return lift


def matching_figures(
    credits: Mapping[str, np.ndarray], rounds: Rounds, documents: DocumentSums
) -> dict[str, dict[str, Figure]]:
    """The share of rounds that each player wins, of ``all`` and of ``strong`` rows.

    ``credits`` [R] are by player. Intervals are over documents.
    """
    return {
        name: _shares(credits, chosen, documents.group[rounds.row], len(documents))
        for name, chosen in (("all", np.ones(len(rounds.row), bool)), ("strong", rounds.strong))
    }


def _shares(
    credits: Mapping[str, np.ndarray], chosen: np.ndarray, group: np.ndarray, groups: int
) -> dict[str, Figure]:
    played = np.bincount(group[chosen], minlength=groups)
    won = {name: np.bincount(group[chosen], of[chosen], groups) for name, of in credits.items()}

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {name: ratio(weights @ part, weights @ played) for name, part in won.items()}

    return figures(measure, groups)
