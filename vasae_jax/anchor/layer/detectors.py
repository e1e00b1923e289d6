"""Detectors: the directions that tell each token's rows of a layer from all others."""

import numpy as np

from vasae_jax.anchor.layer.estimate import LayerAnchors
from vasae_jax.anchor.layer.unit import KINDS
from vasae_jax.system.errors import UserError

FEW = 20
"""A token seen on fewer rows has no detector: its row is 0, which is nearest to nothing."""
RIDGE = 0.01
"""What is added to the covariance's diagonal, as a share of its mean."""


def detector_rows(anchors: LayerAnchors, kind: str) -> np.ndarray:
    """Unit float32 rows: [V, d] for ``here`` and ``next``, [2V, d] for ``both``.

    A token's detector is S^-1 a, with a its anchor and S the covariance of rows about their
    token's mean: Fisher's linear discriminant between the rows at the token and all rows, the
    linear response that is largest there against its scatter elsewhere. In ``both`` row i is of
    token i % V, and of relation i // V: 0 at it, 1 before it.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"layer anchors of kind {kind!r}; expected one of {', '.join(KINDS)}")
    return np.concatenate([_detectors(anchors, name) for name in KINDS[kind]])


def _detectors(anchors: LayerAnchors, relation: str) -> np.ndarray:
    within = getattr(anchors, f"{relation}_within").astype(np.float64)
    ridge = RIDGE * np.trace(within) / len(within)
    inverse = np.linalg.inv(within + ridge * np.eye(len(within)))
    rows: np.ndarray = getattr(anchors, relation) @ inverse.astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms == 0, 1.0, norms)
    rows[getattr(anchors, f"{relation}_count") < FEW] = 0.0
    return rows
