"""What a quickstart tells at its end: the measures, and named features with where they fire."""

import textwrap

import numpy as np

from vasae_jax.dictionary.artefact import Dictionary
from vasae_jax.evaluation.contexts import (
    Firings,
    Hold,
    contexts,
    firings,
    largest,
    name_hold,
    shuffled_hold,
)
from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.names.relation import spread_features
from vasae_jax.naming.claim import CLAIM
from vasae_jax.training.trained import Run

SHOWN = 12
"""Features in each of the two tables."""
OFTEN = 0.001
"""Share of rows on which a feature of the first table fires at least."""
TOKENS = 3
"""Tokens listed for each feature and place."""


def summary(run: Run, dictionary: Dictionary, evaluation: Evaluation) -> str:
    """The evaluation, how well names hold, and two tables: the best names and typical ones."""
    found = firings(run.params, run.cache, run.config, evaluation.split)
    hold = name_hold(found, dictionary.token_ids)
    best = best_features(dictionary, hold)
    parts = [
        evaluation.table(),
        hold_lines(found, hold, dictionary),
        f"Names that hold best, of features that fire on at least {OFTEN:.1%} of the rows",
        feature_table(run, found, dictionary, best),
        "Typical features: evenly spaced, from those that fire most to those that fire least",
        feature_table(run, found, dictionary, typical_features(dictionary)),
        "\n".join(textwrap.wrap(CLAIM, 90)),
    ]
    return "\n\n".join(["", *parts])


def hold_lines(found: Firings, hold: Hold, dictionary: Dictionary) -> str:
    """Mean share of a firing feature's activation that its names are at hand for."""
    names = dictionary.token_ids
    shuffled = shuffled_hold(found, names)
    fires = np.bincount(found.feature, minlength=len(names)) > 0
    lines = [f"activation of a firing feature near its {names.shape[1]} names, mean (shuffled)"]
    for place, mine, other in (
        ("at", hold.at, shuffled.at),
        ("just before", hold.before, shuffled.before),
    ):
        lines.append(f"  {place} one of them: {mine[fires].mean():.2%} ({other[fires].mean():.2%})")
    return "\n".join(lines)


def best_features(dictionary: Dictionary, hold: Hold) -> list[int]:
    """The SHOWN features most of whose activation lies at or before their names."""
    often = dictionary.fire_rate >= OFTEN
    score = np.where(often, np.maximum(hold.at, hold.before), -1.0)
    best: list[int] = np.argsort(-score, kind="stable")[: min(SHOWN, int(often.sum()))].tolist()
    return best


def typical_features(dictionary: Dictionary) -> list[int]:
    """SHOWN features evenly spaced in the order of fire rate, of those that fire."""
    features: list[int] = spread_features(dictionary.fire_rate, SHOWN).tolist()
    return features


def feature_table(run: Run, found: Firings, dictionary: Dictionary, features: list[int]) -> str:
    """Names of ``features`` beside the tokens that they fire at and fire before."""
    vocab = run.cache.vocab()
    where = contexts(found, features, len(vocab))

    def shares(row: np.ndarray) -> str:
        return "  ".join(
            f"{vocab.display(token)} {share:.0%}" for token, share in largest(row, TOKENS)
        )

    lines = [("feature", "fires", "cosine", "name", "fires at", "just before")]
    for place, feature in enumerate(features):
        cosine = f"{dictionary.cosines[feature, 0]:.2f}"
        name = vocab.display(int(dictionary.token_ids[feature, 0]))
        line = (str(feature), f"{dictionary.fire_rate[feature]:.2%}", cosine, name)
        lines.append((*line, shares(where.at[place]), shares(where.before[place])))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join([*(f"{text:<{w}}" for text, w in zip(line[:5], widths, strict=True)), line[5]])
        for line in lines
    )
