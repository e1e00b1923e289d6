"""One reader of a cache: its current group of chunks, and the next one being read."""

from collections.abc import Callable, Sequence

import numpy as np

from vasae_jax.stream.order import Order, Segment
from vasae_jax.stream.source import Batch, Layers, PendingBatch


class ChunkReader:
    """Rows of a reader by their place in its endless sequence.

    At most two groups of chunks are in memory: the one that was last read from and the one
    after it, which is read ahead. Going forward, each range of rows is read once an epoch.

    Args:
        order: the order of the rows.
        reader: its number.
        source: where rows are read, of one layer or of several.
        on_read: called with the bytes of each group that is asked for.
    """

    def __init__(
        self, order: Order, reader: int, source: Layers, on_read: Callable[[int], None]
    ) -> None:
        self._order, self._reader, self._source = order, reader, source
        self._on_read = on_read
        self._groups: dict[tuple[int, int], PendingBatch[list[Batch]]] = {}
        self._shuffle: tuple[tuple[int, int], np.ndarray] | None = None

    def request(self, start: int) -> None:
        """Begin to read the group that holds row ``start``, without waiting for it."""
        segment = self._order.segments(self._reader, start, start + 1)[0]
        self._group((segment.epoch, segment.group))

    def fill(self, start: int, out: Sequence[Batch]) -> None:
        """Copy the rows of the sequence from ``start`` on into all of ``out``, one a layer."""
        place = 0
        for segment in self._order.segments(self._reader, start, start + len(out[0].keep)):
            stop = place + segment.stop - segment.start
            self._copy(segment, [batch.part(slice(place, stop)) for batch in out])
            place = stop

    def _copy(self, segment: Segment, out: Sequence[Batch]) -> None:
        group = (segment.epoch, segment.group)
        rows = self._group(group)
        ahead = self._next(group)
        self._groups = {key: self._groups[key] for key in self._groups if key in (group, ahead)}
        self._group(ahead)
        places = self._places(group)[segment.start : segment.stop]
        for batch, into in zip(rows.result(), out, strict=True):
            _gather(batch, places, into)

    def _group(self, group: tuple[int, int]) -> PendingBatch[list[Batch]]:
        if group not in self._groups:
            ranges = self._order.ranges(self._reader, *group)
            self._groups[group] = self._source.read_async(ranges)
            self._on_read(self._groups[group].nbytes)
        return self._groups[group]

    def _next(self, group: tuple[int, int]) -> tuple[int, int]:
        epoch, index = group
        last = index + 1 == self._order.groups(self._reader, epoch)
        return (epoch + 1, 0) if last else (epoch, index + 1)

    def _places(self, group: tuple[int, int]) -> np.ndarray:
        if self._shuffle is None or self._shuffle[0] != group:
            self._shuffle = group, self._order.shuffle(self._reader, *group)
        return self._shuffle[1]


def _gather(rows: Batch, places: np.ndarray, out: Batch) -> None:
    # As integers of the same size, which NumPy copies fastest; every place is in range, and
    # "clip" is the mode in which take writes straight into ``out``.
    size = np.dtype(f"u{rows.x.dtype.itemsize}")
    np.take(rows.x.view(size), places, axis=0, out=out.x.view(size), mode="clip")
    np.take(rows.keep, places, out=out.keep, mode="clip")
    np.take(rows.docs, places, out=out.docs, mode="clip")
