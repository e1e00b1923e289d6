"""Batches of one shape for the forward pass, and which rows each of them computes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vasae_jax.extract.packing import Packing
from vasae_jax.extract.windows import SPLITS, Windows


@dataclass(frozen=True)
class Batch:
    """Slots of one forward pass: int32 [S, T] columns, 0 where nothing lies.

    Attributes:
        tokens: token ids.
        positions: the place of each token in its window; 0 begins a window.
        docs: the document of each token.
        places: for each split int64 [n], flat indices into [S * T] of its rows.
        numbers: for each split int64 [n], ascending: which row of the split lies there.
    """

    tokens: np.ndarray
    positions: np.ndarray
    docs: np.ndarray
    places: dict[str, np.ndarray]
    numbers: dict[str, np.ndarray]


@dataclass(frozen=True)
class Batches:
    """The windows of a text in slots, ``size`` of them in a batch; a pure function of all three."""

    windows: Windows
    packing: Packing
    size: int

    def __len__(self) -> int:
        return -(-self.packing.slots // self.size)

    @cached_property
    def _order(self) -> np.ndarray:
        """int64 [W]: windows by slot, and in a slot as they come in the text."""
        return np.argsort(self.packing.slot, kind="stable")

    @cached_property
    def _bounds(self) -> np.ndarray:
        """int64 [batches + 1]: where each batch begins in ``_order``."""
        ends = np.arange(len(self) + 1) * self.size
        return np.searchsorted(self.packing.slot[self._order], ends)

    @cached_property
    def _first_rows(self) -> np.ndarray:
        """int64 [W]: the first row of each window among those of its split."""
        windows, found = self.windows, np.zeros(len(self.windows.docs), np.int64)
        for split in SPLITS:
            mine = windows.of_split(split)
            found[mine] = np.cumsum(windows.lengths[mine]) - windows.lengths[mine]
        return found

    def batch(self, index: int) -> Batch:
        """Batch ``index`` of shape [size, context_length]."""
        windows, mine = self.windows, self._order[self._bounds[index] : self._bounds[index + 1]]
        lengths, shape = windows.lengths[mine], (self.size, windows.context_length)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        slots = self.packing.slot[mine] - index * self.size
        begin = slots * windows.context_length + self.packing.place[mine]
        flat = np.repeat(begin, lengths) + within
        numbers = np.repeat(self._first_rows[mine], lengths) + within
        held = np.repeat(windows.heldout[mine], lengths)
        columns = np.zeros((3, shape[0] * shape[1]), np.int32)
        columns[0, flat] = windows.tokens[np.repeat(windows.starts[mine], lengths) + within]
        columns[1, flat] = within
        columns[2, flat] = np.repeat(windows.docs[mine], lengths)
        tokens, positions, docs = columns.reshape(3, *shape)
        rows = {split: np.flatnonzero(held == (split == "heldout")) for split in SPLITS}
        rows = {split: at[np.argsort(numbers[at])] for split, at in rows.items()}
        return Batch(
            tokens,
            positions,
            docs,
            {split: flat[at] for split, at in rows.items()},
            {split: numbers[at] for split, at in rows.items()},
        )

    def complete(self, split: str) -> np.ndarray:
        """int64 [batches + 1]: up to which row of ``split`` the batches before each hold all."""
        lengths = np.where(self.windows.of_split(split), self.windows.lengths, 0)
        total = np.concatenate([[0], np.cumsum(lengths)])
        firsts = self._order[np.minimum(self._bounds, len(self._order) - 1)]
        return np.asarray(np.where(self._bounds < len(self._order), total[firsts], total[-1]))

    def first(self, split: str, start: int, end: int) -> int:
        """The first batch with a row of ``split`` in ``start`` to ``end - 1``, or the last + 1."""
        begin = self._first_rows
        mine = self.windows.of_split(split) & (begin < end)
        mine &= begin + self.windows.lengths > start
        return int(self.packing.slot[mine].min() // self.size) if mine.any() else len(self)
