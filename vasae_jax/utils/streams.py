"""Standard streams that may be lost: a log that nobody reads any more stops no run."""

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO


class _LosableFile(io.FileIO):
    """Writes all that it gets, and leads the descriptor to nowhere once that fails."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write ``data``, or lose it and all that follows; returns its length."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            try:
                written = super().write(rest)
            except OSError as error:
                self.failure = error
                _lead_to_nowhere(self.fileno())
                return size
            if written is None:  # a pipe that does not block, and is full
                select.select([], [self], [])
            else:
                rest = rest[written:]
        return size


def protect_streams() -> None:
    """Have this process's stdout and stderr lose what cannot be written instead of raising.

    Characters that the locale lacks become their codes. For commands, since it changes the streams
    of the whole process. Streams that others have put in their place still raise.
    """
    for number in range(3):  # a closed one's number would go to the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            _lead_to_nowhere(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: TextIO | None = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _losable(stream, number))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _losable(stream: TextIO | None, number: int) -> TextIO:
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
        encoding, at_once = stream.encoding, stream.write_through
        lines = stream.line_buffering
    else:
        encoding, at_once, lines = "utf-8", False, True
    return io.TextIOWrapper(
        _LosableFile(number, "w", closefd=False),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=lines,
        write_through=at_once,
    )


def _lead_to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def lost_output() -> OSError | None:
    """Why a protected stdout lost something, unless its reader had enough, as ``head`` has."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    file = getattr(sys.stdout, "buffer", None)
    failure = file.failure if isinstance(file, _LosableFile) else None
    return None if failure is None or failure.errno == errno.EPIPE else failure


def note(line: str) -> None:
    """Print a line for the person who watches, on stderr; where that is gone, it is lost."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)
