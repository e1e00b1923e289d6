"""Freed memory is reused instead of being mapped again."""

import subprocess
import sys
from pathlib import Path

import pytest

# Counts the page faults of filling 64 MiB again and again, as every step of training does.
PROGRAM = """
import ctypes, resource, sys
from vasae_jax.distributed.environment import reuse_memory
if sys.argv[1] == "keep":
    reuse_memory()
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.free.argtypes = [ctypes.c_void_p]
size = 64 * 2**20
def fill():
    at = c.malloc(ctypes.c_size_t(size))
    ctypes.memset(at, 1, size)
    c.free(at)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


ADVISED = """
from vasae_jax.distributed.environment import reuse_memory
reuse_memory()
maps = open("/proc/self/smaps").read().split("VmFlags:")
print(any("[heap]" in before and " hg" in flags.splitlines()[0]
          for before, flags in zip(maps, maps[1:])))
"""


def faults(how):
    run = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_kept_pages_are_not_faulted_in_again():
    assert faults("keep") < faults("leave") / 10


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages in this kernel"
)
def test_the_heap_asks_for_huge_pages():
    run = [sys.executable, "-c", ADVISED]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "True\n"
