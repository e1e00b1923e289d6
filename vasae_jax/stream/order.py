"""The order of the rows: pure functions of (seed, reader, epoch, group).

The chunks of a split are dealt to readers like cards: reader r owns the chunks c with
c % readers == r. In each of its epochs a reader permutes its chunks, takes them in groups of
``shuffle_chunks`` chunks, and shuffles the rows within a group. The reader's epochs follow each
other without a gap, so a reader is one endless sequence of rows.

Every shuffle sorts raw draws of a Philox generator whose key is (seed, reader) and whose
counter holds (epoch, group): no state, no generator shared between places, and nothing
that a NumPy release may change.
"""

import functools
from dataclasses import dataclass

import numpy as np

from vasae_jax.utils.errors import UserError


def next_tokens(tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The token after each row in its window, -1 at a window's end; int32 [rows]."""
    after = np.full(len(tokens), -1, np.int32)
    goes_on = positions[1:] == positions[:-1] + 1
    after[:-1][goes_on] = tokens[1:][goes_on]
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

    def chunk_range(self, chunk: int) -> tuple[int, int]:
        """First row of a chunk, and the row after its last."""
        start = chunk * self.chunk_rows
        return start, min(start + self.chunk_rows, self.rows)

    def reader_rows(self, reader: int) -> int:
        """Rows that a reader owns: the length of its epoch."""
        rows = len(range(reader, self.chunks, self.readers)) * self.chunk_rows
        short = self.chunks * self.chunk_rows - self.rows
        return rows - short if (self.chunks - 1) % self.readers == reader else rows

    def groups(self, reader: int) -> int:
        """Groups in an epoch of a reader."""
        return -(-len(range(reader, self.chunks, self.readers)) // self.shuffle_chunks)

    def group_chunks(self, reader: int, epoch: int, group: int) -> np.ndarray:
        """The chunks of a group [n], in the order in which they are laid side by side."""
        permuted, _ = _epoch(self, reader, epoch)
        return permuted[group * self.shuffle_chunks : (group + 1) * self.shuffle_chunks]

    def shuffle(self, reader: int, epoch: int, group: int) -> np.ndarray:
        """Where each row of the shuffled group lies among its chunks laid side by side; [rows]."""
        _, bounds = _epoch(self, reader, epoch)
        rows = int(np.diff(bounds)[group])
        return permutation(self.seed, reader, epoch, part=group + 1, count=rows)

    def segments(self, reader: int, start: int, stop: int) -> list[Segment]:
        """Where rows ``start`` to ``stop`` of a reader's endless sequence are found."""
        segments = []
        while start < stop:
            epoch, inside = divmod(start, self.reader_rows(reader))
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
    """A reader's chunks as this epoch permutes them, and the first row of each group.

    The second array ends with the epoch's length.
    """
    chunks = np.arange(reader, order.chunks, order.readers)
    permuted = chunks[permutation(order.seed, reader, epoch, part=0, count=len(chunks))]
    sizes = np.minimum(order.chunk_rows, order.rows - permuted * order.chunk_rows)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return permuted, np.append(ends[: -1 : order.shuffle_chunks], ends[-1])
