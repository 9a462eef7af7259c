"""Resizes bilinearly inside the model, by two matrix products."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def bilinear_weights(size: int, new_size: int) -> np.ndarray:
    """Returns float32 [new_size, size]: what each new pixel of a row takes of the old ones.

    Pixel centres at halves, no antialiasing, the last pixel goes on beyond the border: as `tf.image.resize` has it.
    """
    centre = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    below = np.floor(centre)
    weights = np.zeros((new_size, size), np.float64)
    for neighbour, share in ((below, 1 - (centre - below)), (below + 1, centre - below)):
        np.add.at(weights, (np.arange(new_size), np.clip(neighbour, 0, size - 1).astype(int)), share)
    return weights.astype(np.float32)


class BilinearResize(layers.Layer):
    """Resizes [B, H, W, C] to float32 [B, *size, C].

    XLA's own bilinear resizing gathers every pixel's neighbourhood into a tensor that is nearly all padding on a TPU.
    There, products of float32 are computed as all others: by default from bfloat16 factors.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(dtype="float32")
        self._size = size

    def call(self, images: keras.KerasTensor) -> keras.KerasTensor:
        """Lets `tf.einsum` choose whether rows or columns come first: whichever makes the smaller tensor."""
        down, across = (bilinear_weights(*sizes) for sizes in zip(images.shape[1:3], self._size, strict=True))
        return tf.einsum("bhwc,yh,xw->byxc", images, down, across)


def products_for_resizing(model: keras.Model) -> dict[str, layers.Layer]:
    """Returns what replaces a functional model's bilinear `keras.ops.image.resize`, by the operations' names."""
    return {
        operation.name: BilinearResize(operation.size)
        for operation in model.operations
        if type(operation).__name__ == "Resize" and operation.interpolation == "bilinear" and not operation.antialias
    }
