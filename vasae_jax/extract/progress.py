"""One line that says how far a long job is, how fast it goes and when it will end."""

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Rows done of a total, rows/s and time left, on stderr.

    On a terminal the line is rewritten in place; elsewhere one is printed every few seconds.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        unit: str = "rows",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.unit = total, unit
        self.stream = sys.stderr if stream is None else stream
        self.clock = clock
        self.tty = self.stream.isatty()
        self.first_rows = done
        self.first_time = self.shown = clock()

    def update(self, done: int) -> None:
        """Show ``done`` if the last line is old enough."""
        now = self.clock()
        if now - self.shown >= (0.2 if self.tty else 5.0):
            self.shown = now
            self._show(self.line(done, now), end="" if self.tty else "\n")

    def finish(self, done: int) -> None:
        """Show the last line, whatever the time, and end it."""
        self._show(self.line(done, self.clock()), end="\n")

    def line(self, done: int, now: float) -> str:
        """The text of a progress line."""
        seconds = max(now - self.first_time, 1e-9)
        rate = (done - self.first_rows) / seconds
        share = f" ({100 * done / self.total:.0f} %)" if self.total else ""
        left = f", {clock_text((self.total - done) / rate)} left" if rate and done < self.total else ""
        taken = f", {clock_text(seconds)} taken" if done >= self.total else ""
        return f"{done:,} / {self.total:,} {self.unit}{share}, {rate:,.0f} {self.unit}/s{left}{taken}"

    def _show(self, line: str, end: str) -> None:
        clear = "\r\x1b[K" if self.tty else ""
        print(f"{clear}{line}", end=end, file=self.stream, flush=True)


def clock_text(seconds: float) -> str:
    """Seconds as 12 s, 3 min 05 s or 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
