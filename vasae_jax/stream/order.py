"""The order of the rows: pure functions of (seed, reader, epoch, group).

The chunks of a split lie on a ring: chunks 0, R, 2R and so on for R readers, then 1, R + 1, 2R + 1
and so on. In each epoch every reader takes the same number of rows, N // R of N; together they
take a stretch of the ring, reader after reader, and the next epoch goes on where it ends. So
all rows are visited equally often, however long the chunks are: the visits of any two differ by at
most 1 at the end of an epoch, and by at most 2 at any other time. Where all chunks are full and R
divides their number, reader r has the chunks c with c % R == r in every epoch.

A reader permutes the chunks of its epoch (the first and the last may be parts of chunks), takes
them in groups of ``shuffle_chunks``, and shuffles the rows within a group. Its epochs follow each
other without a gap, so a reader is one endless sequence of rows.

Every shuffle sorts raw draws of a Philox generator whose key is (seed, reader) and whose
counter holds (epoch, group): no state, no generator shared between places, and nothing
that a NumPy release may change.
"""

import functools
from dataclasses import dataclass

import numpy as np

from vasae_jax.utils.errors import UserError

VERSION = 2
"""Of the order, as runs record it. In version 1 a reader had whole chunks alone, so that rows came
more often where a reader had few chunks, or a short one."""


def unchanged_since(version: int, rows: int, chunk_rows: int, readers: int) -> bool:
    """Whether a version of the order visits the rows as this one does.

    Version 1 did where all readers had equally many rows.
    """
    even = readers == 1 or rows % (chunk_rows * readers) == 0
    return version == VERSION or (version == 1 and even)


def goes_on(positions: np.ndarray) -> np.ndarray:
    """bool [rows - 1]: whether the row after each is the next of its window."""
    return np.asarray((positions[1:] == positions[:-1] + 1) & (positions[:-1] >= 0))


def next_tokens(tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The token after each row in its window, -1 at a window's end; int32 [rows]."""
    after = np.full(len(tokens), -1, np.int32)
    followed = goes_on(positions)
    after[:-1][followed] = tokens[1:][followed]
    return after


@dataclass(frozen=True)
class Segment:
    """Rows ``start`` to ``stop`` of a shuffled group of a reader."""

    epoch: int
    group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Shuffle:
    """How the rows of a split are mixed into batches.

    Attributes:
        batch: rows in a batch, over all processes.
        seed: of the order, from 0 to 2**64 - 1.
        readers: divides ``batch``; at most as many as the split has chunks.
        shuffle_chunks: chunks that a reader shuffles together.
    """

    batch: int
    seed: int
    readers: int
    shuffle_chunks: int


@dataclass(frozen=True)
class Order:
    """The order in which the rows of a split are visited.

    Attributes:
        rows: rows of the split.
        chunk_rows: rows in a chunk (the last one may be shorter).
        readers: number of readers; at most as many as there are chunks.
        shuffle_chunks: chunks that are shuffled together.
        seed: from 0 to 2**64 - 1.
    """

    rows: int
    chunk_rows: int
    readers: int
    shuffle_chunks: int
    seed: int

    @property
    def chunks(self) -> int:
        """Number of chunks in the split."""
        return -(-self.rows // self.chunk_rows)

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch of a reader, of any."""
        return self.rows // self.readers

    def groups(self, reader: int, epoch: int) -> int:
        """Groups in an epoch of a reader."""
        _, bounds = _epoch(self, reader, epoch)
        return len(bounds) - 1

    def ranges(self, reader: int, epoch: int, group: int) -> list[tuple[int, int]]:
        """The rows of a group before they are shuffled, as ranges to be laid side by side."""
        permuted, _ = _epoch(self, reader, epoch)
        first = group * self.shuffle_chunks
        return [(int(a), int(b)) for a, b in permuted[first : first + self.shuffle_chunks]]

    def shuffle(self, reader: int, epoch: int, group: int) -> np.ndarray:
        """Where each row of the shuffled group lies among its ranges laid side by side; [rows]."""
        _, bounds = _epoch(self, reader, epoch)
        rows = int(np.diff(bounds)[group])
        return permutation(self.seed, reader, epoch, part=group + 1, count=rows)

    def segments(self, reader: int, start: int, stop: int) -> list[Segment]:
        """Where rows ``start`` to ``stop`` of a reader's endless sequence are found."""
        segments = []
        while start < stop:
            epoch, inside = divmod(start, self.epoch_rows)
            _, bounds = _epoch(self, reader, epoch)
            group = int(np.searchsorted(bounds, inside, side="right")) - 1
            first, last = int(bounds[group]), int(bounds[group + 1])
            taken = min(stop - start, last - inside)
            segments.append(Segment(epoch, group, inside - first, inside - first + taken))
            start += taken
        return segments


def permutation(seed: int, reader: int, epoch: int, *, part: int, count: int) -> np.ndarray:
    """The permutation [count] of ``range(count)`` that belongs to the other four numbers.

    Part 0 of an epoch orders its chunks, part w + 1 the rows of its group w.
    """
    # Draws count up in the counter's first word, so no two streams ever meet.
    # As arrays: a list with a number of 2**63 or more would pass through float64.
    key, counter = np.array([seed, reader], np.uint64), np.array([0, 0, part, epoch], np.uint64)
    generator = np.random.Philox(key=key, counter=counter)
    return np.argsort(generator.random_raw(count), kind="stable")


def check(order: Order, batch: int, processes: int) -> None:
    """Refuse numbers that do not fit each other.

    Raises:
        UserError: readers do not divide the batch, processes do not divide the readers, there
            are more readers than chunks, or a number is out of its range.
    """
    for name, value in (
        ("batch", batch),
        ("readers", order.readers),
        ("shuffle_chunks", order.shuffle_chunks),
    ):
        if value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")
    if not 0 <= order.seed < 2**64:
        raise UserError(f"seed is {order.seed}; expected from 0 to 2**64 - 1")
    if batch % order.readers:
        raise UserError(f"batch is {batch}; expected a multiple of readers ({order.readers})")
    if order.readers % processes:
        raise UserError(
            f"readers are {order.readers}; expected a multiple of the number of processes "
            f"({processes})"
        )
    if order.readers > order.chunks:
        usable = [
            readers
            for readers in range(1, order.chunks + 1)
            if batch % readers == 0 and readers % processes == 0
        ]
        expected = f"readers={usable[-1]}" if usable else f"at least {processes} chunks of rows"
        raise UserError(
            f"readers are {order.readers}, but {order.rows} rows are only {order.chunks} chunks of "
            f"{order.chunk_rows}; expected {expected}"
        )


@functools.lru_cache(maxsize=256)
def _epoch(order: Order, reader: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The ranges [n, 2] of a reader as this epoch permutes them, and the first row of each group.

    The second array ends with the epoch's length.
    """
    ranges = _ranges(order, reader, epoch)
    permuted = ranges[permutation(order.seed, reader, epoch, part=0, count=len(ranges))]
    ends = np.concatenate([[0], np.cumsum(permuted[:, 1] - permuted[:, 0])])
    return permuted, np.append(ends[: -1 : order.shuffle_chunks], ends[-1])


def _ranges(order: Order, reader: int, epoch: int) -> np.ndarray:
    """The rows that a reader takes in an epoch [n, 2], a range for each chunk that it meets."""
    chunks, bounds = _ring(order.rows, order.chunk_rows, order.readers)
    start = (epoch * order.readers + reader) * order.epoch_rows % order.rows
    stop = start + order.epoch_rows
    ranges = []
    for first, last in ((start, min(stop, order.rows)), (0, stop - order.rows)):
        if first < last:
            start_chunk, stop_chunk = np.searchsorted(bounds, [first + 1, last]) - [1, 0]
            met = slice(start_chunk, stop_chunk)
            # From places on the ring to rows of the split.
            shift = chunks[met] * order.chunk_rows - bounds[:-1][met]
            begins, ends = np.maximum(bounds[:-1][met], first), np.minimum(bounds[1:][met], last)
            ranges.append(np.stack([begins + shift, ends + shift], axis=1))
    return np.concatenate(ranges)


@functools.lru_cache(maxsize=8)
def _ring(rows: int, chunk_rows: int, readers: int) -> tuple[np.ndarray, np.ndarray]:
    """The chunks in the order of the ring, and where each begins there, with the ring's length."""
    count = -(-rows // chunk_rows)
    chunks = np.concatenate([np.arange(reader, count, readers) for reader in range(readers)])
    sizes = np.minimum(chunk_rows, rows - chunks * chunk_rows)
    return chunks, np.concatenate([[0], np.cumsum(sizes)])
