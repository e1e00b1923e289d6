"""Rows that are computed before their turn wait here until the writer can take them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vasae_jax.cache import CacheWriter


class Rows(NamedTuple):
    """n rows of one split."""

    numbers: np.ndarray
    """int64 [n], ascending: which row of the split each is."""
    columns: Mapping[str, np.ndarray]
    """tokens, positions and docs, int32 [n] each."""
    acts: np.ndarray
    """[layers, n, d_model]"""

    def cut(self, start: int, stop: int) -> "Rows":
        """Those from place ``start`` to before ``stop``, in memory of their own."""
        columns = {name: column[start:stop].copy() for name, column in self.columns.items()}
        return Rows(self.numbers[start:stop].copy(), columns, self.acts[:, start:stop].copy())


class InOrder:
    """Hands the rows of one split to the writer one after another, whatever order they come in.

    Args:
        writer: where they go; its first row is the one after those it has.
        split: whose rows they are.
        layers: of the axis of ``Rows.acts``.
    """

    def __init__(self, writer: CacheWriter, split: str, layers: tuple[int, ...]) -> None:
        self._writer, self._split, self._layers = writer, split, layers
        self._next = writer.rows_done(split)
        self._held: Rows | None = None

    def add(self, rows: Rows, complete: int) -> None:
        """Take ``rows``, and write all below ``complete``, since none of those is still to come."""
        found = _merged(self._held, rows)
        first, end = np.searchsorted(found.numbers, [self._next, max(complete, self._next)])
        self._held = found.cut(end, len(found.numbers))
        if first < end:
            self._writer.append(
                self._split,
                **{name: column[first:end] for name, column in found.columns.items()},
                acts={layer: found.acts[i, first:end] for i, layer in enumerate(self._layers)},
                start=int(found.numbers[first]),
            )
        self._next = max(complete, self._next)


def _merged(held: Rows | None, new: Rows) -> Rows:
    """Both in order."""
    if held is None or not len(held.numbers):
        return new
    numbers = np.concatenate([held.numbers, new.numbers])
    order = np.argsort(numbers, kind="stable")
    columns = {
        name: np.concatenate([column, new.columns[name]])[order]
        for name, column in held.columns.items()
    }
    acts = np.concatenate([held.acts, new.acts], axis=1)[:, order]
    return Rows(numbers[order], columns, acts)
