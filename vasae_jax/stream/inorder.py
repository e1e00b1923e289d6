"""Rows in the order in which they are stored, for evaluation."""

from collections.abc import Iterator

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.config import Mask
from vasae_jax.stream.source import Batch, Source
from vasae_jax.system.errors import UserError


def rows_in_order(
    cache: Cache, layer: int, split: str, mask: Mask, *, batch: int, start: int = 0
) -> Iterator[Batch]:
    """Each row of a split once, in batches of ``batch`` rows; those of ``mask`` do not count.

    Rows before ``start``, which is the first one of a chunk, are left out.

    The last batch is filled up with rows of zeros that have ``keep`` False and ``docs`` -1.
    The next rows are read while the consumer works.

    Raises:
        UserError: at once if the cache lacks the layer or split or a number does not fit;
            on the way if a chunk is missing or damaged.
    """
    if batch < 1:
        raise UserError(f"batch is {batch}; expected at least 1")
    return _batches(Source(cache, layer, split, mask), batch, start)


def _batches(source: Source, size: int, start: int) -> Iterator[Batch]:
    out, filled = _blank(source, size), 0
    for block in _blocks(source, size, start):
        at = 0
        while at < len(block.keep):
            count = min(size - filled, len(block.keep) - at)
            for name in ("x", "keep", "docs"):
                getattr(out, name)[filled : filled + count] = getattr(block, name)[at : at + count]
            at, filled = at + count, filled + count
            if filled == size:
                yield out
                out, filled = _blank(source, size), 0
    if filled:
        yield out


def _blocks(source: Source, size: int, first: int) -> Iterator[Batch]:
    """Runs of whole chunks of about a batch, so that no chunk is read twice."""
    chunk = source.acts.chunk_rows
    step = chunk * max(1, size // chunk)
    if first >= source.rows:
        return
    ranges = [(start, min(start + step, source.rows)) for start in range(first, source.rows, step)]
    pending = source.read_async(ranges[:1])
    for following in ranges[1:]:
        ahead = source.read_async([following])
        yield pending.result()
        pending = ahead
    yield pending.result()


def _blank(source: Source, size: int) -> Batch:
    x = np.zeros((size, source.acts.shape[1]), source.acts.dtype)
    return Batch(x, np.zeros(size, np.bool_), np.full(size, -1, np.int32))
