"""One line that says how far a long job is, how fast it goes and when it will end."""

import sys
import time
from collections.abc import Callable
from typing import Self, TextIO

# Durations in words.


def duration(seconds: float) -> str:
    """Seconds as ``12 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Done of a total, rate and time left, on stderr.

    On a terminal the line is rewritten in place; elsewhere one is printed every few seconds.
    Use it in a ``with`` block, so that an error's sentence begins on a line of its own.

    Args:
        total: how much there is to do, or None where that is unknown.
        done: how much was done before the clock starts.
        unit: what is counted.
        stream: where to write, stderr by default.
        clock: seconds.
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
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._tty = self._stream.isatty()
        self._first, self._began = done, clock()
        self._shown = self._began
        self._open = False

    def update(self, done: int) -> None:
        """Show ``done`` if the last line is old enough."""
        now = self._clock()
        if now - self._shown >= (0.2 if self._tty else 5.0):
            self._shown = now
            self._open = self._tty
            self._show(self.line(done, now), end="" if self._tty else "\n")

    def finish(self, done: int) -> None:
        """Show the last line, whatever the time, and end it."""
        self._open = False
        self._show(self.line(done, self._clock()), end="\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._open:  # a line was being rewritten: other text must not follow on it
            print(file=self._stream, flush=True)

    def line(self, done: int, now: float) -> str:
        """The text of a progress line at time ``now``."""
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
        print(f"{clear}{line}", end=end, file=self._stream, flush=True)
