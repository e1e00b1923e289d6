"""Shuffled batches for training: batch t is a pure function of (seed, t)."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.config import Mask
from vasae_jax.sites import SiteLike
from vasae_jax.stream.order import Order, Shuffle, check
from vasae_jax.stream.prefetch import Prefetch
from vasae_jax.stream.reader import ChunkReader
from vasae_jax.stream.source import Batch, Layers
from vasae_jax.utils.errors import UserError

QUEUE = 3  # batches that are made ahead
RECENT = 8  # batches that the entropy is averaged over


@dataclass(frozen=True)
class ReadStats:
    """How reading goes, for a log line.

    Attributes:
        rows: rows handed out so far by this process.
        bytes: bytes asked from the cache so far by this process.
        bytes_per_second: the same, over the time since the last report.
        queued: batches that are ready ahead of the consumer.
        document_bits: entropy of a batch over documents in bits, mean of recent batches.
        dropped: unusable rows among those read so far by this process.
    """

    rows: int
    bytes: int
    bytes_per_second: float
    queued: int
    document_bits: float
    dropped: int


class Stream:
    """Batches of the rows of one or several sites, at the same positions, read in one pass.

    See :mod:`vasae_jax.stream.order` for their order.

    Each of R readers gives ``batch / R`` rows to a batch, and a batch is the readers in order.
    Process p of P owns readers p R/P to (p+1) R/P: its batches are its part of the global
    ones, which are the same for every P. All rows of the split count alike: the visits of any two
    differ by at most 2.

    Memory: at most two groups of chunks a reader, ``2 * shuffle_chunks * chunk_rows`` rows of
    every layer.

    Args:
        cache: where rows are read.
        sites: whose rows.
        split: ``train`` or ``heldout``.
        mask: which rows do not count.
        shuffle: how they are mixed into batches.
        process_index: number of this process.
        process_count: number of processes; divides the readers.

    Raises:
        UserError: the cache lacks a layer or the split, or the numbers do not fit.
    """

    def __init__(
        self,
        cache: Cache,
        sites: Sequence[SiteLike],
        split: str,
        mask: Mask,
        shuffle: Shuffle,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        self.order = Order(
            cache.rows(split),
            cache.manifest.chunk_rows,
            shuffle.readers,
            shuffle.shuffle_chunks,
            shuffle.seed,
        )
        check(self.order, shuffle.batch, process_count)
        self._source = source = Layers(cache, sites, split, mask)
        count = shuffle.readers // process_count
        first = process_index * count
        self._readers = [
            ChunkReader(self.order, reader, source, self._count)
            for reader in range(first, first + count)
        ]
        self._rows_per_reader = shuffle.batch // shuffle.readers
        self._width, self._dtype = cache.manifest.d_model, source.dtype
        self._sites = len(sites)
        # Two locks: what was counted can be asked while a read hangs.
        self._reading, self._lock = threading.Lock(), threading.Lock()
        self._rows = self._bytes = 0
        self._reported = (time.monotonic(), 0)
        self._recent: deque[np.ndarray] = deque(maxlen=RECENT)
        self._ahead: Prefetch[Any] | None = None

    def batches(self, step: int) -> list[Batch]:
        """This process's part of batch ``step`` of each layer, as new arrays.

        Raises:
            UserError: a chunk is missing or damaged, or too many rows are unusable.
        """
        if step < 0:
            raise UserError(f"batch {step} was asked for; expected a number from 0")
        start, each = step * self._rows_per_reader, self._rows_per_reader
        count = each * len(self._readers)
        out = [self._blank(count) for _ in range(self._sites)]
        with self._reading:
            for reader in self._readers:
                reader.request(start)
            for index, reader in enumerate(self._readers):
                part = slice(index * each, (index + 1) * each)
                reader.fill(start, [batch.part(part) for batch in out])
        with self._lock:
            self._rows += count
            self._recent.append(out[0].docs)
        return out

    def prefetch(self, start: int) -> Prefetch[tuple[int, list[Batch]]]:
        """Yield (t, batches t) from ``start`` on, made ahead on a thread; close it when done."""
        batches = ((step, self.batches(step)) for step in itertools.count(start))
        self._ahead = ahead = Prefetch(batches, QUEUE)
        return ahead

    def stats(self) -> ReadStats:
        """How reading goes; the rate is over the time since the last call."""
        with self._lock:
            now, recent = time.monotonic(), list(self._recent)
            (since, before), self._reported = self._reported, (now, self._bytes)
            rows, total = self._rows, self._bytes
        return ReadStats(
            rows=rows,
            bytes=total,
            bytes_per_second=(total - before) / max(now - since, 1e-9),
            queued=0 if self._ahead is None else self._ahead.depth,
            document_bits=float(np.mean([entropy_bits(docs) for docs in recent] or [0.0])),
            dropped=self._source.dropped,
        )

    def _blank(self, count: int) -> Batch:
        x = np.empty((count, self._width), self._dtype)
        return Batch(x, np.empty(count, np.bool_), np.empty(count, np.int32))

    def _count(self, nbytes: int) -> None:
        self._bytes += nbytes


def entropy_bits(docs: np.ndarray) -> float:
    """Entropy in bits of the share of rows ``docs`` [n] of each document: sum of -p log2 p."""
    shares = np.unique(docs, return_counts=True)[1] / len(docs)
    return float(-(shares * np.log2(shares)).sum())
