"""The input relation: does a feature fire at its name, or just before it?"""

from dataclasses import dataclass

import numpy as np

from vasae_jax.evaluation.contexts import Firings, Hold, name_hold, shuffled_hold
from vasae_jax.evaluation.names.relation import Share


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
