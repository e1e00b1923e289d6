"""Rows with what the trainer needs beside them: whether a row counts, and its document."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from vasae_jax.cache import Cache, RowArray
from vasae_jax.cache.manifest import position_in_window
from vasae_jax.config import Mask
from vasae_jax.sites import SiteLike
from vasae_jax.utils.errors import UserError

MOST = 0.01
"""Most unusable rows that are dropped, as a share of the rows read or of the split's."""


LARGEST = 2.0**40
"""A number in a row is less than this, so that sums of squares over a batch fit into float32."""


def unusable(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of ``x`` [n, d] (float32 or bfloat16) are out of range, and which are constant.

    Returns:
        bool [n]: a number of the row is NaN, infinite or LARGEST or more in size.
        bool [n]: all its numbers are 0, or (with d > 1) one other.
    """
    # By their bits: NumPy compares integers several times as fast as bfloat16.
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    bits, limit = x.view(unsigned), np.array(LARGEST, x.dtype).view(unsigned)
    largest = (bits & unsigned.type(2 ** (8 * unsigned.itemsize - 1) - 1)).max(axis=1)
    constant = largest == 0
    if x.shape[1] > 1:
        maybe = np.flatnonzero(bits[:, 0] == bits[:, -1])  # few: the others need no second look
        constant[maybe] |= (bits[maybe] == bits[maybe, :1]).all(axis=1)
    return largest >= limit, constant


class Tally:
    """Counts unusable rows among those read of an array, from any thread.

    Args:
        name: of the array, for the sentence.
        rows: that the array has.
    """

    def __init__(self, name: str, rows: int) -> None:
        self._name, self._rows = name, rows
        self._lock = threading.Lock()
        self._read = self._dropped = self._large = 0

    @property
    def dropped(self) -> int:
        """Unusable rows so far; a row that is read again counts again."""
        return self._dropped

    def add(self, read: int, dropped: int, large: int = 0) -> None:
        """Count rows that were read, dropped, and of these dropped for a ``large`` finite number.

        Raises:
            UserError: more than MOST of the rows are unusable.
        """
        with self._lock:
            self._read += read
            self._dropped += dropped
            self._large += large
            unusable, most = self._dropped, MOST * max(self._read, self._rows)
        if unusable > most:
            what, remedy = "a number of 2^40 or more", "multiply the rows by a constant"
            if self._large < unusable:
                what = f"numbers that are not finite, {what}, or one number throughout"
                remedy = "extract the cache again"
            raise UserError(
                f"{self._name} has {unusable:,} rows that are not usable, with {what}, among "
                f"{self._read:,} read; expected at most {MOST:.0%} of its rows ({remedy})"
            )


B = TypeVar("B")
NORM_SAMPLE = 2**20  # rows whose norms are read for the median: all of them, up to this many


@dataclass(frozen=True)
class Batch:
    """Rows of a layer.

    Attributes:
        x: [n, d_model] in the cache's type (float32, or ``ml_dtypes.bfloat16``); finite.
        keep: bool [n], False for rows that are masked or unusable.
        docs: int32 [n], the number of the document that each row comes from.
    """

    x: np.ndarray
    keep: np.ndarray
    docs: np.ndarray

    def part(self, rows: slice) -> "Batch":
        """Some of the rows, in the same memory."""
        return Batch(self.x[rows], self.keep[rows], self.docs[rows])


class Source:
    """The rows of one site and split, with ``mask`` applied and unusable rows dropped.

    See :func:`median_norm` for the median that norms are compared with, and
    :mod:`vasae_jax.stream.source` for the rows that are dropped, which ``tally`` counts.

    Raises:
        UserError: the cache lacks the layer or split, or a number is negative.
    """

    def __init__(self, cache: Cache, site: SiteLike, split: str, mask: Mask) -> None:
        if mask.skip_positions < 0 or not mask.max_norm >= 0:
            raise UserError(
                f"skip_positions is {mask.skip_positions} and max_norm is {mask.max_norm}; "
                "expected numbers that are not negative"
            )
        self.rows = cache.rows(split)
        self.acts = cache.acts(site, split)
        self.tally = Tally(self.acts.name, self.rows)
        self._docs = cache.column("docs", split)
        self._positions = cache.column("positions", split) if mask.skip_positions else None
        self._norms = cache.norms(site, split) if mask.max_norm else None
        self._skip = mask.skip_positions
        self._limit = np.inf
        if mask.max_norm:
            self._limit = mask.max_norm * median_norm(cache, site, split, mask)

    def read_async(self, ranges: Sequence[tuple[int, int]]) -> "PendingBatch[Batch]":
        """Begin to read ranges of rows, to be laid side by side."""
        return PendingBatch(self.columns(), ranges, self.batch)

    def read(self, start: int, stop: int) -> Batch:
        """Rows ``start`` to ``stop`` in storage order."""
        return self.read_async([(start, stop)]).result()

    def columns(self) -> dict[str, RowArray]:
        """The arrays that are read for each row, by name."""
        arrays = {
            "acts": self.acts,
            "docs": self._docs,
            "positions": self._positions,
            "norms": self._norms,
        }
        return {name: array for name, array in arrays.items() if array is not None}

    def batch(self, columns: dict[str, np.ndarray]) -> Batch:
        """The batch of these columns: acts [n, d_model], the others [n].

        Rows that are out of range become 0: no weight of 0 would undo a NaN.

        Raises:
            UserError: too many rows are unusable.
        """
        x = columns["acts"]
        huge, constant = unusable(x)
        dropped = huge | constant
        finite = np.isfinite(x[huge].astype(np.float32)).all(axis=1)
        self.tally.add(len(x), int(dropped.sum()), int(finite.sum()))
        if huge.any():
            x[huge] = 0
        return Batch(x, self._kept(columns) & ~dropped, columns["docs"])

    def keep(self) -> np.ndarray:
        """bool [rows]: which rows of the whole split are not masked; reads no activations."""
        columns = self.columns()
        del columns["acts"]
        return self._kept({name: array.read(0, self.rows) for name, array in columns.items()})

    def _kept(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        keep = np.ones(len(columns["docs"]), np.bool_)
        if "positions" in columns:
            keep &= position_in_window(columns["positions"]) >= self._skip
        if "norms" in columns:
            keep &= columns["norms"] <= self._limit
        return keep


class PendingBatch(Generic[B]):
    """Rows that are being read, each array's into one block of memory.

    Args:
        arrays: read at the same rows, by name.
        ranges: of rows, to be laid side by side.
        make: makes a batch of the arrays' rows.
    """

    def __init__(
        self,
        arrays: dict[str, RowArray],
        ranges: Sequence[tuple[int, int]],
        make: Callable[[dict[str, np.ndarray]], B],
    ) -> None:
        self._make, self._made = make, list[B]()
        ends = np.cumsum([stop - start for start, stop in ranges])
        self._columns = {
            name: np.empty((ends[-1], *array.shape[1:]), array.dtype)
            for name, array in arrays.items()
        }
        self._reads = [
            arrays[name].read_into(start, stop, column[end - (stop - start) : end])
            for name, column in self._columns.items()
            for (start, stop), end in zip(ranges, ends, strict=True)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return sum(column.nbytes for column in self._columns.values())

    def result(self) -> B:
        """The rows, once they are all there.

        Raises:
            UserError: a chunk is missing or damaged, or too many rows are unusable.
        """
        if not self._made:
            for read in self._reads:
                read.result()
            self._made.append(self._make(self._columns))
        return self._made[0]


def spread_chunks(rows: int, chunk_rows: int, most: int) -> list[tuple[int, int]]:
    """Evenly spaced whole chunks that hold about ``most`` rows (at least one chunk)."""
    chunks = -(-rows // chunk_rows)
    count = min(chunks, max(1, most // chunk_rows))
    starts = [index * chunks // count * chunk_rows for index in range(count)]
    return [(start, min(start + chunk_rows, rows)) for start in starts]


def median_norm(cache: Cache, site: SiteLike, split: str, mask: Mask) -> float:
    """Median L2 norm of a split's rows at positions that ``mask`` does not skip.

    Rows whose norm is 0 or not finite do not count. Exact up to 2**20 rows; above, over evenly
    spaced whole chunks of that many rows.

    Raises:
        UserError: no row has such a position.
    """
    norms, positions = cache.norms(site, split), cache.column("positions", split)
    ranges = spread_chunks(cache.rows(split), norms.chunk_rows, NORM_SAMPLE)
    reads = [(norms.read_async(*part), positions.read_async(*part)) for part in ranges]
    kept = [
        norm.result()[position_in_window(place.result()) >= mask.skip_positions]
        for norm, place in reads
    ]
    sample = np.concatenate(kept)
    sample = sample[np.isfinite(sample) & (sample > 0)]
    if not len(sample):
        raise UserError(
            f"{cache.url} has no usable row at position {mask.skip_positions} or later in its "
            f"split {split!r}; expected a smaller skip_positions than its longest context"
        )
    return float(np.median(sample))


class Layers:
    """The rows of ``sites`` of a split; what they have in common is read once.

    Raises:
        UserError: as :class:`vasae_jax.stream.source.Source` does, for any layer.
    """

    def __init__(self, cache: Cache, sites: Sequence[SiteLike], split: str, mask: Mask) -> None:
        self._sources = [Source(cache, site, split, mask) for site in sites]
        self.dtype = self._sources[0].acts.dtype

    @property
    def dropped(self) -> int:
        """Unusable rows of all layers so far, as a :class:`Tally` counts them."""
        return sum(source.tally.dropped for source in self._sources)

    def columns(self) -> dict[str, RowArray]:
        """The arrays that are read for each row: those of a layer with its place in the name."""
        return {
            _name(name, place): array
            for place, source in enumerate(self._sources)
            for name, array in source.columns().items()
        }

    def batch(self, columns: dict[str, np.ndarray]) -> list[Batch]:
        """A batch for each layer; UserError where too many rows of one are unusable."""
        return [
            source.batch({name: columns[_name(name, place)] for name in source.columns()})
            for place, source in enumerate(self._sources)
        ]

    def read_async(self, ranges: Sequence[tuple[int, int]]) -> PendingBatch[list[Batch]]:
        """Begin to read ranges of rows, to be laid side by side."""
        return PendingBatch(self.columns(), ranges, self.batch)


def _name(column: str, place: int) -> str:
    return f"{column} {place}" if column in ("acts", "norms") else column


def rows_in_order(
    cache: Cache, site: SiteLike, split: str, mask: Mask, *, batch: int, start: int = 0
) -> Iterator[Batch]:
    """Each row of a split once, in batches of ``batch`` rows; those of ``mask`` do not count.

    Rows before ``start``, which is the first one of a chunk, are left out.

    The last batch is filled up with rows of zeros that have ``keep`` False and ``docs`` -1.
    The next rows are read while the consumer works.

    Raises:
        UserError: at once if the cache lacks the layer or split or a number does not fit;
            on the way if a chunk is missing or damaged.
    """
    if batch < 1:
        raise UserError(f"batch is {batch}; expected at least 1")
    return _batches(Source(cache, site, split, mask), batch, start)


def _batches(source: Source, size: int, start: int) -> Iterator[Batch]:
    out, filled = _blank(source, size), 0
    for block in _blocks(source, size, start):
        at = 0
        while at < len(block.keep):
            count = min(size - filled, len(block.keep) - at)
            for name in ("x", "keep", "docs"):
                getattr(out, name)[filled : filled + count] = getattr(block, name)[at : at + count]
            at, filled = at + count, filled + count
            if filled == size:
                yield out
                out, filled = _blank(source, size), 0
    if filled:
        yield out


def _blocks(source: Source, size: int, first: int) -> Iterator[Batch]:
    """Runs of whole chunks of about a batch, so that no chunk is read twice."""
    chunk = source.acts.chunk_rows
    step = chunk * max(1, size // chunk)
    if first >= source.rows:
        return
    ranges = [(start, min(start + step, source.rows)) for start in range(first, source.rows, step)]
    pending = source.read_async(ranges[:1])
    for rows in ranges[1:]:
        ahead = source.read_async([rows])
        yield pending.result()
        pending = ahead
    yield pending.result()


def _blank(source: Source, size: int) -> Batch:
    x = np.zeros((size, source.acts.shape[1]), source.acts.dtype)
    return Batch(x, np.zeros(size, np.bool_), np.full(size, -1, np.int32))
