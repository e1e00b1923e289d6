"""Ending a long job between two steps when the user or the scheduler asks for it."""

import logging
import signal
import threading
import warnings
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While open, the first SIGINT or SIGTERM is noted instead of ending the process.

    ``signals`` are those that are noted, if not both. A second one has its usual effect, for
    whoever cannot wait for the step to end. Outside the main thread, where Python allows no
    handlers, nothing is changed.
    """

    def __init__(self, signals: Sequence[int] = SIGNALS) -> None:
        self.signal: int | None = None
        self._signals = signals
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the handlers of before back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Stopped(Exception):
    """The job ended early because a signal asked it to; its progress is kept."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


# Keeping libraries from telling a user what is no news.


class _NoBookkeeping(logging.Filter):
    """Lets pass what others than Orbax say, and what Orbax says at a level above warning."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is said."""
        return record.levelno > logging.WARNING or "orbax" not in record.pathname


def quiet_orbax() -> None:
    """Drop what Orbax tells of its own bookkeeping, for those who call from Python."""
    logger = logging.getLogger("absl")
    if not any(isinstance(there, _NoBookkeeping) for there in logger.filters):
        logger.addFilter(_NoBookkeeping())


def quiet_libraries() -> None:
    """Silence Orbax, for command lines and workers, which say what fails in a sentence.

    It tells its own bookkeeping at warning level, and a failed save again for each array.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
