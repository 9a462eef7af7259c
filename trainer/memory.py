"""glibc's allocator on a CPU: memory that a training step frees stays for the next step to take."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_LARGEST_THRESHOLD = 32 << 20  # glibc refuses more; what is larger is mapped anew every time
_KEPT_AT_THE_TOP = 64 << 20  # of each arena: as much as one of a thread's heaps can hold


def keep_freed_memory() -> None:
    """Stops glibc from giving freed memory back to the system; does nothing under another C library.

    Each step allocates the same activations again. As glibc comes, threads' heaps go back to the system when they are
    freed, and every page of them is faulted in and zeroed anew: a quarter to a third of the processor time of training
    EfficientNet-Lite0 at 64×64 (at 224×224, where tensors exceed the largest threshold, nothing changes).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, _KEPT_AT_THE_TOP)
