"""One writer at a time: a file says who owns a folder, and is locked while its process lives.

The lock (flock) ends with its process, however that ends. Some network file systems keep it
from other hosts, so the owner also touches its file every BEAT seconds: one that is not heard
of for SILENCE seconds is gone.
"""

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import unwritable

OWNER = "owner.json"
BEAT = 10.0
SILENCE = 60.0


class Owner:
    """Owns a folder until released; use as a context manager.

    Args:
        folder: made if it is not there.
        name: of the file in it that says who the owner is; removed on release.

    Raises:
        UserError: another process owns it (which, where and since when is said), or the file
            cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = OWNER) -> None:
        self._file = Path(folder) / name
        self._made = not self._file.parent.exists()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._handle = _claim(self._file)
            _sign(self._handle)
        except OSError as error:
            raise unwritable(self._file, error) from error
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, args=(BEAT,), daemon=True)
        self._heart.start()

    def release(self) -> None:
        """Let the next one have it; may be called twice."""
        if self._released.is_set():
            return
        self._released.set()
        self._heart.join()
        with contextlib.suppress(OSError):
            self._file.unlink()
        os.close(self._handle)
        if self._made:
            with contextlib.suppress(OSError):  # something was written there, as it should
                self._file.parent.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _beat(self, every: float) -> None:
        while not self._released.wait(every):
            with contextlib.suppress(OSError):
                os.utime(self._handle)


def _claim(file: Path) -> int:
    """The open file, locked where the file system has locks; UserError if an owner lives."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _lock(handle)
            owner = _read(file)
            if locked is False or (owner and not _gone(file, owner, locked)):
                raise UserError(_refusal(file, owner))
            if _same(handle, file):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its owner has removed it since it was opened


def _lock(handle: int) -> bool | None:
    """Whether the lock was free; None where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # some file systems say the second
        return False
    except OSError:
        return None
    return True


def _gone(file: Path, owner: dict[str, Any], locked: bool | None) -> bool:
    """Whether the owner that the file names lives no more; may take SILENCE seconds."""
    if locked and owner.get("host") == socket.gethostname():
        return True
    said = f"{file} was left by {_words(owner)}: waiting {SILENCE:.0f} s for a sign of it"
    print(said, file=sys.stderr, flush=True)
    heard, end = _heard(file), time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(min(SILENCE / 20, 1.0))
        if _heard(file) != heard:
            return False
    return True


def _heard(file: Path) -> int:
    """When the owner last touched its file; 0 if it has removed it, by the file system's clock."""
    with contextlib.suppress(FileNotFoundError), open(file, "rb") as fresh:
        return os.fstat(fresh.fileno()).st_mtime_ns
    return 0


def _sign(handle: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    own = {"host": socket.gethostname(), "process": os.getpid(), "since": since}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(own).encode(), 0)


def _read(file: Path) -> dict[str, Any]:
    """What the file says of its owner: nothing where it is new, or was left half written."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _same(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _refusal(file: Path, owner: dict[str, Any]) -> str:
    return (
        f"{file} is held by {_words(owner)}; expected one writer at a time: let it end, or stop "
        "it first"
    )


def _words(owner: dict[str, Any]) -> str:
    known = {"host": "an unknown host", "process": "?", "since": "an unknown time"} | owner
    return f"process {known['process']} on {known['host']} since {known['since']}"
