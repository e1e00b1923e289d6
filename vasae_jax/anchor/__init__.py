"""Anchors of features: embeddings or a layer's own, the nearest of each, and the anchor loss."""

from vasae_jax.anchor.certificate import (
    AnchorState,
    Budget,
    Staleness,
    full_search,
    sharded_search,
    sharded_staleness,
    staleness,
    update,
)
from vasae_jax.anchor.loss import alignment_and_grad
from vasae_jax.anchor.search import anchor_matrix, anchor_name

__all__ = [
    "AnchorState",
    "Budget",
    "Staleness",
    "alignment_and_grad",
    "anchor_matrix",
    "anchor_name",
    "full_search",
    "sharded_search",
    "sharded_staleness",
    "staleness",
    "update",
]
