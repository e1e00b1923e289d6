"""The tokens that a feature's row raises and lowers most, read straight by the head."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vasae_jax.evaluation.names.direct import head_rows, largest_products


class HeadTokens(NamedTuple):
    """For each of F features the m tokens that its row raises most, and lowers most."""

    raised: np.ndarray
    """int32 [F, m], most first"""
    raised_by: np.ndarray
    """float32 [F, m], by how much a logit rises for an activation of 1, less the mean over the
    vocabulary and before the final norm's scale"""
    lowered: np.ndarray
    """int32 [F, m], most first"""
    lowered_by: np.ndarray
    """float32 [F, m], the same; falling logits are negative"""


def head_tokens(
    rows: np.ndarray, final_norm: Mapping[str, Any], unembedding: np.ndarray, m: int
) -> HeadTokens:
    """Read ``rows`` through the linear part of the final norm and the unembedding.

    All blocks between the layer and the head are left out, so early layers say little here.

    Args:
        rows: [F, d] decoder rows.
        final_norm: kind and weight [d], as a cache holds it.
        unembedding: float32 [V, d].
        m: tokens wanted.
    """
    read, m = head_rows(rows, final_norm), min(m, len(unembedding))
    usual = (read @ unembedding.mean(axis=0))[:, None]
    up, raised = largest_products(read, unembedding, m)
    down, lowered = largest_products(-read, unembedding, m)
    return HeadTokens(raised, up - usual, lowered, -down - usual)
