"""Stability: do the features of another run or checkpoint bear the same names?"""

from dataclasses import dataclass

import jax
import numpy as np

from vasae_jax.evaluation.names.relation import Share
from vasae_jax.naming.nearest import nearest


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two dictionaries over the same rows."""

    W_dec: np.ndarray | jax.Array
    """[F, d]"""
    names: np.ndarray
    """int [F], each feature's name"""
    fires: np.ndarray
    """bool [F]"""


@dataclass(frozen=True)
class Stability:
    """How features of one dictionary are found again in another one."""

    features: int
    """Features of the first that fire."""
    candidates: int
    """Features of the second that fire."""
    mean_max_cosine: float
    """Mean over the first of the largest decoder cosine to one of the second."""
    same_name: Share
    """Share of the first whose match, the one of that cosine, bears the same name."""


def stability(first: Side, second: Side) -> Stability:
    """Match each firing feature of ``first`` with the firing one of ``second`` nearest to it.

    Several features may have the same match. Dead features neither match nor are matched.

    Raises:
        UserError: the widths differ, or a row is not finite.
    """
    mine, others = np.flatnonzero(first.fires), np.flatnonzero(second.fires)
    if not len(mine) or not len(others):
        nothing = Share(named=0.0, shuffled=0.0)
        return Stability(len(mine), len(others), mean_max_cosine=0.0, same_name=nothing)
    ids, cosines = nearest(np.asarray(first.W_dec)[mine], np.asarray(second.W_dec)[others])
    names, matched = first.names[mine], second.names[others][ids]
    size = int(max(first.names.max(), second.names.max())) + 1
    bearers = np.bincount(second.names[others], minlength=size)
    chance = float(bearers[names].mean()) / len(others)
    same = Share(float(np.mean(names == matched)), chance)
    return Stability(len(mine), len(others), float(cosines.astype(np.float64).mean()), same)
