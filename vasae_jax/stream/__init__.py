"""Batches out of a cache: shuffled for training, in order for evaluation."""

from vasae_jax.stream.inorder import rows_in_order
from vasae_jax.stream.order import Shuffle
from vasae_jax.stream.prefetch import Prefetch
from vasae_jax.stream.source import Batch, median_norm
from vasae_jax.stream.statistics import Stats, statistics, tokens_by_count
from vasae_jax.stream.stream import LayersStream, ReadStats, Stream
from vasae_jax.stream.windows import next_tokens

__all__ = [
    "Batch",
    "LayersStream",
    "Prefetch",
    "ReadStats",
    "Shuffle",
    "Stats",
    "Stream",
    "median_norm",
    "next_tokens",
    "rows_in_order",
    "statistics",
    "tokens_by_count",
]
