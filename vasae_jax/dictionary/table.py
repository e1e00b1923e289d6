"""The table that a user reads: features, their names, what these hold, how often they fire."""

import textwrap
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from vasae_jax.dictionary.artefact import Dictionary
from vasae_jax.evaluation.names.evidence import HOLDS, VERDICTS
from vasae_jax.naming.claim import CLAIM, LAYER_CLAIM
from vasae_jax.naming.layer import RELATIONS

Sort = Literal["hold", "fire_rate", "cosine", "feature"]
SORTS: tuple[Sort, ...] = get_args(Sort)
OFTEN = 0.001
"""Share of rows on which a feature fires that is shown as one of the best, at least: of one that
fires on few rows a name may hold all by chance."""
HEAD = ("feature", "fires", "holds", "verdict", "", "layer names (share held)", "by embedding")


def name_table(
    dictionary: Dictionary,
    top: int = 5,
    features: int = 40,
    sort: Sort = "hold",
    verdict: str | None = None,
) -> str:
    """The ``features`` first features by ``sort``, with up to ``top`` layer names each.

    Features whose names hold come before all others, except with ``feature``. Among them,
    ``hold``: most of whose activation is held; ``fire_rate``: that fire most often; ``cosine``:
    best aligned to an embedding. ``feature``: all by number. Only those of a ``verdict``, in
    words, if one is given.
    """
    chosen = [f for f in _order(dictionary, sort) if verdict in (None, _verdict(dictionary, f))]
    shown = chosen[:features]
    lines = [HEAD, *(_line(dictionary, feature, top) for feature in shown)]
    meta = dictionary.meta
    end = [
        f"{len(shown)} of {dictionary.d_sae} features.",
        f"Fires: over the {meta['fire_rate_over']}. Holds: over the {meta['hold_over']}.",
    ]
    end += textwrap.wrap(LAYER_CLAIM, 90)
    end += textwrap.wrap(f"By embedding ({meta['anchor']}): {CLAIM}", 90)
    return "\n".join([*aligned(lines), "", *end]) + "\n"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equally many cells as text, each column but the last as wide as its widest."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
    return [
        "  ".join([*(f"{text:<{w}}" for text, w in zip(line[:-1], widths, strict=True)), line[-1]])
        for line in lines
    ]


def _line(dictionary: Dictionary, feature: int, top: int) -> tuple[str, ...]:
    rate = dictionary.fire_rate[feature]
    token, cosine = dictionary.token_ids[feature, 0], dictionary.cosines[feature, 0]
    return (
        str(feature),
        f"{rate:.3%}" if rate > 0 else "never",
        f"{dictionary.hold[feature]:.0%}",
        _verdict(dictionary, feature),
        RELATIONS[dictionary.layer_relation[feature]],
        layer_names_text(dictionary, feature, top),
        f"{dictionary.tokens[int(token)][1]} {cosine:.2f}",
    )


def layer_names_text(dictionary: Dictionary, feature: int, top: int) -> str:
    """Up to ``top`` layer names of a feature, each with the share that it holds."""
    ids = dictionary.layer_token_ids[feature, :top].tolist()
    shares = dictionary.layer_hold[feature, :top].tolist()
    return "  ".join(
        f"{dictionary.tokens[token][1]} {share:.0%}"
        for token, share in zip(ids, shares, strict=True)
    )


def _verdict(dictionary: Dictionary, feature: int) -> str:
    return VERDICTS[int(dictionary.verdict[feature])]


def best_features(dictionary: Dictionary, count: int) -> list[int]:
    """The features that fire OFTEN and whose names hold, at most ``count``: most held, first."""
    often = (dictionary.fire_rate >= OFTEN) & (dictionary.verdict == HOLDS)
    return [feature for feature in _order(dictionary, "hold") if often[feature]][:count]


def _order(dictionary: Dictionary, sort: Sort) -> list[int]:
    if sort == "feature":
        return list(range(dictionary.d_sae))
    rate = dictionary.fire_rate
    by = {"hold": dictionary.hold, "fire_rate": rate, "cosine": dictionary.cosines[:, 0]}
    keys = (dictionary.verdict != HOLDS, rate <= 0, -by[sort])
    order: list[int] = np.lexsort(keys[::-1]).tolist()
    return order
