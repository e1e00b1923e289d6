"""How a command ends: an exit code, one sentence, and a log file for errors that nobody foresaw."""

import contextlib
import errno
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vasae_jax import __version__
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.files import user_cache
from vasae_jax.utils.shown import shown
from vasae_jax.utils.signals import Stopped
from vasae_jax.utils.streams import lost_output, note

TRACEBACK = "--traceback"
"""The argument with which every command prints the traceback of an error too."""
LIBRARIES = ("jax", "jaxlib", "numpy", "flax", "optax", "orbax-checkpoint", "tensorstore")
_OF_PLACES = {
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE),
}
"""Errors of the system that are about a file's name, its rights or its disk, and of no program."""
_READERS = ("transformers", "tokenizers", "safetensors", "gguf", "tyro")


def command_words(argv: Sequence[str] | None = None) -> list[str]:
    """The words of a command line, or of this process's, without :data:`TRACEBACK`."""
    return [word for word in (sys.argv[1:] if argv is None else argv) if word != TRACEBACK]


def exit_code(
    run: Callable[[], None], program: str = "vasae", *, interrupted: str = "interrupted"
) -> int:
    """Call ``run``; an error is one sentence on stderr after the name of the ``program``.

    Returns:
        0: done. 1: an error that was not foreseen; its traceback is in a log file, which the
        sentence names. 2: a UserError, no memory, or output that could not be written. 130 and
        143: SIGINT (with the words ``interrupted``) and SIGTERM.
    """
    try:
        run()
    except SystemExit:  # of argparse, which has said why
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        if TRACEBACK in sys.argv:
            note("".join(traceback.format_exception(error)).rstrip())
        code, sentence = _code_and_sentence(error, interrupted)
        note(f"{program}: {shown(sentence)}")
        return code
    if failure := lost_output():
        note(f"{program}: the output cannot be written ({failure.strerror}); expected free space")
        return 2
    return 0


def _code_and_sentence(error: BaseException, interrupted: str) -> tuple[int, str]:
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, Stopped):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, interrupted
    if isinstance(error, OSError) and error.errno in _OF_PLACES and error.filename is not None:
        where = str(error.filename)[:200]
        return 2, f"{where} cannot be used ({error.strerror}); expected another file or folder"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return 2, (
            f"out of memory ({first_line(error)}); expected fewer features, smaller batches or "
            "more devices (vasae train --dry-run prints what a run needs)"
        )
    what = type(error).__name__
    return 1, (
        f"{what}{_details(error, what)}, which was not foreseen; {_kept(error)}, and {TRACEBACK} "
        "shows it"
    )


def _details(error: BaseException, name: str) -> str:
    line = first_line(error)
    return "" if line == name else f" ({line})"


def _kept(error: BaseException) -> str:
    """Write the log file; where it is, in words."""
    text = report(error, sys.argv)
    for folder in _log_folders():
        with contextlib.suppress(OSError):
            return f"what an issue needs is in {_write_log(folder, text)}"
    return "no log file could be written"


def _log_folders() -> Iterator[Path]:
    with contextlib.suppress(UserError):
        yield user_cache() / "logs"
    yield Path(tempfile.gettempdir())


def _write_log(folder: Path, text: str) -> Path:
    """A new file, which only its owner may read: it has a command line and paths."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"vasae-{datetime.now(UTC):%Y%m%d-%H%M%S}-"
    handle, name = tempfile.mkstemp(".log", prefix, folder)
    with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return Path(name)


def report(error: BaseException, command: Sequence[str]) -> str:
    """What an issue about an error needs: command, time, machine, versions and traceback."""
    found = {"vasae_jax": __version__, **versions(*LIBRARIES, *_READERS)}
    lines = [
        "It has paths and arguments of yours: read it before you publish it.",
        f"command: {shlex.join([Path(command[0]).name, *command[1:]])}",
        f"time: {datetime.now(UTC).isoformat(timespec='seconds')}",
        f"machine: {platform.platform()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}",
        f"versions: {', '.join(f'{name} {number}' for name, number in found.items())}",
    ]
    return "\n".join([*lines, "", "".join(traceback.format_exception(error))])


def versions(*packages: str) -> dict[str, str]:
    """The versions of those ``packages`` that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
