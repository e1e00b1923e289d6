"""The table that a user reads: features, their names, how well these fit, how often they fire."""

import textwrap
from typing import Literal

import numpy as np

from vasae_jax.dictionary.artefact import Dictionary
from vasae_jax.naming.claim import CLAIM, bucket_names, bucket_of

Sort = Literal["fire_rate", "cosine", "feature"]


def name_table(
    dictionary: Dictionary, top: int = 5, features: int = 40, sort: Sort = "fire_rate"
) -> str:
    """The ``features`` first features by ``sort``, with up to ``top`` names each.

    ``fire_rate``: those that fire most often first. ``cosine``: best aligned first, features
    that never fire after all that do. ``feature``: by number.
    """
    buckets = bucket_of(dictionary.cosines[:, 0])
    lines = [
        f"{'feature':>7}  {'fires':>8}  {'bucket':<6}  names (cosine to {_anchor(dictionary)})"
    ]
    for feature in _order(dictionary, sort)[:features]:
        rate = dictionary.fire_rate[feature]
        fires = f"{rate:.3%}" if rate > 0 else "never"
        bucket = bucket_names()[buckets[feature]]
        lines.append(f"{feature:>7}  {fires:>8}  {bucket:<6}  {_names(dictionary, feature, top)}")
    shown = min(features, dictionary.d_sae)
    lines += ["", f"{shown} of {dictionary.d_sae} features. Fires: share of the rows"]
    lines[-1] += f" ({dictionary.meta['fire_rate_over']})."
    return "\n".join([*lines, *textwrap.wrap(CLAIM, 90)]) + "\n"


def _anchor(dictionary: Dictionary) -> str:
    return str(dictionary.meta["anchor"])


def _order(dictionary: Dictionary, sort: Sort) -> list[int]:
    best, rate = dictionary.cosines[:, 0], dictionary.fire_rate
    if sort == "feature":
        return list(range(dictionary.d_sae))
    keys = (-rate, -best) if sort == "fire_rate" else (rate <= 0, -best)
    order: list[int] = np.lexsort(keys[::-1]).tolist()
    return order


def _names(dictionary: Dictionary, feature: int, top: int) -> str:
    ids = dictionary.token_ids[feature, :top].tolist()
    cosines = dictionary.cosines[feature, :top].tolist()
    return "  ".join(
        f"{dictionary.tokens[token][1]} {cosine:.2f}"
        for token, cosine in zip(ids, cosines, strict=True)
    )
