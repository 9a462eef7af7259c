"""Keeps the decoders of a process, which all steps of a build share: each step starting its own would cost seconds."""

from __future__ import annotations

import atexit
import functools

from pipeline.images.guarded import DecoderPool, ImageBudget
from pipeline.images.policy import PixelPolicy


@functools.cache
def pool_of(policy: PixelPolicy, budget: ImageBudget) -> DecoderPool:
    """Returns the process' pool of decoders of this kind; they end with the process."""
    pool = DecoderPool(policy, budget)
    atexit.register(pool.close)
    return pool
