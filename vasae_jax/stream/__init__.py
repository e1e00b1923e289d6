"""Batches out of a cache: shuffled for training, in order for evaluation."""

from vasae_jax.stream.order import Shuffle, next_tokens
from vasae_jax.stream.prefetch import Prefetch
from vasae_jax.stream.source import Batch, median_norm, rows_in_order
from vasae_jax.stream.statistics import Stats, statistics, tokens_by_count
from vasae_jax.stream.stream import ReadStats, Stream

__all__ = [
    "Batch",
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
