"""Keeping the pages of large arrays between steps.

By default glibc maps every large array afresh and unmaps it when it is freed, so a program
on CPU devices spends as long on page faults as on its arithmetic: each step touches all its
temporary memory for the first time. Told to reuse its heap, it faults only once.
"""

import ctypes
import sys

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = -1


def keep_pages() -> None:
    """Have this process reuse freed memory instead of returning it; for command lines.

    A setting of the whole process, so a library must not make it. Nothing happens where the
    C library is not glibc. The process keeps its peak memory until it ends.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # One arena: threads' own arenas cannot hold large arrays and would map them.
        for option, value in (
            (_M_MMAP_MAX, 0),
            (_M_TRIM_THRESHOLD, _NEVER),
            (_M_ARENA_MAX, 1),
        ):
            mallopt(option, value)
