"""What the step asks of the compiler, by the platform that it is compiled for."""

import atexit
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from jax.sharding import Mesh

from vasae_jax.utils.files import default_cache

TILES_KIB = "65536"
"""Kibibytes of a TPU's on-chip memory for the tiles of one operation; the default is 16384. Half of
what a v5e or v6e has. With less, a product that also masks or converts takes up to half as
long again."""


def options(mesh: Mesh) -> dict[str, str]:
    """Compiler options for a step over ``mesh``: none but on a TPU."""
    tpu = mesh.devices.flat[0].platform == "tpu"
    return {"xla_tpu_scoped_vmem_limit_kib": TILES_KIB} if tpu else {}


# Compiled programs that one command leaves for the next, in the user's cache directory.
#
# JAX keeps them itself, but writes each in place: another process may read half of one, and what a
# killed process leaves stays damaged. So a process works in a directory of its own, in which it finds
# every program that others have finished as a hard link, and at its end links its new programs, whole
# ones, to where others find them. A link appears at once or not at all.
#
# A program for CPUs has the instructions of the processor that it was compiled on, and is cut into
# parts for its cores. So each kind of processor has a directory of its own.


PLACE = "JAX_COMPILATION_CACHE_DIR"
SWITCH = "JAX_ENABLE_COMPILATION_CACHE"
"""JAX's own: a place of the user's own choice, or false for none."""
MOST_BYTES = 2**30
"""Programs kept for a processor; the oldest are deleted beyond it."""
_SUFFIX = "-cache"
_LOCK = "lock"
_OWN = "process-"
_DEFAULTS = {
    # A start compiles some hundred programs of a few hundredths of a second each.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
}


def keep_programs() -> None:
    """Load what was compiled before and keep what will be; for commands, before JAX is loaded.

    Nothing happens where JAX is loaded already, where the user has set ``PLACE`` or ``SWITCH``, or
    where the directory cannot be written.
    """
    if "jax" in sys.modules or PLACE in os.environ or SWITCH in os.environ:
        return
    with contextlib.suppress(OSError):
        shared = default_cache() / "programs" / processor_digest()
        shared.mkdir(parents=True, exist_ok=True)
        sweep(shared)
        own = begin(shared)
        atexit.register(publish, own, shared)
        os.environ[PLACE] = str(own)
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)


def begin(shared: Path) -> Path:
    """A directory of this process in ``shared``, with a link to every program there.

    Raises:
        OSError: it cannot be made, or the file system has no hard links.
    """
    own = Path(tempfile.mkdtemp(prefix=_OWN, dir=shared))
    try:
        lock = os.open(own / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)  # held until the process ends
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.link(own / _LOCK, own / "link")  # whether the file system has any
        for entry in _programs(shared):
            with contextlib.suppress(FileNotFoundError):  # another process deletes old ones
                os.link(entry, own / entry.name)
    except OSError:
        shutil.rmtree(own, ignore_errors=True)
        raise
    return own


def publish(own: Path, shared: Path) -> None:
    """Link the new programs of ``own`` into ``shared``, delete ``own`` and the oldest of too many.

    At a process's end, when nobody can be told of an error: what cannot be kept is not.
    """
    with contextlib.suppress(OSError):
        for entry in _programs(own):
            if not (shared / entry.name).exists() and _whole(entry.read_bytes()):
                with contextlib.suppress(FileExistsError):
                    os.link(entry, shared / entry.name)
        shutil.rmtree(own, ignore_errors=True)
        _trim(shared, MOST_BYTES)


def sweep(shared: Path) -> None:
    """Delete the directories of processes that were killed."""
    for own in shared.glob(f"{_OWN}*"):
        with contextlib.suppress(OSError), open(own / _LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(own, ignore_errors=True)


def processor_digest() -> str:
    """Names the kind of processor, and how many of its cores this process may use."""
    said = [platform.machine(), str(_cores())]
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        said += [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    except OSError:  # not Linux: programs are kept for this one machine
        said += list(platform.uname())
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _programs(place: Path) -> Iterator[Path]:
    return place.glob(f"*{_SUFFIX}")


def _whole(entry: bytes) -> bool:
    """Whether JAX could unpack ``entry``: a full disk cuts files short."""
    try:
        if importlib.util.find_spec("zstandard") is None:
            zlib.decompress(entry)
        else:
            import zstandard

            zstandard.decompress(entry)
    except Exception:  # each library has its own
        return False
    return True


def _trim(shared: Path, most: int) -> None:
    found = [(entry.stat(), entry) for entry in _programs(shared)]
    total = sum(stat.st_size for stat, _ in found)
    for stat, entry in sorted(found, key=lambda each: each[0].st_mtime):
        if total <= most:
            return
        entry.unlink(missing_ok=True)
        total -= stat.st_size
