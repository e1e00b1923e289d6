"""Layer anchors as unit rows to be near to: mean rows for decoder rows, detectors for encoder rows.

An encoder row w answers a row of its token t, on average, with w a_t (a_t the token's anchor), and
varies about that by s = sqrt(w S w), S the covariance of rows about their token's mean. How well
it tells t's rows from others is w a_t / s, largest for Fisher's linear discriminant c_t = S^-1 a_t,
the token's *detector*. With R the symmetric root of S, this is the cosine of w R and c_t R, but for
a factor that t alone sets. Near a detector therefore means: near in the coordinates of R.

S is kept as its RANK largest directions and one variance for all others. A product of rows with R
is then two thin products, and the pull (:mod:`vasae_jax.anchor.loss`) needs no more.
"""

from typing import NamedTuple

import jax
import numpy as np

from vasae_jax.anchor.token_means import TOKENS, LayerAnchors, TokenMeans
from vasae_jax.utils.errors import UserError

KINDS = {"at": ("at",), "before": ("before",), "both": ("at", "before")}
"""Which relations' rows a kind has, one after the other."""
FEW = 20
"""A token seen on fewer rows has no detector: its mean row is as much chance as it is the token."""
RANK = 64
"""Directions in which S is kept as it is."""
RIDGE = 0.01
"""What is added to S's diagonal, as a share of its mean."""


def anchor_rows(anchors: LayerAnchors, kind: str) -> np.ndarray:
    """Unit float32 rows: [V, d] for ``at`` and ``before``, [2V, d] for ``both``.

    In ``both`` row i is of token i % V, and of relation i // V: 0 at it, 1 before it. Rows of
    norm 0 stay 0.

    Raises:
        UserError: there is no such kind.
    """
    return normalize_rows(np.concatenate([means.rows for means in means_of(anchors, kind)]))


def means_of(anchors: LayerAnchors, kind: str) -> list[TokenMeans]:
    """The means of a kind's relations, in order; raises UserError where there is no such kind."""
    if kind not in KINDS:
        raise UserError(f"layer anchors of kind {kind!r}; expected one of {', '.join(KINDS)}")
    return [getattr(anchors, relation) for relation in KINDS[kind]]


def normalize_rows(rows_ND: np.ndarray) -> np.ndarray:
    """The float32 rows, made unit in place block by block; rows of norm 0 stay 0."""
    for start in range(0, len(rows_ND), TOKENS):
        block = rows_ND[start : start + TOKENS]
        norms = np.linalg.norm(block.astype(np.float64), axis=1, keepdims=True)
        block[...] = block / np.where(norms == 0, 1.0, norms)
    return rows_ND


def detector_rows(anchors: LayerAnchors, kind: str) -> tuple[np.ndarray, "WithinCov"]:
    """Unit float32 detectors [A, d], one for each token seen on FEW rows; and S.

    ``both`` has the detectors of rows at a token first, then those of rows before one, in the order
    of the tokens; both use the covariance of rows about the token that they are at.

    Raises:
        UserError: there is no such kind, or no token has a detector.
    """
    often = [means.rows[means.count >= FEW] for means in means_of(anchors, kind)]
    within_cov = within_cov_of(anchors.at.within)
    rows_AD = np.concatenate(
        [normalize_rows(whiten(whiten(rows, within_cov), within_cov)) for rows in often]
    )
    if len(rows_AD) == 0:
        raise UserError(
            f"no token of the cache is seen on {FEW} rows, and the encoder is pulled towards such "
            "tokens alone; expected a cache of more text, or --anchor.pulls=decoder"
        )
    return rows_AD, within_cov


class TokenStart(NamedTuple):
    """Features that start at a token each, n of them."""

    W_enc: np.ndarray
    """[n, d] float32; a row's product with its token's mean row is that row's length"""
    W_dec: np.ndarray
    """[n, d] float32 unit rows, along the tokens' mean rows; 0 for a token without a detector"""
    threshold: np.ndarray
    """[n] float32, half the length of the tokens' mean rows"""


def token_start(
    anchors: LayerAnchors, kind: str, count: int, within_cov: "WithinCov"
) -> TokenStart:
    """Fisher's discriminant of each of the ``count`` most frequent tokens as a feature.

    The encoder row is the token's detector, scaled so that the mean row is reconstructed; between
    that and the mean of all rows, where the product is 0, lies the threshold. ``both`` starts
    features at tokens, none before. Of tokens seen as often the one with the smaller id comes
    first; one seen on fewer than FEW rows has zeros.
    """
    means = means_of(anchors, kind)[0]
    ids = np.argsort(-means.count, kind="stable")[:count]
    rows = means.rows[ids].astype(np.float64) * (means.count[ids] >= FEW)[:, None]
    detectors = whiten(whiten(rows, within_cov), within_cov)
    norms, products = np.linalg.norm(rows, axis=1), np.sum(detectors * rows, axis=1)
    scale = np.divide(norms, products, out=np.zeros_like(norms), where=products > 0)
    W_dec = rows / np.where(norms == 0, 1.0, norms)[:, None]
    arrays = detectors * scale[:, None], W_dec, norms / 2
    return TokenStart(*(array.astype(np.float32) for array in arrays))


class WithinCov(NamedTuple):
    """R = floor (I - U U^T) + U (floor + above) U^T, the symmetric root of S."""

    floor: jax.Array | np.ndarray
    """[] float32"""
    basis: jax.Array | np.ndarray
    """U, [d, r] float32 with orthonormal columns"""
    above: jax.Array | np.ndarray
    """[r] float32, at least 0"""


def within_cov_of(within_DD: np.ndarray) -> WithinCov:
    """The root of the covariance of rows about their token's mean."""
    covariance = within_DD.astype(np.float64)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0) + RIDGE * max(float(np.mean(np.diag(covariance))), 1e-30)
    rank = min(RANK, len(values) - 1)
    rest = len(values) - rank
    floor = np.sqrt(values[:rest].mean())
    above = np.sqrt(values[rest:]) - floor
    return WithinCov(*(x.astype(np.float32) for x in (np.asarray(floor), vectors[:, rest:], above)))


def whiten(rows_ND: np.ndarray, within_cov: WithinCov) -> np.ndarray:
    """The rows times the inverse of R, float32."""
    floor, basis, above = (np.asarray(part) for part in within_cov)
    change = 1 / (floor + above) - 1 / floor
    whitened: np.ndarray = rows_ND / floor + ((rows_ND @ basis) * change) @ basis.T
    return whitened


class WhitenedAnchors(NamedTuple):
    """What a training step looks up about anchors measured by S."""

    within_cov: WithinCov
    along: jax.Array | np.ndarray
    """[A, r] float32, c U of each anchor c"""
    inverse: jax.Array | np.ndarray
    """[A] float32, 1 / sqrt(c S c), 0 for an anchor of length 0"""


def whitened_anchors(rows_AD: np.ndarray, within_cov: WithinCov) -> WhitenedAnchors:
    """Work out, once, what a step looks up about anchors."""
    floor, basis, above = (np.asarray(part, np.float64) for part in within_cov)
    along = rows_AD @ basis.astype(np.float32)
    square = floor**2 * np.einsum("ad,ad->a", rows_AD, rows_AD, dtype=np.float64)
    square += np.square(along) @ ((floor + above) ** 2 - floor**2)
    with np.errstate(divide="ignore"):
        inverse = np.where(square > 0, 1 / np.sqrt(square), 0.0)
    return WhitenedAnchors(within_cov, along, inverse.astype(np.float32))
