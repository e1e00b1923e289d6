"""A lock on a folder, so that only one process writes to it.

The lock is a file in the folder that names its owner and is locked with flock, which ends with the
process. On some network file systems other hosts do not see that lock. The owner therefore touches
the file every HEARTBEAT_SECONDS, and counts as dead after TIMEOUT_SECONDS without it.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import write_error
from vasae_jax.utils.read_json import read_json_object
from vasae_jax.utils.replace import link_error
from vasae_jax.utils.streams import note

OWNER = "owner.json"
HEARTBEAT_SECONDS = 10.0
TIMEOUT_SECONDS = 60.0


class FolderLock:
    """Locks a folder until it is released; a context manager.

    Args:
        folder: created if it does not exist.
        name: the lock file in it, which is removed on release.

    Raises:
        UserError: another process holds the lock, or the file cannot be written or is a link.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = OWNER) -> None:
        self._file = Path(folder) / name
        self._created_folder = not self._file.parent.exists()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._handle = _acquire(self._file)
            _write_owner(self._handle)
        except OSError as error:
            raise write_error(self._file, error) from error
        self._released = threading.Event()
        self._heartbeat = threading.Thread(target=self._touch, daemon=True)
        self._heartbeat.start()

    def release(self) -> None:
        """Give up the lock; calling it again does nothing."""
        if self._released.is_set():
            return
        self._released.set()
        self._heartbeat.join()
        with contextlib.suppress(OSError):
            self._file.unlink()
        os.close(self._handle)
        if self._created_folder:
            with contextlib.suppress(OSError):  # the folder has files
                self._file.parent.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _touch(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._handle)


def _acquire(file: Path) -> int:
    """Open and lock the file; its descriptor. Raises UserError if its owner is alive."""
    while True:
        handle = _open(file)
        try:
            locked = _flock(handle)
            owner = _read_owner(file)
            if locked is False or (owner and not _is_dead(file, owner, locked)):
                raise UserError(
                    f"{file} is held by {_describe(owner)}; expected one writer at a time: let it "
                    "end, or stop it first"
                )
            if _is_same_file(handle, file):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the owner removed the file after it was opened


def _open(file: Path) -> int:
    """Open the file, which is written in place and so must have no other name."""
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise link_error(file) if error.errno == errno.ELOOP else error from error
    found = os.fstat(handle)
    if found.st_nlink > 1 or not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise link_error(file)
    return handle


def is_held(folder: str | os.PathLike[str], name: str = OWNER) -> bool:
    """Whether the owner of a folder's lock seems to be alive; nothing is written or awaited.

    On this host the lock itself says so. Of an owner on another host the last touch must be less
    than TIMEOUT_SECONDS away from this host's clock.
    """
    file = Path(folder) / name
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        free = _flock(handle, fcntl.LOCK_SH)
        owner, age = _read_owner(file), abs(time.time() - os.fstat(handle).st_mtime)
    finally:
        os.close(handle)
    if free and owner.get("host") == socket.gethostname():
        return False
    return free is False or age < TIMEOUT_SECONDS


def _flock(handle: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Whether the lock was free, for longer than one who asks holds it; None if there are none."""
    for pause in (0.05, 0.05, 0.0):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):  # some file systems raise the second
            time.sleep(pause)
        except OSError:
            return None
    return False


def _is_dead(file: Path, owner: dict[str, Any], locked: bool | None) -> bool:
    """Whether the owner has ended; may wait TIMEOUT_SECONDS for a sign of life."""
    if locked and owner.get("host") == socket.gethostname():
        return True
    note(f"{file} was left by {_describe(owner)}: waiting {TIMEOUT_SECONDS:.0f} s for a sign of it")
    touched, end = _last_touched(file), time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        time.sleep(min(TIMEOUT_SECONDS / 20, 1.0))
        if _last_touched(file) != touched:
            return False
    return True


def _last_touched(file: Path) -> int:
    """When the owner last touched the file, in ns of the file system's clock; 0 if removed."""
    with contextlib.suppress(FileNotFoundError), open(file, "rb") as fresh:
        return os.fstat(fresh.fileno()).st_mtime_ns
    return 0


def _write_owner(handle: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    owner = {"host": socket.gethostname(), "process": os.getpid(), "since": since}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(owner).encode(), 0)


def _read_owner(file: Path) -> dict[str, Any]:
    """The owner that the file names; empty if the file is new or incomplete."""
    try:
        return read_json_object(file, "the owner of a folder")
    except UserError:
        return {}


def _is_same_file(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _describe(owner: dict[str, Any]) -> str:
    known = {"host": "an unknown host", "process": "?", "since": "an unknown time"} | owner
    return f"process {known['process']} on {known['host']} since {known['since']}"
