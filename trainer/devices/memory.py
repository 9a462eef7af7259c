"""Keeps memory that a training step on a CPU frees for the next step to take, where glibc allocates."""

from __future__ import annotations

import ctypes

import tensorflow as tf

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_LARGEST_THRESHOLD = 32 << 20  # glibc refuses more; what is larger is mapped anew every time
_KEPT_AT_THE_TOP = 64 << 20  # of each arena: as much as one of a thread's heaps can hold


def keep_freed_memory() -> None:
    """Stops glibc from giving freed memory back to the system; does nothing under another C library.

    Initialises TensorFlow's devices: a strategy over several workers must have been made before.

    Each step allocates the same activations again. As glibc comes, threads' heaps go back to the system when they are
    freed, and every page of them is faulted in and zeroed anew: a quarter to a third of the processor time of training
    EfficientNet-Lite0 at 64×64 (at 224×224, where tensors exceed the largest threshold, nothing changes).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # TensorFlow 2.21 maps everything above 128 KB anew once a process has made its first dataset from a generator, and
    # all distributed iterators are such (ApplyPython311MemoryPatch). It does so once: after that our options stay.
    signature = tf.TensorSpec((), tf.int32)
    list(tf.data.Dataset.from_generator(lambda: iter([0]), output_signature=signature))
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, _KEPT_AT_THE_TOP)
