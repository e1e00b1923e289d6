"""Stop a long job between two steps on SIGINT or SIGTERM, and silence chatty libraries."""

import logging
import signal
import threading
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Records the first SIGINT or SIGTERM instead of letting it end the process.

    A context manager. A second signal has its usual effect. Does nothing outside the main thread,
    where Python allows no signal handlers.

    Args:
        signals: the signals to record.
    """

    def __init__(self, signals: Sequence[int] = SIGNALS) -> None:
        self.signal: int | None = None
        self._signals = signals
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {each: signal.signal(each, self._record) for each in self._signals}
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the previous handlers."""
        self._restore()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


class Stopped(Exception):
    """The job ended early because of a signal; its progress is saved."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class _DropOrbaxWarnings(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record: any but Orbax's warnings and below."""
        return record.levelno > logging.WARNING or "orbax" not in record.pathname


def quiet_orbax() -> None:
    """Drop Orbax's warnings, which are about its own bookkeeping; for use from Python."""
    logger = logging.getLogger("absl")
    if not any(isinstance(each, _DropOrbaxWarnings) for each in logger.filters):
        logger.addFilter(_DropOrbaxWarnings())


def quiet_libraries() -> None:
    """Silence Orbax and asyncio; for commands, which report errors in one sentence themselves.

    Orbax warns about its own bookkeeping, and logs a failed save once for every array.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
