"""Sums of a layer's rows by token, in one pass over them, for some tokens and some rows.

A row x is at its own token (relation ``here``) and before the token that follows it in its
window (relation ``next``). Whoever holds the moments of all parts of the rows merges them; the
moments of all blocks of tokens together are those of the whole vocabulary.

Each layer has its own rows, its own mask and its own files, so nothing is saved by measuring
several at once: they are measured one after the other, in the memory of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.anchor.layer.rows import LayerRows, Piece

SUMS_BYTES = 4 * 2**30
"""Most bytes of sums by token that are held at once, both relations together."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Over the rows in one relation to the tokens ``first`` to ``first + T``.

    Attributes:
        first: the block's first token.
        offset: float32 [d], taken off every row.
        counts: int64 [T], rows by token.
        sums: float64 [T, d], sum of x - offset by token.
        second: float64 [d, d], sum of (x - offset)(x - offset)^T. Products are float32 within a
            piece: an entry is within 1e-5 of the root of its two diagonal entries' product.
    """

    first: int
    offset: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    second: np.ndarray


class Relations(NamedTuple):
    """The same in both relations."""

    here: Moments
    next: Moments


def token_blocks(vocab_size: int, width: int, limit: int = SUMS_BYTES) -> list[tuple[int, int]]:
    """The vocabulary cut where both relations' sums, 16 d bytes a token, fill ``limit`` bytes."""
    count = max(1, limit // (16 * width))
    return [(first, min(first + count, vocab_size)) for first in range(0, vocab_size, count)]


def measure(
    rows: LayerRows,
    tokens: tuple[int, int],
    part: tuple[int, int] = (0, 1),
    seen: Callable[[int], None] = lambda read: None,
) -> Relations:
    """Read part ``i`` of ``n`` of the rows and sum those of the tokens ``[first, last)``.

    Memory: 16 d bytes for each token that occurs, 16 d^2, and about six pieces of rows
    (:data:`vasae_jax.anchor.layer.rows.PIECE_BYTES`).

    Args:
        rows: a layer's.
        tokens: a block of :func:`token_blocks`.
        part: (i, n).
        seen: told after each piece how many rows were read for it.

    Raises:
        UserError: a chunk is missing or damaged.
    """
    found = Relations(*(_zeros(rows, *tokens) for _ in Relations._fields))
    for piece in rows.pieces(part):
        _add(found, piece)
        seen(piece.read)
    return found


def merge(one: Relations, other: Relations) -> Relations:
    """The moments of two parts of the rows together, for the same layer and tokens."""
    return Relations(*(_merged(a, b) for a, b in zip(one, other, strict=True)))


def _merged(one: Moments, other: Moments) -> Moments:
    same = one.first == other.first and len(one.counts) == len(other.counts)
    if not same or not np.array_equal(one.offset, other.offset):
        raise ValueError("moments are of other tokens or about another offset; expected the same")
    counts, sums = one.counts + other.counts, one.sums + other.sums
    return Moments(one.first, one.offset, counts, sums, one.second + other.second)


def _zeros(rows: LayerRows, first: int, last: int) -> Moments:
    count, width = last - first, rows.width
    sums, second = np.zeros((count, width)), np.zeros((width, width))
    return Moments(first, rows.offset, np.zeros(count, np.int64), sums, second)


def _add(found: Relations, piece: Piece) -> None:
    here, after = (
        _ids(moments, tokens)
        for moments, tokens in zip(found, (piece.token, piece.following), strict=True)
    )
    _add_sums(found.here, piece.x, here)
    _add_sums(found.next, piece.x, after)
    # Most rows are in both, and their products are taken once.
    both = _squares(piece.x[(here >= 0) & (after >= 0)])
    found.here.second[...] += both + _squares(piece.x[(here >= 0) & (after < 0)])
    found.next.second[...] += both + _squares(piece.x[(here < 0) & (after >= 0)])


def _ids(moments: Moments, tokens: np.ndarray) -> np.ndarray:
    """Each token's place in the block, -1 where it is not in it."""
    place = tokens.astype(np.int64) - moments.first
    inside = (tokens >= 0) & (place >= 0) & (place < len(moments.counts))
    return np.where(inside, place, -1)


def _add_sums(moments: Moments, x: np.ndarray, ids: np.ndarray) -> None:
    order = np.argsort(ids, kind="stable")
    order = order[np.searchsorted(ids[order], 0) :]
    if not len(order):
        return
    mine, starts, counts = np.unique(ids[order], return_index=True, return_counts=True)
    moments.sums[mine] += np.add.reduceat(x[order], starts, axis=0, dtype=np.float64)
    moments.counts[mine] += counts


def _squares(x: np.ndarray) -> np.ndarray:
    squares: np.ndarray = (x.T @ x).astype(np.float64)
    return squares
