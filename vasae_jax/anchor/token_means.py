"""The mean row of each token in a layer: the layer's anchors, made in one pass over its rows.

A row x is *at* its own token and *before* the next token of its window. For both relations the rows
are summed by token, a block of tokens at a time; the means are then shrunk, where a token is rare,
towards what its embedding predicts. Layers are measured one after the other, in the memory of one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vasae_jax.anchor.layer_rows import Origin, Piece, pieces
from vasae_jax.cache import Cache
from vasae_jax.config import Mask
from vasae_jax.dictionary.claims import RELATIONS
from vasae_jax.stream.statistics import statistics
from vasae_jax.utils.progress import Progress

SUMS_BYTES = 4 * 2**30
"""Most bytes of sums by token that are held at once, both relations together."""
TOKENS = 4096
"""Tokens whose rows are float64 at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenMeans:
    """The rows of a layer's training split in one relation to each token, masked ones left out.

    Attributes:
        rows: float32 [V, d], the mean of a token's rows less the mean of all rows in the relation,
            shrunk towards what its embedding predicts where it is rare. Not unit rows.
        count: int64 [V], rows by token.
        mean: float32 [d], the mean taken off.
        within: float32 [d, d], covariance of rows about their token's mean.
        explained: share of the tokens' means, weighted by count, that a linear map of their
            embeddings explains.
    """

    rows: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    within: np.ndarray
    explained: float


ARRAYS = {"rows": "", "count": "_count", "mean": "_mean", "within": "_within"}
"""Arrays of :class:`TokenMeans`, and what follows the relation in their names in a cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerAnchors:
    """Where a layer puts each token.

    Attributes:
        of: cache, layer, mask and constants.
        at: means of the rows at each token.
        before: means of the rows before each token, in its window.
    """

    origin: Origin
    at: TokenMeans
    before: TokenMeans

    @property
    def rows(self) -> int:
        """Unmasked rows of the training split."""
        return int(self.at.count.sum())

    @property
    def before_rows(self) -> int:
        """Those of them that are before a token of their window."""
        return int(self.before.count.sum())

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by their names in a cache, such as ``at`` and ``before_count``."""
        return {
            f"{relation}{suffix}": getattr(getattr(self, relation), part)
            for part, suffix in ARRAYS.items()
            for relation in RELATIONS
        }


def make_anchors(cache: Cache, origin: Origin, limit: int = SUMS_BYTES) -> LayerAnchors:
    """Anchors from the rows themselves; nothing is written.

    The rows are read once for each block of tokens whose sums fill ``limit`` bytes: once up to
    V d = 2^28 (at d = 576 a vocabulary of 466,033). Memory besides: 8 V d bytes for the result,
    4 V d for the embedding, 16 d^2, and about six pieces of rows
    (:data:`vasae_jax.anchor.layer_rows.PIECE_BYTES`).

    Raises:
        UserError: the cache lacks the layer, no row is kept, or a chunk is damaged.
    """
    mask = Mask(origin.skip_positions, origin.max_norm)
    offset = statistics(cache, origin.site, "train", mask).mean.astype(np.float32)
    vocab_size, width = cache.manifest.vocab_size, cache.manifest.d_model
    at, before = (_Means(vocab_size, width) for _ in RELATIONS)
    blocks = token_blocks(vocab_size, width, limit)
    done = 0
    with Progress(cache.rows("train") * len(blocks), unit=f"rows of {origin.site}") as progress:
        for first, last in blocks:
            at_sums, before_sums = (_Sums(first, last - first, width) for _ in RELATIONS)
            for piece in pieces(cache, origin, offset):
                _add(at_sums, before_sums, piece)
                done += piece.read
                progress.update(done)
            at.add(at_sums)
            before.add(before_sums)
            del at_sums, before_sums  # or they would lie in memory beside those of the next block
    embedding = cache.embedding()
    at_means, before_means = (means.finish(offset, embedding, origin) for means in (at, before))
    return LayerAnchors(origin=origin, at=at_means, before=before_means)


def token_blocks(vocab_size: int, width: int, limit: int = SUMS_BYTES) -> list[tuple[int, int]]:
    """The vocabulary cut where both relations' sums, 16 d bytes a token, fill ``limit`` bytes."""
    count = max(1, limit // (16 * width))
    return [(first, min(first + count, vocab_size)) for first in range(0, vocab_size, count)]


class _Sums:
    """Sums over the rows in one relation to the tokens ``first`` to ``first + T``.

    Attributes:
        first: the block's first token.
        count: int64 [T], rows by token.
        rows: float64 [T, d], sum of x by token; x are rows less their offset.
        second: float64 [d, d], sum of x x^T. Products are float32 within a piece: an entry is
            within 1e-5 of the root of its two diagonal entries' product.
    """

    def __init__(self, first: int, tokens: int, width: int) -> None:
        self.first = first
        self.count = np.zeros(tokens, np.int64)
        self.rows = np.zeros((tokens, width))
        self.second = np.zeros((width, width))

    def index(self, tokens: np.ndarray) -> np.ndarray:
        """Each token's index in the block, -1 where it is not in it."""
        index = tokens.astype(np.int64) - self.first
        inside = (tokens >= 0) & (index >= 0) & (index < len(self.count))
        return np.where(inside, index, -1)

    def add(self, x: np.ndarray, index: np.ndarray) -> None:
        """Add the rows ``x`` [n, d] of tokens by their ``index`` [n]; not to ``second``."""
        order = np.argsort(index, kind="stable")
        order = order[np.searchsorted(index[order], 0) :]
        if not len(order):
            return
        present, starts, counts = np.unique(index[order], return_index=True, return_counts=True)
        self.rows[present] += np.add.reduceat(x[order], starts, axis=0, dtype=np.float64)
        self.count[present] += counts


def _add(at: _Sums, before: _Sums, piece: Piece) -> None:
    """Add the rows of a piece to the sums of both relations."""
    at_index, before_index = at.index(piece.token), before.index(piece.next_token)
    at.add(piece.x, at_index)
    before.add(piece.x, before_index)
    is_at, is_before = at_index >= 0, before_index >= 0
    # Most rows are in both, and their products are taken once.
    both = _squares(piece.x[is_at & is_before])
    at.second += both + _squares(piece.x[is_at & ~is_before])
    before.second += both + _squares(piece.x[~is_at & is_before])


def _squares(x: np.ndarray) -> np.ndarray:
    squares: np.ndarray = (x.T @ x).astype(np.float64)
    return squares


class _Means:
    """The means of one relation, gathered block by block of tokens."""

    def __init__(self, vocab_size: int, width: int) -> None:
        self._count = np.zeros(vocab_size, np.int64)
        self._rows = np.zeros((vocab_size, width), np.float32)
        self._mean = np.zeros(width)
        self._within = np.zeros((width, width))

    def add(self, sums: _Sums) -> None:
        """Take in a block of tokens, over all rows."""
        self._count[sums.first : sums.first + len(sums.count)] = sums.count
        self._mean += sums.rows.sum(axis=0)
        self._within += sums.second
        for ids in _occurring(sums.count):
            count = sums.count[ids, None]
            scaled = sums.rows[ids] / np.sqrt(count)
            self._within -= scaled.T @ scaled
            self._rows[sums.first + ids] = scaled / np.sqrt(count)

    def finish(self, offset: np.ndarray, embedding: np.ndarray, origin: Origin) -> TokenMeans:
        """The means, once all blocks are in; without any row everything is 0."""
        if total := int(self._count.sum()):
            self._within /= total
            self._mean /= total
            for ids in _occurring(self._count):
                self._rows[ids] -= self._mean.astype(np.float32)
            self._mean += offset
        linear = ridge_map(self._rows, self._count, embedding, origin.ridge)
        explained = shrink(self._rows, self._count, embedding, linear, origin.shrink)
        mean, within = self._mean.astype(np.float32), self._within.astype(np.float32)
        return TokenMeans(
            rows=self._rows, count=self._count, mean=mean, within=within, explained=explained
        )


def _occurring(counts: np.ndarray) -> Iterator[np.ndarray]:
    """The tokens that occur, a few thousand at a time."""
    ids = np.flatnonzero(counts)
    for start in range(0, len(ids), TOKENS):
        yield ids[start : start + TOKENS]


def ridge_map(
    rows_VD: np.ndarray, counts_V: np.ndarray, embedding_VD: np.ndarray, ridge: float
) -> np.ndarray:
    """The linear map, float64 [d, d], from a token's embedding to its mean row.

    It is fitted by ridge regression over the tokens that occur, weighted by their counts, from
    embeddings less their mean.

    Args:
        rows_VD: each token's mean less the mean of all rows.
        counts_V: rows by token.
        embedding_VD: the embeddings.
        ridge: strength, as a share of the mean diagonal of the weighted Gram matrix.
    """
    centre, width = embedding_VD.mean(axis=0, dtype=np.float64), embedding_VD.shape[1]
    gram_DD, cross_DD = np.zeros((2, width, width))
    for ids in _occurring(counts_V):
        root = np.sqrt(counts_V[ids, None])
        inputs = (embedding_VD[ids] - centre) * root
        gram_DD += inputs.T @ inputs
        cross_DD += inputs.T @ (rows_VD[ids] * root)
    strength = ridge * np.trace(gram_DD) / width
    if strength == 0:  # no rows at all
        return cross_DD
    return np.linalg.solve(gram_DD + strength * np.eye(width), cross_DD)


def shrink(
    rows_VD: np.ndarray,
    counts_V: np.ndarray,
    embedding_VD: np.ndarray,
    linear_DD: np.ndarray,
    c: float,
) -> float:
    """Put (n mean + c predicted) / (n + c) in place of each mean in ``rows_VD``.

    Returns:
        The share of the means, weighted by count, that the map alone explains.
    """
    centre, linear = embedding_VD.mean(axis=0, dtype=np.float64), linear_DD.astype(np.float32)
    missed = total = 0.0
    for start in range(0, len(rows_VD), TOKENS):
        block = slice(start, start + TOKENS)
        count = counts_V[block, None].astype(np.float64)
        predicted = (embedding_VD[block] - centre).astype(np.float32) @ linear
        missed += float((count * np.square(rows_VD[block] - predicted)).sum())
        total += float((count * np.square(rows_VD[block])).sum())
        rows_VD[block] = (count * rows_VD[block] + c * predicted) / (count + c)
    return 1 - missed / total if total else 0.0
