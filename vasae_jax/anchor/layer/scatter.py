"""How far a layer's rows scatter about their token's mean, as a measure of encoder rows.

An encoder row w answers a row of its token t, on the whole, with w a_t (a_t the token's anchor),
and scatters about that by s = sqrt(w S w), S the covariance of rows about their token's mean. How
well it tells t's rows from others is w a_t / s, largest for Fisher's discriminant c_t = S^-1 a_t.
With R the symmetric root of S, this is the cosine of w R and c_t R, but for a factor that t alone
sets. So near a detector means: near in the coordinates of R.

S is kept as its RANK largest directions and one variance for all others. A product of rows with R
is then two thin products; the pull (:mod:`vasae_jax.anchor.layer.pull`) needs no more.
"""

from typing import NamedTuple

import jax
import numpy as np

RANK = 64
"""Directions in which S is kept as it is."""
RIDGE = 0.01
"""What is added to S's diagonal, as a share of its mean."""


class Scatter(NamedTuple):
    """R = floor (I - U U^T) + U (floor + above) U^T, the symmetric root of S."""

    floor: jax.Array | np.ndarray
    """[] float32"""
    basis: jax.Array | np.ndarray
    """U, [d, r] float32 with orthonormal columns"""
    above: jax.Array | np.ndarray
    """[r] float32, at least 0"""


def scatter_of(within: np.ndarray) -> Scatter:
    """Of the covariance ``within`` [d, d] of rows about their token's mean."""
    covariance = within.astype(np.float64)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0) + RIDGE * max(float(np.mean(np.diag(covariance))), 1e-30)
    rank = min(RANK, len(values) - 1)
    rest = len(values) - rank
    floor = np.sqrt(values[:rest].mean())
    above = np.sqrt(values[rest:]) - floor
    return Scatter(*(x.astype(np.float32) for x in (np.asarray(floor), vectors[:, rest:], above)))


class Placed(NamedTuple):
    """Anchors by a scatter's measure, worked out once: a step then only looks them up."""

    scatter: Scatter
    along: jax.Array | np.ndarray
    """[A, r] float32, c U of each anchor c"""
    inverse: jax.Array | np.ndarray
    """[A] float32, 1 / sqrt(c S c), 0 for an anchor of no length"""


def placed(rows: np.ndarray, scatter: Scatter) -> Placed:
    """Of anchors ``rows`` [A, d]."""
    floor, basis, above = (np.asarray(part, np.float64) for part in scatter)
    along = rows @ basis.astype(np.float32)
    square = floor**2 * np.einsum("ad,ad->a", rows, rows, dtype=np.float64)
    square += np.square(along) @ ((floor + above) ** 2 - floor**2)
    with np.errstate(divide="ignore"):
        inverse = np.where(square > 0, 1 / np.sqrt(square), 0.0)
    return Placed(scatter, along, inverse.astype(np.float32))


def whitened(rows: np.ndarray, scatter: Scatter) -> np.ndarray:
    """``rows`` [n, d] times the inverse of R, float32."""
    floor, basis, above = (np.asarray(part) for part in scatter)
    change = 1 / (floor + above) - 1 / floor
    found: np.ndarray = rows / floor + ((rows @ basis) * change) @ basis.T
    return found
