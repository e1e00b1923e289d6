"""Layer anchors as unit rows to be near to."""

import numpy as np

from vasae_jax.anchor.layer.estimate import LayerAnchors
from vasae_jax.anchor.layer.means import TOKENS
from vasae_jax.system.errors import UserError

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
