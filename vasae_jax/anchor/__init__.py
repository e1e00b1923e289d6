"""The soft anchor: nearest-anchor upkeep with a certificate, and the anchor loss."""

from vasae_jax.anchor.certificate import AnchorState, Budget, search, update
from vasae_jax.anchor.loss import nearest_cosine, soft_cosine
from vasae_jax.anchor.matrix import anchor_matrix, anchor_name

__all__ = [
    "AnchorState",
    "Budget",
    "anchor_matrix",
    "anchor_name",
    "nearest_cosine",
    "search",
    "soft_cosine",
    "update",
]
