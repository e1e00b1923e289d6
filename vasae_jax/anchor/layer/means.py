"""From sums by token to each token's mean row, and how rows spread about it."""

from collections.abc import Iterator

import numpy as np

from vasae_jax.anchor.layer.moments import Moments

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
