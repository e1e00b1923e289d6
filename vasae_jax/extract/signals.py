"""Stopping a long job cleanly when Ctrl-C or SIGTERM asks for it."""

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A job was asked to stop and did; what was stored so far stays.

    Attributes:
        rows: rows that are durable.
        signum: the signal that asked.
    """

    def __init__(self, rows: int, signum: int) -> None:
        super().__init__(f"stopped after {rows:,} rows; run the same command again to continue")
        self.rows = rows
        self.signum = signum


class StopRequest:
    """Within the block a first SIGINT or SIGTERM is noted; a second one acts as usual.

    Outside the main thread, where Python allows no handlers, nothing is changed.

    Attributes:
        requested: the signal's number, or 0.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
