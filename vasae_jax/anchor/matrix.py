"""The anchors: the token embeddings that decoder directions are pulled towards."""

import numpy as np


def anchor_matrix(embedding: np.ndarray, *, center: bool) -> np.ndarray:
    """Unit anchor rows, float32 [V, d], from the embedding matrix [V, d].

    Embeddings of one model share a strong common direction, so raw cosines between any two
    tokens are far from zero; ``center`` takes their mean away first. Rows of norm 0 stay 0.
    """
    rows = embedding.astype(np.float64)
    if center:
        rows = rows - rows.mean(axis=0, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms == 0, 1.0, norms)).astype(np.float32)


def anchor_name(*, center: bool) -> str:
    """What names refer to, in words, for metadata and figures."""
    return "input embeddings minus their mean" if center else "input embeddings"
