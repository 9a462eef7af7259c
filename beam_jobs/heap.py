"""Memory that goes back to the system: without this, what glibc keeps of past peaks is most of what a build takes."""

from __future__ import annotations

import ctypes
import sys

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# More than most images, which would pay for getting fresh pages each time.
_LARGE_BYTES = 4 << 20
_KEPT_BYTES = 32 << 20


def give_back() -> None:
    """Makes this process return large blocks when it frees them.

    Left alone, glibc raises its limit for "large" up to 32 MB with what it sees freed, and has a heap for each thread.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for option, value in ((_M_MMAP_THRESHOLD, _LARGE_BYTES), (_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_ARENA_MAX, 2)):
            libc.mallopt(option, value)  # 0 where there is no glibc: no harm
