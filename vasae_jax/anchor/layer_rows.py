"""The rows that layer anchors are made from: a site's training rows, and which of them count."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.cache.manifest import ANCHORS
from vasae_jax.config import Mask
from vasae_jax.sites import SiteLike, as_site
from vasae_jax.stream.order import next_tokens
from vasae_jax.stream.source import rows_in_order

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


def pieces(cache: Cache, of: Origin, offset: np.ndarray) -> Iterator[Piece]:
    """The training rows of a site in storage order, whole chunks at a time.

    The next piece is being read meanwhile.

    Args:
        cache: the cache that holds them.
        of: the site, and which rows are masked.
        offset: float32 [d], near the mean of the rows: sums of what is left lose no digits to it.

    Raises:
        UserError: a chunk is missing or damaged.
    """
    count, mask = cache.rows("train"), Mask(of.skip_positions, of.max_norm)
    tokens, positions = (cache.column(name, "train") for name in ("tokens", "positions"))
    chunk = cache.acts(of.site, "train").chunk_rows
    step = chunk * max(1, PIECE_BYTES // (4 * len(offset) * chunk))
    batches = rows_in_order(cache, of.site, "train", mask, batch=step)
    for start, batch in zip(range(0, count, step), batches, strict=True):
        read = min(step, count - start)
        end = min(start + step + 1, count)  # the last row's next token may be in the next piece
        token = tokens.read(start, end)
        next_token = next_tokens(token, positions.read(start, end))
        keep = batch.keep[:read]
        x = batch.x[batch.keep].astype(np.float32)
        x -= offset
        yield Piece(x, token[:read][keep], next_token[:read][keep], read)
