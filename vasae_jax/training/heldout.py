"""A few held-out rows to look at features on while a run trains."""

from typing import NamedTuple

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.stream import next_tokens
from vasae_jax.stream.source import Source

SPLIT = "heldout"
ROWS = 2048
"""Held-out rows that are looked at."""
PIECES = 16
"""Places of the split that they are from, evenly spaced."""


class HeldOut(NamedTuple):
    """Some held-out rows."""

    x: np.ndarray
    """[n, d] in the cache's type"""
    keep: np.ndarray
    """bool [n]"""
    token: np.ndarray
    """int32 [n], the token that each row is at"""
    following: np.ndarray
    """int32 [n], the token after it in its window, -1 where none is known"""


def held_out_rows(config: Config, cache: Cache, parts: int) -> HeldOut:
    """About ROWS rows, or as many as there are; filled up to a multiple of ``parts``.

    A cache without a held-out split gives none that counts.

    Raises:
        UserError: the cache is damaged.
    """
    data, ranges = config.data, _ranges(cache)
    if not ranges:
        blank = np.zeros((parts, cache.manifest.d_model), np.float32)
        return HeldOut(blank, np.zeros(parts, bool), *np.full((2, parts), -1, np.int32))
    found = Source(cache, data.layer, SPLIT, data.mask).read_async(ranges).result()
    token, following = _tokens(cache, ranges)
    fill = -len(token) % parts
    rows = HeldOut(found.x, found.keep, token, following)
    return HeldOut(*(np.pad(part, [(0, fill), (0, 0)][: part.ndim]) for part in rows))


def _ranges(source: Cache) -> list[tuple[int, int]]:
    """Evenly spaced pieces of the held-out split."""
    count = source.rows(SPLIT)
    if count <= ROWS:
        return [(0, count)] if count else []
    starts = [count * piece // PIECES for piece in range(PIECES)]
    return [(start, start + ROWS // PIECES) for start in starts]


def _tokens(cache: Cache, ranges: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The token of each row, and the one after it: unknown at the end of a piece."""
    tokens, positions = cache.column("tokens", SPLIT), cache.column("positions", SPLIT)
    own = [tokens.read(*part) for part in ranges]
    after = [
        next_tokens(piece, positions.read(*part)) for piece, part in zip(own, ranges, strict=True)
    ]
    return np.concatenate(own), np.concatenate(after)
