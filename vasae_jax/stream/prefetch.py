"""Running an iterator ahead of its consumer on a thread."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")
_LEAVE = 2.0  # seconds that the thread is waited for when it is to stop
_POLL = 0.1  # seconds after which a full queue is looked at again for a request to stop


class Prefetch(Iterator[T], contextlib.AbstractContextManager["Prefetch[T]"]):
    """The items of ``source``, at most ``depth`` of them made ahead.

    An error in ``source`` is raised from ``next`` after the items before it. ``close`` (or
    leaving a ``with`` block) stops the thread and waits for it, unless it is in a read that
    hangs; it may be called twice.
    """

    def __init__(self, source: Iterator[T], depth: int) -> None:
        self._items: queue.Queue[tuple[T] | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        self._next: tuple[T] | BaseException | None = None
        self._ended: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(source,), daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Items that are ready."""
        return self._items.qsize()

    def __next__(self) -> T:
        if self._ended is None and not self._stop.is_set():
            self.wait(None)
            item, self._next = self._next, None
            if isinstance(item, tuple):
                return item[0]
            self._ended = item
            self.close()
        raise self._ended or StopIteration

    def wait(self, seconds: float | None) -> bool:
        """Whether ``next`` has something to give or to raise, within so many seconds."""
        if self._next is None and self._ended is None and not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                self._next = self._items.get(timeout=seconds)
            return self._next is not None
        return True

    def close(self) -> None:
        """Stop reading ahead; nothing more is yielded."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_LEAVE)

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, source: Iterator[T]) -> None:
        try:
            for item in source:
                if not self._put((item,)):
                    return
            self._put(StopIteration())
        except BaseException as error:  # whatever it is, it is the consumer's to see
            self._put(error)

    def _put(self, item: tuple[T] | BaseException) -> bool:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=_POLL)
                return True
        return False
