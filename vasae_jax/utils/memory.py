"""Keeping the pages of large arrays between steps, and having large ones.

By default glibc maps every large array afresh and unmaps it when it is freed, so a program
on CPU devices spends as long on page faults as on its arithmetic: each step touches all its
temporary memory for the first time. Told to reuse its heap, it faults only once. Pages of 2 MiB in
place of 4 KiB then save most of the address translation that passes over such arrays wait for.
"""

import ctypes
import os
import sys

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = -1
# Linux's mman.h
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2**21


def keep_pages() -> None:
    """Have this process reuse freed memory instead of returning it; for command lines.

    A setting of the whole process, so a library must not make it. Nothing happens where the
    C library is not glibc. The process keeps its peak memory until it ends. Half of the
    machine's memory is reserved as addresses for it, which takes none before it is used.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    # One arena: threads' own arenas cannot hold large arrays and would map them.
    for option, value in (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _NEVER),
        (_M_ARENA_MAX, 1),
    ):
        libc.mallopt(option, value)
    _ask_for_huge_pages(libc)


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Extend the heap by addresses whose pages, once touched, are huge where the system allows."""
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    start = libc.malloc(size)
    if not start:  # a limit on addresses: pages stay as they are
        return
    first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
    libc.madvise(first, (start + size - first) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
    libc.free(start)
