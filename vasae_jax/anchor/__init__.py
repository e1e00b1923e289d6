"""The soft anchor: nearest-anchor upkeep with a certificate, and the anchor loss."""

from vasae_jax.anchor.certificate import (
    AnchorState,
    Budget,
    Staleness,
    search,
    spread_search,
    spread_staleness,
    staleness,
    update,
)
from vasae_jax.anchor.loss import aligned_and_pull
from vasae_jax.anchor.search import anchor_matrix, anchor_name

__all__ = [
    "AnchorState",
    "Budget",
    "Staleness",
    "aligned_and_pull",
    "anchor_matrix",
    "anchor_name",
    "search",
    "spread_search",
    "spread_staleness",
    "staleness",
    "update",
]
