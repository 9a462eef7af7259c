"""Bounds a process' memory, and has glibc's heap give it back, and hand out some whose contents are known.

Without `give_back`, what glibc keeps of past peaks is most of what a build takes; without `collect_rarely`, a tenth of
its time goes to looking through objects that stay.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import resource
import sys
import threading
from collections.abc import Iterator

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_PERTURB, _M_ARENA_MAX = -1, -3, -6, -8
# Small freed blocks wait in a thread's own cache, where M_PERTURB does not reach: so many of each size (malloc.c).
_CACHED_SIZES, _CACHED_EACH = range(24, 1040, 16), 7
# More than most images, which would pay for getting fresh pages each time.
_LARGE_BYTES = 4 << 20
_KEPT_BYTES = 32 << 20
_NEW_OBJECTS = 100_000


_perturbing = threading.Lock()


@functools.cache
def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    return libc


@contextlib.contextmanager
def fresh_memory(fill: int) -> Iterator[None]:
    """Fills what this thread allocates while the block runs with bytes `fill` (glibc only; elsewhere, does nothing)."""
    if not (libc := _libc()):
        yield
        return
    with _perturbing:
        blocks = [(libc.malloc(size), size) for size in _CACHED_SIZES for _ in range(_CACHED_EACH)]
        for block, size in blocks:
            ctypes.memset(block, fill, size)
            libc.free(block)
        libc.mallopt(_M_PERTURB, fill ^ 0xFF)
        try:
            yield
        finally:
            libc.mallopt(_M_PERTURB, 0)


@contextlib.contextmanager
def limited_memory(beyond: int) -> Iterator[None]:
    """Limits this process' address space to what it has now and so many bytes. Only Linux enforces it."""
    if sys.platform != "linux":
        yield
        return
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", "rb") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + beyond
    resource.setrlimit(resource.RLIMIT_AS, (limit if before == resource.RLIM_INFINITY else min(limit, before), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def give_back() -> None:
    """Makes this process return large blocks when it frees them.

    Left alone, glibc raises its limit for "large" up to 32 MB with what it sees freed, and has a heap for each thread.
    """
    if libc := _libc():
        for option, value in ((_M_MMAP_THRESHOLD, _LARGE_BYTES), (_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_ARENA_MAX, 2)):
            libc.mallopt(option, value)  # 0 where there is no glibc: no harm


def collect_rarely() -> None:
    """Makes Python look for unreachable cycles once in 100,000 new objects, not in 700.

    A build keeps rows by the hundred thousand and makes next to no cycles.
    """
    gc.set_threshold(_NEW_OBJECTS)
