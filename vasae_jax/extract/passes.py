"""The forward passes of an extraction: batch n + 1 is computed while n is stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from vasae_jax.cache import CacheWriter
from vasae_jax.cache.manifest import COLUMNS, SPLITS
from vasae_jax.extract.model import Fetch, Model, packs
from vasae_jax.extract.windows import Packing, Windows
from vasae_jax.sites import Site
from vasae_jax.utils.progress import Progress
from vasae_jax.utils.signals import Stopped, StopRequest


@dataclass(frozen=True)
class Batch:
    """The slots of a forward pass: int32 [S, T] columns, 0 where a slot is empty.

    Attributes:
        tokens: token ids.
        positions: the place of each token in its window; 0 begins a window.
        docs: the document of each token.
        places: for each split int64 [n], flat indices into [S * T] of its rows.
        numbers: for each split int64 [n], ascending: which row of the split each is.
    """

    tokens: np.ndarray
    positions: np.ndarray
    docs: np.ndarray
    places: dict[str, np.ndarray]
    numbers: dict[str, np.ndarray]


@dataclass(frozen=True)
class Batches:
    """The windows of a text in batches of ``size`` slots; a pure function of its fields."""

    windows: Windows
    packing: Packing
    size: int

    def __len__(self) -> int:
        return -(-self.packing.slots // self.size)

    @cached_property
    def _order(self) -> np.ndarray:
        """int64 [W]: windows by slot, and in a slot in the order of the text."""
        return np.argsort(self.packing.slot, kind="stable")

    @cached_property
    def _bounds(self) -> np.ndarray:
        """int64 [batches + 1]: the place in ``_order`` at which each batch begins."""
        ends = np.arange(len(self) + 1) * self.size
        return np.searchsorted(self.packing.slot[self._order], ends)

    @cached_property
    def _first_rows(self) -> np.ndarray:
        """int64 [W]: the first row of each window among those of its split."""
        windows, first_rows = self.windows, np.zeros(len(self.windows.docs), np.int64)
        for split in SPLITS:
            chosen = windows.of_split(split)
            first_rows[chosen] = np.cumsum(windows.lengths[chosen]) - windows.lengths[chosen]
        return first_rows

    def batch(self, index: int) -> Batch:
        """Batch ``index`` of shape [size, context_length]."""
        windows, chosen = self.windows, self._order[self._bounds[index] : self._bounds[index + 1]]
        lengths, shape = windows.lengths[chosen], (self.size, windows.context_length)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        slots = self.packing.slot[chosen] - index * self.size
        begin = slots * windows.context_length + self.packing.place[chosen]
        flat = np.repeat(begin, lengths) + within
        numbers = np.repeat(self._first_rows[chosen], lengths) + within
        heldout = np.repeat(windows.heldout[chosen], lengths)
        columns = np.zeros((3, shape[0] * shape[1]), np.int32)
        columns[0, flat] = windows.tokens[np.repeat(windows.starts[chosen], lengths) + within]
        columns[1, flat] = within
        columns[2, flat] = np.repeat(windows.docs[chosen], lengths)
        rows = {split: np.flatnonzero(heldout == (split == "heldout")) for split in SPLITS}
        rows = {split: at[np.argsort(numbers[at])] for split, at in rows.items()}
        tokens, positions, docs = columns.reshape(3, *shape)
        places = {split: flat[at] for split, at in rows.items()}
        numbers_by_split = {split: numbers[at] for split, at in rows.items()}
        return Batch(tokens, positions, docs, places, numbers_by_split)

    def complete(self, split: str) -> np.ndarray:
        """int64 [batches + 1]: before each batch, how many rows of ``split`` are complete."""
        lengths = np.where(self.windows.of_split(split), self.windows.lengths, 0)
        total = np.concatenate([[0], np.cumsum(lengths)])
        firsts = self._order[np.minimum(self._bounds, len(self._order) - 1)]
        return np.asarray(np.where(self._bounds < len(self._order), total[firsts], total[-1]))

    def first(self, split: str, start: int, end: int) -> int:
        """The first batch with a row of ``split`` in ``start`` to ``end - 1``, or the last + 1."""
        begin, stop = self._first_rows, self._first_rows + self.windows.lengths
        chosen = self.windows.of_split(split) & (begin < end) & (stop > start)
        return int(self.packing.slot[chosen].min() // self.size) if chosen.any() else len(self)


class Rows(NamedTuple):
    """n rows of one split."""

    numbers: np.ndarray
    """int64 [n], ascending: which row of the split each is."""
    columns: Mapping[str, np.ndarray]
    """tokens, positions and docs, int32 [n] each."""
    acts: np.ndarray
    """[sites, n, d_model]"""

    def cut(self, start: int, stop: int) -> "Rows":
        """A copy of those from place ``start`` to before ``stop``."""
        columns = {name: column[start:stop].copy() for name, column in self.columns.items()}
        return Rows(self.numbers[start:stop].copy(), columns, self.acts[:, start:stop].copy())


class InOrder:
    """Passes the rows of a split to the writer in order, whatever order they come in.

    Rows that come early wait in memory for those before them.

    Args:
        writer: of the cache; it continues after the rows it has.
        split: of the rows.
        sites: of the first axis of ``Rows.acts``.
    """

    def __init__(self, writer: CacheWriter, split: str, sites: tuple[Site, ...]) -> None:
        self._writer, self._split, self._sites = writer, split, sites
        self._next = writer.rows_done(split)
        self._waiting: Rows | None = None

    def add(self, rows: Rows, complete: int) -> None:
        """Take ``rows``, and write those below ``complete``, all of which have come by now."""
        merged = _merged(self._waiting, rows)
        first, end = np.searchsorted(merged.numbers, [self._next, max(complete, self._next)])
        self._waiting = merged.cut(end, len(merged.numbers))
        if first < end:
            self._writer.append(
                self._split,
                **{name: column[first:end] for name, column in merged.columns.items()},
                acts={site: merged.acts[i, first:end] for i, site in enumerate(self._sites)},
                start=int(merged.numbers[first]),
            )
        self._next = max(complete, self._next)


def _merged(waiting: Rows | None, new: Rows) -> Rows:
    """Both sets of rows in order of their numbers."""
    if waiting is None or not len(waiting.numbers):
        return new
    numbers = np.concatenate([waiting.numbers, new.numbers])
    order = np.argsort(numbers, kind="stable")
    columns = {
        name: np.concatenate([column, new.columns[name]])[order]
        for name, column in waiting.columns.items()
    }
    acts = np.concatenate([waiting.acts, new.acts], axis=1)[:, order]
    return Rows(numbers[order], columns, acts)


def start_rows(model: Any, batch: Batch, sites: tuple[Site, ...], dtype: str) -> Fetch:
    """Start a forward pass on the device; the function returned waits for its rows.

    Rows are cast to ``dtype`` before they leave the device: [len(sites), S, T, d_model].
    """
    if hasattr(model, "rows"):
        fetch: Fetch = model.rows(batch.tokens, sites, dtype)
        return fetch
    positions = (batch.positions,) if packs(model) else ()
    rows = _cast(model.residuals(batch.tokens, sites, *positions), dtype)
    rows.copy_to_host_async()
    return lambda: np.asarray(rows)


def run_passes(
    model: Model, batches: Batches, sites: tuple[Site, ...], dtype: str, writer: CacheWriter
) -> None:
    """Append every row that is not durable yet.

    Raises:
        Stopped: SIGINT or SIGTERM came; durable rows stay.
    """
    first, last = _range(batches, writer)
    ends = {split: batches.complete(split) for split in SPLITS}
    rows_before = np.sum([ends[split] for split in SPLITS], axis=0)
    total = int(rows_before[last])
    order = {split: InOrder(writer, split, sites) for split in SPLITS}
    pending: tuple[dict[str, int], Batch, Fetch] | None = None
    with Progress(total, int(rows_before[first])) as progress, StopRequest() as stop:
        for index in range(first, last):
            batch = batches.batch(index)
            fetch = start_rows(model, batch, sites, dtype)
            if pending is not None:
                _store(order, *pending)
                progress.update(int(rows_before[index]))
            pending = {split: int(ends[split][index + 1]) for split in SPLITS}, batch, fetch
            if stop.signal:
                writer.close()
                rows = sum(map(writer.rows_done, SPLITS))
                raise Stopped(
                    stop.signal, f"stopped after {rows:,} rows; run the same command to continue"
                )
        if pending is not None:
            _store(order, *pending)
        progress.finish(total)


def _range(batches: Batches, writer: CacheWriter) -> tuple[int, int]:
    """The first batch with a row still to be written, and the batch after the last of them."""
    first, last = len(batches), 0
    for split in SPLITS:
        rows = batches.complete(split)
        start, end = writer.rows_done(split), writer.rows_end(split, int(rows[-1]))
        last = max(last, int(np.searchsorted(rows, end)))
        if start < end:
            first = min(first, batches.first(split, start, end))
    return min(first, last), last


def _store(order: dict[str, InOrder], complete: dict[str, int], batch: Batch, fetch: Fetch) -> None:
    """Pass each row to its split."""
    acts = fetch()
    flat = acts.reshape(len(acts), -1, acts.shape[-1])
    for split, rows in order.items():
        at = batch.places[split]
        columns = {name: getattr(batch, name).reshape(-1)[at] for name in COLUMNS}
        rows.add(Rows(batch.numbers[split], columns, flat[:, at]), complete[split])


@partial(jax.jit, static_argnames="dtype")
def _cast(rows: jax.Array, dtype: str) -> jax.Array:
    return rows.astype(dtype)
