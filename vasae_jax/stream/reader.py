"""One lane: its current window of rows, and the next one being read."""

from collections.abc import Callable, Sequence

import numpy as np

from vasae_jax.stream.order import Order, Segment
from vasae_jax.stream.source import Batch, Layers, PendingBatch


class ChunkReader:
    """Rows of a lane by their place in its endless sequence.

    At most two windows are in memory: the one that was last read from and the one after
    it, which is read ahead. Going forward, each chunk is read once an epoch.

    Args:
        order: the order of the rows.
        lane: number of the lane.
        source: where rows are read, of one layer or of several.
        on_read: called with the bytes of each window that is asked for.
    """

    def __init__(
        self, order: Order, lane: int, source: Layers, on_read: Callable[[int], None]
    ) -> None:
        self._order, self._lane, self._source = order, lane, source
        self._on_read = on_read
        self._windows: dict[tuple[int, int], PendingBatch[list[Batch]]] = {}
        self._shuffle: tuple[tuple[int, int], np.ndarray] | None = None

    def request(self, start: int) -> None:
        """Begin to read the window that holds row ``start``, without waiting for it."""
        segment = self._order.segments(self._lane, start, start + 1)[0]
        self._window((segment.epoch, segment.window))

    def fill(self, start: int, out: Sequence[Batch]) -> None:
        """Copy the rows of the sequence from ``start`` on into all of ``out``, one a layer."""
        place = 0
        for segment in self._order.segments(self._lane, start, start + len(out[0].keep)):
            stop = place + segment.stop - segment.start
            self._copy(segment, [one.part(slice(place, stop)) for one in out])
            place = stop

    def _copy(self, segment: Segment, out: Sequence[Batch]) -> None:
        window = (segment.epoch, segment.window)
        rows = self._window(window)
        ahead = self._next(window)
        self._windows = {key: self._windows[key] for key in self._windows if key in (window, ahead)}
        self._window(ahead)
        places = self._places(window)[segment.start : segment.stop]
        for found, into in zip(rows.result(), out, strict=True):
            _gather(found, places, into)

    def _window(self, window: tuple[int, int]) -> PendingBatch[list[Batch]]:
        if window not in self._windows:
            chunks = self._order.window_chunks(self._lane, *window)
            ranges = [self._order.chunk_range(int(chunk)) for chunk in chunks]
            self._windows[window] = self._source.read_async(ranges)
            self._on_read(self._windows[window].nbytes)
        return self._windows[window]

    def _next(self, window: tuple[int, int]) -> tuple[int, int]:
        epoch, index = window
        last = index + 1 == self._order.windows(self._lane)
        return (epoch + 1, 0) if last else (epoch, index + 1)

    def _places(self, window: tuple[int, int]) -> np.ndarray:
        if self._shuffle is None or self._shuffle[0] != window:
            self._shuffle = window, self._order.shuffle(self._lane, *window)
        return self._shuffle[1]


def _gather(rows: Batch, places: np.ndarray, out: Batch) -> None:
    # As integers of the same size, which NumPy copies fastest; every place is in range, and
    # "clip" is the mode in which take writes straight into ``out``.
    size = np.dtype(f"u{rows.x.dtype.itemsize}")
    np.take(rows.x.view(size), places, axis=0, out=out.x.view(size), mode="clip")
    np.take(rows.keep, places, out=out.keep, mode="clip")
    np.take(rows.docs, places, out=out.docs, mode="clip")
