"""Layer anchors as unit rows to be near to."""

from typing import NamedTuple

import jax
import numpy as np

from vasae_jax.anchor.token_means import TOKENS, LayerAnchors
from vasae_jax.utils.errors import UserError

KINDS = {"here": ("here",), "next": ("next",), "both": ("here", "next")}
"""Which relations' rows a kind has, one after the other."""


def anchor_rows(anchors: LayerAnchors, kind: str) -> np.ndarray:
    """Unit float32 rows: [V, d] for ``here`` and ``next``, [2V, d] for ``both``.

    In ``both`` row i is of token i % V, and of relation i // V: 0 at it, 1 before it. Rows of
    norm 0 stay 0.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"layer anchors of kind {kind!r}; expected one of {', '.join(KINDS)}")
    return unit_blocks(np.concatenate([getattr(anchors, name) for name in KINDS[kind]]))


def unit_blocks(rows: np.ndarray) -> np.ndarray:
    """``rows`` [n, d] float32, made unit in place block by block; rows of norm 0 stay 0."""
    for start in range(0, len(rows), TOKENS):
        block = rows[start : start + TOKENS]
        norms = np.linalg.norm(block.astype(np.float64), axis=1, keepdims=True)
        block[...] = block / np.where(norms == 0, 1.0, norms)
    return rows


# How far a layer's rows scatter about their token's mean, as a measure of encoder rows.
#
# An encoder row w answers a row of its token t, on the whole, with w a_t (a_t the token's anchor),
# and scatters about that by s = sqrt(w S w), S the covariance of rows about their token's mean. How
# well it tells t's rows from others is w a_t / s, largest for Fisher's discriminant c_t = S^-1 a_t.
# With R the symmetric root of S, this is the cosine of w R and c_t R, but for a factor that t alone
# sets. So near a detector means: near in the coordinates of R.
#
# S is kept as its RANK largest directions and one variance for all others. A product of rows with R
# is then two thin products; the pull (:mod:`vasae_jax.anchor.layer.pull`) needs no more.


RANK = 64
"""Directions in which S is kept as it is."""
RIDGE = 0.01
"""What is added to S's diagonal, as a share of its mean."""


class WithinCov(NamedTuple):
    """R = floor (I - U U^T) + U (floor + above) U^T, the symmetric root of S."""

    floor: jax.Array | np.ndarray
    """[] float32"""
    basis: jax.Array | np.ndarray
    """U, [d, r] float32 with orthonormal columns"""
    above: jax.Array | np.ndarray
    """[r] float32, at least 0"""


def within_cov_of(within: np.ndarray) -> WithinCov:
    """Of the covariance ``within`` [d, d] of rows about their token's mean."""
    covariance = within.astype(np.float64)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0) + RIDGE * max(float(np.mean(np.diag(covariance))), 1e-30)
    rank = min(RANK, len(values) - 1)
    rest = len(values) - rank
    floor = np.sqrt(values[:rest].mean())
    above = np.sqrt(values[rest:]) - floor
    return WithinCov(*(x.astype(np.float32) for x in (np.asarray(floor), vectors[:, rest:], above)))


class WhitenedAnchors(NamedTuple):
    """Anchors by a scatter's measure, worked out once: a step then only looks them up."""

    within_cov: WithinCov
    along: jax.Array | np.ndarray
    """[A, r] float32, c U of each anchor c"""
    inverse: jax.Array | np.ndarray
    """[A] float32, 1 / sqrt(c S c), 0 for an anchor of no length"""


def whitened_anchors(rows: np.ndarray, within_cov: WithinCov) -> WhitenedAnchors:
    """Of anchors ``rows`` [A, d]."""
    floor, basis, above = (np.asarray(part, np.float64) for part in within_cov)
    along = rows @ basis.astype(np.float32)
    square = floor**2 * np.einsum("ad,ad->a", rows, rows, dtype=np.float64)
    square += np.square(along) @ ((floor + above) ** 2 - floor**2)
    with np.errstate(divide="ignore"):
        inverse = np.where(square > 0, 1 / np.sqrt(square), 0.0)
    return WhitenedAnchors(within_cov, along, inverse.astype(np.float32))


def whiten(rows: np.ndarray, within_cov: WithinCov) -> np.ndarray:
    """``rows`` [n, d] times the inverse of R, float32."""
    floor, basis, above = (np.asarray(part) for part in within_cov)
    change = 1 / (floor + above) - 1 / floor
    found: np.ndarray = rows / floor + ((rows @ basis) * change) @ basis.T
    return found


# Detectors: the directions that tell each token's rows of a layer from all others.


FEW = 20
"""A token seen on fewer rows has no detector: its mean row is as much chance as it is the token."""


def detector_rows(anchors: LayerAnchors, kind: str) -> tuple[np.ndarray, WithinCov]:
    """Unit float32 rows [A, d], one for each token seen on FEW rows; and how rows are measured.

    A token's detector is S^-1 a, with a its anchor and S the covariance of rows about their
    token's mean, as :mod:`vasae_jax.anchor.layer.scatter` keeps it: Fisher's linear discriminant
    between the rows at the token and all rows. ``both`` has those of rows at a token first, then
    those of rows before one, in the order of the tokens; both are measured by how rows scatter
    about the token that they are at.

    Raises:
        UserError: there is no such kind, or no token has a detector.
    """
    if kind not in KINDS:
        raise UserError(f"layer anchors of kind {kind!r}; expected one of {', '.join(KINDS)}")
    within_cov = within_cov_of(anchors.here_within)
    rows = np.concatenate([_detectors(anchors, name, within_cov) for name in KINDS[kind]])
    if len(rows) == 0:
        raise UserError(
            f"no token was seen on {FEW} rows, so that nothing tells one from others; expected a "
            "cache of more text, or --anchor.pulls=decoder"
        )
    return rows, within_cov


def _detectors(anchors: LayerAnchors, relation: str, within_cov: WithinCov) -> np.ndarray:
    seen = getattr(anchors, f"{relation}_count") >= FEW
    return unit_blocks(whiten(whiten(getattr(anchors, relation)[seen], within_cov), within_cov))
