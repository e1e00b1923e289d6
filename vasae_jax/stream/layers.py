"""Rows of several layers at the same positions."""

from collections.abc import Sequence

import numpy as np

from vasae_jax.cache import Cache, RowArray
from vasae_jax.config import Mask
from vasae_jax.stream.source import Batch, PendingBatch, Source


class Layers:
    """The rows of ``layers`` of a split; what they have in common is read once.

    Raises:
        UserError: as :class:`vasae_jax.stream.source.Source` does, for any layer.
    """

    def __init__(self, cache: Cache, layers: Sequence[int], split: str, mask: Mask) -> None:
        self._sources = [Source(cache, layer, split, mask) for layer in layers]
        self.dtype = self._sources[0].acts.dtype

    @property
    def dropped(self) -> int:
        """Unusable rows of all layers so far, as a :class:`Tally` counts them."""
        return sum(source.tally.dropped for source in self._sources)

    def columns(self) -> dict[str, RowArray]:
        """The arrays that are read for each row: those of a layer with its place in the name."""
        found: dict[str, RowArray] = {}
        for place, source in enumerate(self._sources):
            for name, array in source.columns().items():
                found.setdefault(_name(name, place), array)
        return found

    def batch(self, columns: dict[str, np.ndarray]) -> list[Batch]:
        """A batch for each layer; UserError where too many rows of one are unusable."""
        return [
            source.batch({name: columns[_name(name, place)] for name in source.columns()})
            for place, source in enumerate(self._sources)
        ]

    def read_async(self, ranges: Sequence[tuple[int, int]]) -> PendingBatch[list[Batch]]:
        """Begin to read ranges of rows, to be laid side by side."""
        return PendingBatch(self, ranges)


def _name(column: str, place: int) -> str:
    return f"{column} {place}" if column in ("acts", "norms") else column
