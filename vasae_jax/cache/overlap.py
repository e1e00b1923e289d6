"""Held-out text that training has too: runs of RUN tokens, all of them found.

Rows of such a run measure memory rather than names, so extraction leaves their windows out. Runs
are compared by hashes of 64 bits: none is missed, and among 10^9 tokens of training and 10^8
held-out ones a pair of different runs is taken for equal with a probability of 0.5 %. Memory is
bounded, since at most BLOCK held-out tokens are compared at once. Repeats that are shorter than
RUN, or changed in a token of each RUN, are not found.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from vasae_jax.cache.manifest import position_in_window
from vasae_jax.cache.reader import Cache

RUN = 64
"""Tokens in a row of one document that count as a repeat; a power of two."""
BLOCK = 2**24
"""Held-out tokens that are compared at once; training is read anew for each block."""
PIECE = 2**20
"""Rows of training that are read at once."""


class Text(NamedTuple):
    """Tokens in the order of the text, with the document of each: int32 [n]."""

    tokens: np.ndarray
    docs: np.ndarray


class Overlap(NamedTuple):
    """How many held-out rows lie in runs of RUN tokens that training has; BOS rows aside."""

    repeated: int
    rows: int

    def __str__(self) -> str:
        share = self.repeated / max(self.rows, 1)
        return (
            f"{self.repeated:,} of {self.rows:,} held-out rows ({share:.1%}) lie in runs of {RUN} "
            "tokens that training has"
        )


def overlap(cache: Cache) -> Overlap:
    """The overlap of a cache's splits; reads no activations.

    Raises:
        UserError: a file is missing or damaged.
    """
    rows = cache.rows("heldout")
    if not rows or not cache.rows("train"):
        return Overlap(0, rows)
    heldout = Text(*(np.concatenate(parts) for parts in zip(*_read(cache, "heldout"), strict=True)))
    found = repeated(heldout, lambda: _read(cache, "train"))
    return Overlap(int(found.sum()), len(found))


def repeated(heldout: Text, train: Callable[[], Iterable[Text]]) -> np.ndarray:
    """bool [n]: whether each held-out token lies in a run of RUN tokens that training has.

    Args:
        heldout: the held-out text, without BOS tokens.
        train: returns the training text, without BOS tokens, in pieces.
    """
    found = np.zeros(len(heldout.tokens) + 1, np.int32)
    for first in range(0, len(heldout.tokens), BLOCK):
        runs, starts = _runs(Text(*(part[first : first + BLOCK + RUN - 1] for part in heldout)))
        begin = first + starts[_seen(runs, train())]
        found[begin] += 1  # a run begins once, so no place is twice in ``begin``
        found[begin + RUN] -= 1
    return np.asarray(np.cumsum(found[:-1]) > 0)


def _seen(runs: np.ndarray, train: Iterable[Text]) -> np.ndarray:
    """Which of the hashes ``runs`` are those of a run in the pieces of ``train``, bool."""
    distinct, which = np.unique(runs, return_inverse=True)
    seen = np.zeros(len(distinct), np.bool_)
    if len(distinct):
        for piece in _overlapping(train):
            searched, _ = _runs(piece)
            at = np.minimum(np.searchsorted(distinct, searched), len(distinct) - 1)
            seen[at[distinct[at] == searched]] = True
    return np.asarray(seen[which])


def _runs(text: Text) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each run of RUN tokens within a document, uint64, and where the run begins."""
    if len(text.tokens) < RUN:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    hashes, length = _mixed(text.tokens.astype(np.uint64) + np.uint64(1)), 1
    while length < RUN:  # of two runs of half the length
        hashes = _mixed(hashes[:-length] * np.uint64(0x9E3779B97F4A7C15) + hashes[length:])
        length *= 2
    starts = np.flatnonzero(text.docs[: len(hashes)] == text.docs[RUN - 1 :])
    return hashes[starts], starts


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): each bit depends on all."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _overlapping(pieces: Iterable[Text]) -> Iterator[Text]:
    """The pieces, each after the last RUN - 1 tokens before it."""
    before = Text(np.empty(0, np.int32), np.empty(0, np.int32))
    for piece in pieces:
        joined = Text(*(np.concatenate(pair) for pair in zip(before, piece, strict=True)))
        yield joined
        before = Text(*(column[1 - RUN :] for column in joined))


def _read(cache: Cache, split: str) -> Iterator[Text]:
    """The tokens of a split in pieces, without the BOS of each window."""
    rows, names = cache.rows(split), ("tokens", "docs", "positions")
    for start in range(0, rows, PIECE):
        stop = min(start + PIECE, rows)
        reads = [cache.column(name, split).read_async(start, stop) for name in names]
        tokens, docs, positions = (read.result() for read in reads)
        text = np.ones(len(docs), np.bool_)
        if cache.manifest.bos:
            text = position_in_window(positions) > 0
        yield Text(tokens[text], docs[text])
