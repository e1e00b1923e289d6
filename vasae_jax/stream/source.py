"""Rows with what the trainer needs beside them: whether a row counts, and its document."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from vasae_jax.cache import Cache, RowArray
from vasae_jax.cache.reader import PendingRows
from vasae_jax.config import Mask
from vasae_jax.stream.unusable import Tally, unusable
from vasae_jax.system.errors import UserError

B_co = TypeVar("B_co", covariant=True)
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


class Columns(Protocol[B_co]):
    """Arrays that are read at the same rows, and what is made of these."""

    def columns(self) -> dict[str, RowArray]:
        """The arrays, by name."""

    def batch(self, columns: dict[str, np.ndarray]) -> B_co:
        """What their rows are made into."""


class Source:
    """The rows of one layer and split, with ``mask`` applied and unusable rows dropped.

    See :func:`median_norm` for the median that norms are compared with, and
    :mod:`vasae_jax.stream.unusable` for the rows that are dropped, which ``tally`` counts.

    Raises:
        UserError: the cache lacks the layer or split, or a number is negative.
    """

    def __init__(self, cache: Cache, layer: int, split: str, mask: Mask) -> None:
        if mask.skip_positions < 0 or not mask.max_norm >= 0:
            raise UserError(
                f"skip_positions is {mask.skip_positions} and max_norm is {mask.max_norm}; "
                "expected numbers that are not negative"
            )
        self.rows = cache.rows(split)
        self.acts = cache.acts(layer, split)
        self.tally = Tally(self.acts.name, self.rows)
        self._docs = cache.column("docs", split)
        self._positions = cache.column("positions", split) if mask.skip_positions else None
        self._norms = cache.norms(layer, split) if mask.max_norm else None
        self._skip = mask.skip_positions
        self._limit = np.inf
        if mask.max_norm:
            self._limit = mask.max_norm * median_norm(cache, layer, split, mask)

    def read_async(self, ranges: Sequence[tuple[int, int]]) -> "PendingBatch[Batch]":
        """Begin to read ranges of rows, to be laid side by side."""
        return PendingBatch(self, ranges)

    def read(self, start: int, stop: int) -> Batch:
        """Rows ``start`` to ``stop`` in storage order."""
        return self.read_async([(start, stop)]).result()

    def columns(self) -> dict[str, RowArray]:
        """The arrays that are read for each row, by name."""
        found = {"acts": self.acts, "docs": self._docs}
        if self._positions is not None:
            found["positions"] = self._positions
        if self._norms is not None:
            found["norms"] = self._norms
        return found

    def batch(self, columns: dict[str, np.ndarray]) -> Batch:
        """The batch of these columns: acts [n, d_model], the others [n].

        Rows that are not finite become 0: no weight of 0 would undo a NaN.

        Raises:
            UserError: too many rows are unusable.
        """
        x = columns["acts"]
        infinite, constant = unusable(x)
        dropped = infinite | constant
        self.tally.add(len(x), int(dropped.sum()))
        if infinite.any():
            x[infinite] = 0
        return Batch(x, self._kept(columns) & ~dropped, columns["docs"])

    def keep(self) -> np.ndarray:
        """bool [rows]: which rows of the whole split are not masked; reads no activations."""
        columns = self.columns()
        del columns["acts"]
        return self._kept({name: array.read(0, self.rows) for name, array in columns.items()})

    def _kept(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        keep = np.ones(len(columns["docs"]), np.bool_)
        if "positions" in columns:
            keep &= columns["positions"] >= self._skip
        if "norms" in columns:
            keep &= columns["norms"] <= self._limit
        return keep


class PendingBatch(Generic[B_co]):
    """Rows that are being read, each column into one block of memory."""

    def __init__(self, source: Columns[B_co], ranges: Sequence[tuple[int, int]]) -> None:
        self._source = source
        self._made: list[B_co] = []
        count = sum(stop - start for start, stop in ranges)
        self._columns = {
            name: np.empty((count, *array.shape[1:]), array.dtype)
            for name, array in source.columns().items()
        }
        self._reads: list[PendingRows] = []
        for name, array in source.columns().items():
            place = 0
            for start, stop in ranges:
                into = self._columns[name][place : place + stop - start]
                self._reads.append(array.read_into(start, stop, into))
                place += stop - start

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return sum(column.nbytes for column in self._columns.values())

    def result(self) -> B_co:
        """The rows, once they are all there.

        Raises:
            UserError: a chunk is missing or damaged, or too many rows are unusable.
        """
        if not self._made:
            for read in self._reads:
                read.result()
            self._made.append(self._source.batch(self._columns))
        return self._made[0]


def spread_chunks(rows: int, chunk_rows: int, most: int) -> list[tuple[int, int]]:
    """Evenly spaced whole chunks that hold about ``most`` rows (at least one chunk)."""
    chunks = -(-rows // chunk_rows)
    count = min(chunks, max(1, most // chunk_rows))
    starts = [index * chunks // count * chunk_rows for index in range(count)]
    return [(start, min(start + chunk_rows, rows)) for start in starts]


def median_norm(cache: Cache, layer: int, split: str, mask: Mask) -> float:
    """Median L2 norm of a split's rows at positions that ``mask`` does not skip.

    Rows whose norm is 0 or not finite do not count. Exact up to 2**20 rows; above, over evenly
    spaced whole chunks of that many rows.

    Raises:
        UserError: no row has such a position.
    """
    norms, positions = cache.norms(layer, split), cache.column("positions", split)
    ranges = spread_chunks(cache.rows(split), norms.chunk_rows, NORM_SAMPLE)
    reads = [(norms.read_async(*part), positions.read_async(*part)) for part in ranges]
    kept = [norm.result()[place.result() >= mask.skip_positions] for norm, place in reads]
    found = np.concatenate(kept)
    found = found[np.isfinite(found) & (found > 0)]
    if not len(found):
        raise UserError(
            f"{cache.url} has no usable row at position {mask.skip_positions} or later in its "
            f"split {split!r}; expected a smaller skip_positions than its longest context"
        )
    return float(np.median(found))
