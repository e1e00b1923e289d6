"""Prepare a command's process before JAX is loaded: variables and memory. Loads no JAX itself."""

import contextlib
import ctypes
import glob
import hashlib
import importlib.util
import os
import platform
import sys
from pathlib import Path

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import user_cache

CACHE_DIR = "JAX_COMPILATION_CACHE_DIR"
CACHE_SWITCH = "JAX_ENABLE_COMPILATION_CACHE"
_CACHE_OPTIONS = {
    # Beyond this JAX deletes the programs used least recently. It reads the age of every program
    # whenever it keeps a new one, so a cache of several thousand programs would be slow.
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**27),
    # A start compiles some hundred programs of a few hundredths of a second each.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
}
_USER_CHOICES = ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "TPU_LIBRARY_PATH", "TPU_NAME")
"""Variables by which a user or a platform chooses the devices."""
_TPU_NODES = ("/dev/accel*", "/dev/vfio/[0-9]*")
_PCI_VENDORS = "/sys/bus/pci/devices/*/vendor"
_GOOGLE = "0x1ae0"
_NETWORK_CARD = "0x0042"
"""Google's network card, which its machines without a TPU have too."""
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = -1
# Linux's mman.h
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2**21


def cache_compiled_programs() -> None:
    """Have JAX keep compiled programs in the user's cache directory, and load them from there.

    Each kind of processor has its own directory: JAX's key names the instruction set, but not the
    number of cores that a program for CPUs is divided over.

    Does nothing if JAX is already loaded, if the user has set CACHE_DIR or CACHE_SWITCH, or if the
    directory is not known or cannot be written.
    """
    if "jax" in sys.modules or CACHE_DIR in os.environ or CACHE_SWITCH in os.environ:
        return
    try:
        directory = user_cache() / "programs" / processor_digest()
        directory.mkdir(parents=True, exist_ok=True)
        _delete_unfinished(directory)
    except (UserError, OSError):
        return
    for name, value in {CACHE_DIR: str(directory), **_CACHE_OPTIONS}.items():
        os.environ.setdefault(name, value)


def _delete_unfinished(directory: Path) -> None:
    """Delete programs whose writer was killed or found the disk full.

    JAX writes a program in place and its ``-atime`` file after it. A program without that file may
    be half of one: JAX would warn of it at every start and, over the size limit, stop writing.

    Raises:
        OSError: the directory cannot be written, or is in use for longer than a few seconds.
    """
    from filelock import FileLock

    with FileLock(directory / ".lockfile", timeout=5):  # the lock that JAX holds while it writes
        for program in directory.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                program.unlink()


def processor_digest() -> str:
    """A short name for this kind of processor and the number of cores this process may use."""
    facts = [platform.machine(), str(_cores())]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        facts += [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    except OSError:  # not Linux: the name of this one machine
        facts += list(platform.uname())
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def skip_absent_tpu() -> None:
    """Keep JAX from trying a TPU on a machine without one: that takes time and prints warnings.

    JAX tries wherever libtpu is installed, as it is for ``tools/aot.py``. Does nothing if a JAX
    plugin is installed, because its devices would have to be named too.
    """
    if "jax" in sys.modules or any(name in os.environ for name in _USER_CHOICES):
        return
    plugins, tpu = map(importlib.util.find_spec, ("jax_plugins", "libtpu"))
    if tpu is not None and plugins is None and not _may_have_tpu():
        os.environ["JAX_PLATFORMS"] = "cpu"


def _may_have_tpu() -> bool:
    return any(map(glob.glob, _TPU_NODES)) or any(
        _read(vendor) == _GOOGLE and _read(vendor.with_name("device")) != _NETWORK_CARD
        for vendor in map(Path, glob.glob(_PCI_VENDORS))
    )


def _read(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8").strip()
    return ""


def reuse_memory() -> None:
    """Make this process keep freed memory for later instead of returning it to the system.

    By default glibc maps every large array anew and unmaps it when it is freed. Each training step
    then touches all its temporary memory for the first time, and the page faults take as long as
    the arithmetic. With a heap that is reused they happen once. Pages of 2 MiB instead of 4 KiB
    also save most of the address translation.

    Only for commands, since it affects all of the process, which keeps its peak memory until it
    ends. Reserves addresses, not memory, for half of the machine's memory. Does nothing without
    glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    libc.mallopt(_M_ARENA_MAX, 1)  # arenas of threads cannot hold large arrays and would map them
    _advise_huge_pages(libc)


def _advise_huge_pages(libc: ctypes.CDLL) -> None:
    """Extend the heap by addresses that the kernel may back with huge pages once they are used."""
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    start = libc.malloc(size)
    if not start:  # the process may not have so many addresses
        return
    first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
    libc.madvise(first, (start + size - first) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
    libc.free(start)
