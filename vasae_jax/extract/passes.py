"""The forward passes of an extraction: batch n + 1 computes while n is stored."""

from functools import partial
from typing import Any

import jax
import numpy as np

from vasae_jax.cache import CacheWriter
from vasae_jax.extract.batches import Batch, Batches
from vasae_jax.extract.in_order import InOrder, Rows
from vasae_jax.extract.model import Fetch, Model, packs
from vasae_jax.extract.windows import SPLITS
from vasae_jax.system.progress import Progress
from vasae_jax.system.signals import Stopped, StopRequest


def start_rows(model: Any, batch: Batch, layers: tuple[int, ...], dtype: str) -> Fetch:
    """Start a forward pass on the device; the function returned waits for its rows.

    Rows are cast to ``dtype`` before they leave the device: [len(layers), S, T, d_model].
    """
    if hasattr(model, "rows"):
        fetch: Fetch = model.rows(batch.tokens, layers, dtype)
        return fetch
    where = (batch.positions,) if packs(model) else ()
    rows = _cast(model.residuals(batch.tokens, layers, *where), dtype)
    rows.copy_to_host_async()
    return lambda: np.asarray(rows)


def run_passes(
    model: Model, batches: Batches, layers: tuple[int, ...], dtype: str, writer: CacheWriter
) -> None:
    """Append every row that is not durable yet.

    Raises:
        Stopped: SIGINT or SIGTERM came; what is durable stays.
    """
    first, last = _range(batches, writer)
    ends = {split: batches.complete(split) for split in SPLITS}
    rows_before = np.sum([ends[split] for split in SPLITS], axis=0)
    total = int(rows_before[last])
    order = {split: InOrder(writer, split, layers) for split in SPLITS}
    pending: tuple[int, Batch, Fetch] | None = None
    with Progress(total, int(rows_before[first])) as progress, StopRequest() as stop:
        for index in range(first, last):
            batch = batches.batch(index)
            fetch = start_rows(model, batch, layers, dtype)
            if pending is not None:
                _store(order, ends, *pending)
                progress.update(int(rows_before[index]))
            pending = index, batch, fetch
            if stop.signal:
                writer.close()
                rows = sum(map(writer.rows_done, SPLITS))
                raise Stopped(
                    stop.signal, f"stopped after {rows:,} rows; run the same command to continue"
                )
        if pending is not None:
            _store(order, ends, *pending)
        progress.finish(total)


def _range(batches: Batches, writer: CacheWriter) -> tuple[int, int]:
    """The batches with a row that is to be written and not durable: the first, and after the last.

    Where there is none, nothing is between the two.
    """
    first, last = len(batches), 0
    for split in SPLITS:
        rows = batches.complete(split)
        start, end = writer.rows_done(split), writer.rows_end(split, int(rows[-1]))
        last = max(last, int(np.searchsorted(rows, end)))
        if start < end:
            first = min(first, batches.first(split, start, end))
    return min(first, last), last


def _store(
    order: dict[str, InOrder],
    ends: dict[str, np.ndarray],
    index: int,
    batch: Batch,
    fetch: Fetch,
) -> None:
    """Hand each row to its split."""
    found = fetch()
    flat = found.reshape(len(found), -1, found.shape[-1])
    columns = {"tokens": batch.tokens, "positions": batch.positions, "docs": batch.docs}
    for split, rows in order.items():
        at = batch.places[split]
        mine = {name: column.reshape(-1)[at] for name, column in columns.items()}
        rows.add(Rows(batch.numbers[split], mine, flat[:, at]), int(ends[split][index + 1]))


@partial(jax.jit, static_argnames="dtype")
def _cast(rows: jax.Array, dtype: str) -> jax.Array:
    return rows.astype(dtype)
