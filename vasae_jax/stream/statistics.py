"""Mean and variance of a site's rows, for the unit of the loss and the first bias."""

from dataclasses import dataclass

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.config import Mask
from vasae_jax.sites import SiteLike
from vasae_jax.stream.source import Source, spread_chunks
from vasae_jax.utils.errors import UserError


@dataclass(frozen=True)
class Stats:
    """Moments of the rows that count.

    Attributes:
        mean: float64 [d_model].
        variance: mean over rows of |x - mean|^2 (summed over d_model, not averaged).
        rows: rows that were kept and counted.
    """

    mean: np.ndarray
    variance: float
    rows: int


def statistics(
    cache: Cache, site: SiteLike, split: str, mask: Mask, *, max_rows: int = 65536
) -> Stats:
    """Moments over evenly spaced whole chunks of about ``max_rows`` rows, in float64.

    Rows of ``mask`` do not count.

    Raises:
        UserError: the cache lacks the layer or split, or no row is kept.
    """
    source = Source(cache, site, split, mask)
    mean, squares, rows = np.zeros(cache.manifest.d_model), 0.0, 0
    for part in spread_chunks(source.rows, source.acts.chunk_rows, max_rows):
        block = source.read(*part)
        x = block.x[block.keep].astype(np.float64)
        if len(x):
            mean, squares, rows = _merge(mean, squares, rows, x)
    if rows == 0:
        raise UserError(
            f"{cache.url} has no unmasked row in its split {split!r}; expected some (lower "
            "skip_positions or raise max_norm)"
        )
    return Stats(mean, squares / rows, rows)


def tokens_by_count(cache: Cache, split: str, max_rows: int = 2**23) -> np.ndarray:
    """All token ids int32 [V], those that occur most often in the split first.

    Counted over evenly spaced whole chunks of about ``max_rows`` rows; equal counts by id, so
    the tokens that never occur come last, in order.
    """
    tokens, vocab = cache.column("tokens", split), cache.manifest.vocab_size
    counts = np.zeros(vocab, np.int64)
    for part in spread_chunks(cache.rows(split), tokens.chunk_rows, max_rows):
        counts += np.bincount(tokens.read(*part), minlength=vocab)
    return np.argsort(-counts, kind="stable").astype(np.int32)


def _merge(
    mean: np.ndarray, squares: float, rows: int, x: np.ndarray
) -> tuple[np.ndarray, float, int]:
    """Chan, Golub and LeVeque's update: squares are about the mean, so nothing cancels."""
    mean_of_x = x.mean(axis=0)
    total = rows + len(x)
    apart = mean_of_x - mean
    squares += float(np.square(x - mean_of_x[None, :]).sum())
    squares += float(np.square(apart).sum()) * rows * len(x) / total
    return mean + apart * (len(x) / total), squares, total
