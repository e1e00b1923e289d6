"""A progress line for long jobs: done, rate and time left."""

import contextlib
import io
import sys
import time
from collections.abc import Callable
from typing import Self, TextIO


def duration(seconds: float) -> str:
    """Seconds as ``12 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


class Progress:
    """A progress line on stderr.

    On a terminal the line is rewritten in place; otherwise a line is printed every five seconds.
    Used as a context manager, it starts a new line before an error is printed.

    Args:
        total: number of units to do, or None if unknown.
        done: number of units that were already done at the start.
        unit: what is counted, such as ``rows``.
        stream: file to write to, stderr by default.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        total: int | None,
        done: int = 0,
        unit: str = "rows",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.unit = total, unit
        # A program without a stderr has None there.
        self._stream = stream or sys.stderr or io.StringIO()
        self._clock = clock
        self._tty = self._stream.isatty()
        self._first, self._began = done, clock()
        self._last_shown = self._began
        self._open = False

    def update(self, done: int) -> None:
        """Show that ``done`` units are done, if the last line is old enough."""
        now = self._clock()
        if now - self._last_shown >= (0.2 if self._tty else 5.0):
            self._last_shown = now
            self._open = self._tty
            self._show(self.line(done, now), end="" if self._tty else "\n")

    def finish(self, done: int) -> None:
        """Show the final line."""
        self._open = False
        self._show(self.line(done, self._clock()), end="\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._open:
            self._print("", end="\n")

    def line(self, done: int, now: float) -> str:
        """The text of the line at time ``now`` (seconds of the clock)."""
        seconds = max(now - self._began, 1e-9)
        rate = (done - self._first) / seconds
        if self.total is None:
            return f"{done:,} {self.unit} in {duration(seconds)}"
        head = f"{done:,} / {self.total:,} {self.unit} ({100 * done / max(self.total, 1):.0f} %)"
        if done >= self.total:
            return f"{head}, {rate:,.0f} {self.unit}/s, {duration(seconds)} taken"
        left = f", {duration((self.total - done) / rate)} left" if rate else ""
        return f"{head}, {rate:,.0f} {self.unit}/s{left}"

    def _show(self, line: str, end: str) -> None:
        clear = "\r\x1b[K" if self._tty else ""
        self._print(f"{clear}{line}", end)

    def _print(self, text: str, end: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a stream that is gone
            print(text, end=end, file=self._stream, flush=True)
