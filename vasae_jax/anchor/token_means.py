"""Sums of a layer's rows by token, in one pass over them, for some tokens and some rows.

A row x is at its own token (relation ``here``) and before the token that follows it in its
window (relation ``next``). Whoever holds the moments of all parts of the rows merges them; the
moments of all blocks of tokens together are those of the whole vocabulary.

Each layer has its own rows, its own mask and its own files, so nothing is saved by measuring
several at once: they are measured one after the other, in the memory of one.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vasae_jax.anchor.layer_rows import LayerRows, Origin, Piece

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


# From sums by token to each token's mean row, and how rows spread about it.


TOKENS = 4096
"""Tokens whose rows are float64 at once."""


class Means:
    """Each token's mean row in one relation, gathered block by block of tokens.

    Attributes:
        counts: int64 [V], rows by token.
        rows: float32 [V, d], the token's mean less the mean of all; 0 where it has no rows.
        mean: float64 [d], of all rows in the relation.
        within: float64 [d, d], mean of (x - its token's mean)(x - its token's mean)^T.

    All of them are what they say once :meth:`finish` was called.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        self.counts = np.zeros(vocab_size, np.int64)
        self.rows = np.zeros((vocab_size, width), np.float32)
        self.mean = np.zeros(width)
        self.within = np.zeros((width, width))
        self._offset = np.zeros(width)

    def add(self, moments: Moments) -> None:
        """Take in a block of tokens, over all rows."""
        self._offset[...] = moments.offset
        place = slice(moments.first, moments.first + len(moments.counts))
        self.counts[place] = moments.counts
        self.mean += moments.sums.sum(axis=0)
        self.within += moments.second
        for ids in some_tokens(moments.counts):
            count = moments.counts[ids, None]
            scaled = moments.sums[ids] / np.sqrt(count)
            self.within -= scaled.T @ scaled
            self.rows[moments.first + ids] = scaled / np.sqrt(count)

    def finish(self) -> None:
        """All blocks are in; without any row everything stays 0."""
        total = int(self.counts.sum())
        if not total:
            return
        self.within /= total
        self.mean /= total
        for ids in some_tokens(self.counts):
            self.rows[ids] -= self.mean.astype(np.float32)
        self.mean += self._offset


def some_tokens(counts: np.ndarray) -> Iterator[np.ndarray]:
    """The tokens that occur, a few thousand at a time."""
    seen = np.flatnonzero(counts)
    for start in range(0, len(seen), TOKENS):
        yield seen[start : start + TOKENS]


# What a token's embedding says about its mean row, and means that lean on it where rows are few.
#
# Over the tokens that occur, weighted by their n rows, a linear map is fitted from centred
# embeddings to mean rows by ridge regression. Its strength is ``ridge`` times the mean diagonal of
# the weighted Gram matrix.


def ridge_map(
    rows: np.ndarray, counts: np.ndarray, embedding: np.ndarray, ridge: float
) -> np.ndarray:
    """float64 [d, d], which takes an embedding less the mean of all to a token's mean row.

    Args:
        rows: [V, d], each token's mean less the mean of all rows.
        counts: [V].
        embedding: [V, d].
        ridge: see above.
    """
    centre, width = embedding.mean(axis=0, dtype=np.float64), embedding.shape[1]
    gram, cross = np.zeros((2, width, width))
    for ids in some_tokens(counts):
        root = np.sqrt(counts[ids, None])
        given = (embedding[ids] - centre) * root
        gram += given.T @ given
        cross += given.T @ (rows[ids] * root)
    strength = ridge * np.trace(gram) / width
    if strength == 0:  # no rows at all
        return cross
    return np.linalg.solve(gram + strength * np.eye(width), cross)


def lean(
    rows: np.ndarray, counts: np.ndarray, embedding: np.ndarray, linear: np.ndarray, c: float
) -> float:
    """Put (n mean + c predicted) / (n + c) in place of each mean in ``rows``.

    Returns:
        The share of the means, weighted by count, that the map alone explains.
    """
    centre, linear = embedding.mean(axis=0, dtype=np.float64), linear.astype(np.float32)
    missed = total = 0.0
    for start in range(0, len(rows), TOKENS):
        block = slice(start, start + TOKENS)
        count = counts[block, None].astype(np.float64)
        predicted = (embedding[block] - centre).astype(np.float32) @ linear
        missed += float((count * np.square(rows[block] - predicted)).sum())
        total += float((count * np.square(rows[block])).sum())
        rows[block] = (count * rows[block] + c * predicted) / (count + c)
    return 1 - missed / total if total else 0.0


# Layer anchors out of the moments of all training rows.


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerAnchors:
    """Where a layer puts each token. Rows are those of the training split that are not masked.

    Attributes:
        of: cache, layer, mask and constants.
        here: float32 [V, d], the mean of the rows at each token less the mean of all rows,
            leaning on what its embedding predicts where it is rare. Not unit rows.
        next: float32 [V, d], the same over the rows that each token follows in their window,
            less the mean of all rows that are followed by a token.
        here_count, next_count: int64 [V], rows.
        here_mean, next_mean: float32 [d], the means taken off.
        here_within, next_within: float32 [d, d], covariance of rows about their token's mean.
        here_explained, next_explained: share of the tokens' means, weighted by count, that a
            linear map of their embeddings explains.
    """

    of: Origin
    here: np.ndarray
    next: np.ndarray
    here_count: np.ndarray
    next_count: np.ndarray
    here_mean: np.ndarray
    next_mean: np.ndarray
    here_within: np.ndarray
    next_within: np.ndarray
    here_explained: float
    next_explained: float

    @property
    def rows(self) -> int:
        """Unmasked rows of the training split."""
        return int(self.here_count.sum())

    @property
    def next_rows(self) -> int:
        """Those of them that are followed by a token in their window."""
        return int(self.next_count.sum())

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}


def estimate(blocks: Iterable[Relations], embedding: np.ndarray, of: Origin) -> LayerAnchors:
    """Anchors from the moments of all rows, block by block of the vocabulary.

    One block is held at a time. Memory besides: 8 V d bytes for the result
    and 4 V d for the ``embedding`` [V, d].
    """
    found = {name: Means(*embedding.shape) for name in Relations._fields}
    for block in blocks:
        for name, means in found.items():
            means.add(getattr(block, name))
        del block  # or its sums would lie in memory beside those of the next
    fields: dict[str, np.ndarray | float] = {}
    for name, means in found.items():
        means.finish()
        linear = ridge_map(means.rows, means.counts, embedding, of.ridge)
        fields[f"{name}_explained"] = lean(means.rows, means.counts, embedding, linear, of.shrink)
        fields |= {name: means.rows, f"{name}_count": means.counts}
        fields[f"{name}_mean"] = means.mean.astype(np.float32)
        fields[f"{name}_within"] = means.within.astype(np.float32)
    return LayerAnchors(of=of, **fields)  # type: ignore[arg-type]
