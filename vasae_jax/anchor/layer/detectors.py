"""Detectors: the directions that tell each token's rows of a layer from all others."""

import numpy as np

from vasae_jax.anchor.layer.estimate import LayerAnchors
from vasae_jax.anchor.layer.scatter import Scatter, scatter_of, whitened
from vasae_jax.anchor.layer.unit import KINDS, unit_blocks
from vasae_jax.system.errors import UserError

FEW = 20
"""A token seen on fewer rows has no detector: its mean row is as much chance as it is the token."""


def detector_rows(anchors: LayerAnchors, kind: str) -> tuple[np.ndarray, Scatter]:
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
    scatter = scatter_of(anchors.here_within)
    rows = np.concatenate([_detectors(anchors, name, scatter) for name in KINDS[kind]])
    if len(rows) == 0:
        raise UserError(
            f"no token was seen on {FEW} rows, so that nothing tells one from others; expected a "
            "cache of more text, or --anchor.pulls=decoder"
        )
    return rows, scatter


def _detectors(anchors: LayerAnchors, relation: str, scatter: Scatter) -> np.ndarray:
    seen = getattr(anchors, f"{relation}_count") >= FEW
    return unit_blocks(whitened(whitened(getattr(anchors, relation)[seen], scatter), scatter))
