"""The rows that layer anchors are made from: a site's training rows, and which of them count."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.cache.manifest import ANCHORS
from vasae_jax.cache.reader import PendingRows
from vasae_jax.config import Mask
from vasae_jax.sites import SiteLike, as_site
from vasae_jax.stream import next_tokens, statistics
from vasae_jax.stream.source import Batch, PendingBatch, Source

SHRINK = 10.0
"""Rows that the prediction from a token's embedding counts for."""

RIDGE = 1e-3
"""Strength of the ridge, in units of the mean diagonal of the weighted Gram matrix."""


@dataclass(frozen=True)
class Origin:
    """All that the anchors depend on.

    Attributes:
        cache: digest of the activation cache, of which the split ``train`` is used.
        site: the site whose rows are averaged, by name.
        skip_positions, max_norm: which rows are masked; see :class:`vasae_jax.stream.Stream`.
        shrink: c in (n mean + c predicted) / (n + c).
        ridge: strength of the ridge regression.
    """

    cache: str
    site: str
    skip_positions: int
    max_norm: float
    shrink: float = SHRINK
    ridge: float = RIDGE

    @property
    def folder(self) -> str:
        """Where in the cache they are kept."""
        mask = f"skip{self.skip_positions}-norm{self.max_norm!r}"
        return f"{ANCHORS}/{self.site}-{mask}"


def origin_of(cache: Cache, site: SiteLike, skip_positions: int, max_norm: float) -> Origin:
    """The origin of the anchors of ``site`` of ``cache``; an infinite ``max_norm`` becomes 0."""
    limit = 0.0 if math.isinf(max_norm) else float(max_norm)
    return Origin(cache.digest, str(as_site(site)), int(skip_positions), limit)


PIECE_BYTES = 64 * 2**20
"""A piece's rows as float32; about four such blocks are in memory."""


class Piece(NamedTuple):
    """Unmasked rows that follow one another in the cache."""

    x: np.ndarray
    """float32 [n, d], less the offset"""
    token: np.ndarray
    """int32 [n]"""
    next_token: np.ndarray
    """int32 [n], -1 at a window's end; whether the row after it is masked does not matter"""
    read: int
    """rows read for it, masked ones too"""


class LayerRows:
    """The unmasked training rows of a site in storage order, with their tokens.

    Attributes:
        vocab_size, width: V and d.
        count: rows of the split, masked ones too.
        offset: float32 [d], near the mean of the rows: sums of what is left lose no digits to it.

    Raises:
        UserError: the cache lacks the site, a number is negative, or no row is kept.
    """

    def __init__(self, cache: Cache, site: SiteLike, skip_positions: int, max_norm: float) -> None:
        mask = Mask(skip_positions, max_norm)
        self._source = Source(cache, site, "train", mask)
        self._tokens = cache.column("tokens", "train")
        self._positions = cache.column("positions", "train")
        self.vocab_size, self.width = cache.manifest.vocab_size, cache.manifest.d_model
        self.count = self._source.rows
        stats = statistics(cache, site, "train", mask)
        self.offset = stats.mean.astype(np.float32)

    def pieces(self) -> Iterator[Piece]:
        """All rows, whole chunks at a time; the next piece is being read meanwhile.

        Raises:
            UserError: a chunk is missing or damaged.
        """
        chunk = self._source.acts.chunk_rows
        step = chunk * max(1, PIECE_BYTES // (4 * self.width * chunk))
        pending = []
        for start in range(0, self.count, step):
            stop = min(start + step, self.count)
            pending.append((stop - start, self._begin(start, stop)))
            if len(pending) == 2:
                yield self._piece(*pending.pop(0))
        for read in pending:
            yield self._piece(*read)

    def _begin(self, start: int, stop: int) -> tuple[PendingBatch[Batch], PendingRows, PendingRows]:
        end = min(stop + 1, self.count)  # the last row's next token may be in the next piece
        rows = self._source.read_async([(start, stop)])
        tokens = self._tokens.read_async(start, end)
        return rows, tokens, self._positions.read_async(start, end)

    def _piece(
        self, read: int, pending: tuple[PendingBatch[Batch], PendingRows, PendingRows]
    ) -> Piece:
        batch, tokens = pending[0].result(), pending[1].result()
        next_token = next_tokens(tokens, pending[2].result())[:read]
        x = batch.x[batch.keep].astype(np.float32)
        x -= self.offset
        return Piece(x, tokens[:read][batch.keep], next_token[batch.keep], read)
