"""What layer anchors are of: a cache, a layer of it, which rows count, and two constants."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.cache.manifest import ANCHORS
from vasae_jax.cache.reader import PendingRows
from vasae_jax.config import Mask
from vasae_jax.stream import next_tokens, statistics
from vasae_jax.stream.source import Batch, PendingBatch, Source

SHRINK = 10.0
"""Rows that a prediction from the embedding counts for."""

RIDGE = 1e-3
"""Strength of the ridge, in units of the mean diagonal of the weighted Gram matrix."""


@dataclass(frozen=True)
class Origin:
    """All that decides the anchors.

    Attributes:
        cache: digest of the activation cache; its split ``train`` is meant.
        layer: whose rows.
        skip_positions, max_norm: which rows are masked; see :class:`vasae_jax.stream.Stream`.
        shrink: c in (n mean + c predicted) / (n + c).
        ridge: strength of the ridge regression.
    """

    cache: str
    layer: int
    skip_positions: int
    max_norm: float
    shrink: float = SHRINK
    ridge: float = RIDGE

    @property
    def folder(self) -> str:
        """Where in the cache they are kept."""
        mask = f"skip{self.skip_positions}-norm{self.max_norm!r}"
        return f"{ANCHORS}/layer_{self.layer:02d}-{mask}"


def origin_of(cache: Cache, layer: int, skip_positions: int, max_norm: float) -> Origin:
    """The origin of the anchors of ``layer`` of ``cache``; an endless ``max_norm`` is none."""
    limit = 0.0 if math.isinf(max_norm) else float(max_norm)
    return Origin(cache.digest, int(layer), int(skip_positions), limit)


# The training rows of a layer in storage order, with each row's token and the one after it.


PIECE_BYTES = 64 * 2**20
"""A piece's rows as float32; about four such blocks are in memory."""


class Piece(NamedTuple):
    """Unmasked rows that follow one another in the cache."""

    x: np.ndarray
    """float32 [n, d], less the offset"""
    token: np.ndarray
    """int32 [n]"""
    following: np.ndarray
    """int32 [n], -1 at a window's end; whether the row after it is masked does not matter"""
    read: int
    """rows read for it, masked ones too"""


class LayerRows:
    """The unmasked rows of ``layer`` in the split ``train``.

    Attributes:
        vocab_size, width: V and d.
        count: rows of the split, masked ones too.
        offset: float32 [d], near the mean of the rows and the same for every part of them:
            sums of what is left lose no digits to it.

    Raises:
        UserError: the cache lacks the layer, a number is negative, or no row is kept.
    """

    def __init__(self, cache: Cache, layer: int, skip_positions: int, max_norm: float) -> None:
        mask = Mask(skip_positions, max_norm)
        self._source = Source(cache, layer, "train", mask)
        self._tokens = cache.column("tokens", "train")
        self._positions = cache.column("positions", "train")
        self.vocab_size, self.width = cache.manifest.vocab_size, cache.manifest.d_model
        self.count = self._source.rows
        stats = statistics(cache, layer, "train", mask)
        self.offset = stats.mean.astype(np.float32)

    def pieces(self, part: tuple[int, int] = (0, 1)) -> Iterator[Piece]:
        """Part ``i`` of ``n`` of the rows, whole chunks; the next piece is being read meanwhile.

        The n parts have each row once.

        Raises:
            UserError: a chunk is missing or damaged.
        """
        pending = []
        for start, stop in self._ranges(*part):
            pending.append((stop - start, self._begin(start, stop)))
            if len(pending) == 2:
                yield self._piece(*pending.pop(0))
        for read in pending:
            yield self._piece(*read)

    def _ranges(self, index: int, parts: int) -> Iterator[tuple[int, int]]:
        chunk = self._source.acts.chunk_rows
        chunks = -(-self.count // chunk)
        first, last = (chunks * place // parts * chunk for place in (index, index + 1))
        step = chunk * max(1, PIECE_BYTES // (4 * self.width * chunk))
        for start in range(first, min(last, self.count), step):
            yield start, min(start + step, last, self.count)

    def _begin(self, start: int, stop: int) -> tuple[PendingBatch[Batch], PendingRows, PendingRows]:
        beyond = min(stop + 1, self.count)  # the last row may be followed by the next piece's first
        rows = self._source.read_async([(start, stop)])
        tokens = self._tokens.read_async(start, beyond)
        return rows, tokens, self._positions.read_async(start, beyond)

    def _piece(
        self, read: int, pending: tuple[PendingBatch[Batch], PendingRows, PendingRows]
    ) -> Piece:
        batch, tokens = pending[0].result(), pending[1].result()
        following = next_tokens(tokens, pending[2].result())[:read]
        x = batch.x[batch.keep].astype(np.float32)
        x -= self.offset
        return Piece(x, tokens[:read][batch.keep], following[batch.keep], read)
