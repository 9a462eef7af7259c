"""Folds batch normalisation in inference mode into the convolution before it, which saves a pass over activations."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers, ops

from trainer.models.keras_private import consumers, producer

_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)


class FoldedConvolution(layers.Layer):
    """Computes a convolution and the batch normalisation after it in one: scaled kernel, shifted by a bias.

    With the moving statistics as constants, batch_norm(conv(x, kernel) + bias) is conv(x, kernel · s) + t, where
    s = γ / √(variance + ε) and t = β + (bias − mean) · s (Jacob et al., arXiv:1712.05877, section 3.2). Gradients reach
    kernel, γ and β as before, through a tensor of the kernel's size in place of one of the activations' size.
    """

    def __init__(self, convolution: layers.Layer, batch_norm: layers.BatchNormalization) -> None:
        """Shares both layers' variables; has none of its own."""
        # Not autocast: the kernel is scaled in float32 and rounded once, afterwards.
        super().__init__(name=batch_norm.name, dtype=convolution.dtype_policy, autocast=False)
        self._convolution, self._batch_norm = convolution, batch_norm

    def call(self, inputs: keras.KerasTensor, mask: None = None) -> keras.KerasTensor:
        """Maps [B, H, W, C] to the batch normalisation's output, of the convolution's compute dtype."""
        del mask  # what a clone of a model calls batch normalisation with
        convolution, batch_norm = self._convolution, self._batch_norm
        scale = ops.rsqrt(batch_norm.moving_variance + batch_norm.epsilon)
        if batch_norm.scale:
            scale *= batch_norm.gamma
        shift = -batch_norm.moving_mean
        if convolution.use_bias:
            shift += convolution.bias
        shift *= scale
        if batch_norm.center:
            shift += batch_norm.beta
        kernel = convolution.kernel
        depthwise = isinstance(convolution, layers.DepthwiseConv2D)
        per_output = ops.reshape(scale, kernel.shape[2:]) if depthwise else scale
        outputs = (ops.depthwise_conv if depthwise else ops.conv)(
            ops.cast(inputs, self.compute_dtype),
            ops.cast(kernel * per_output, self.compute_dtype),
            strides=convolution.strides,
            padding=convolution.padding,
            dilation_rate=convolution.dilation_rate,
        )
        return tf.nn.bias_add(outputs, ops.cast(shift, self.compute_dtype))


def folded_layers(model: keras.Model) -> dict[str, layers.Layer]:
    """Returns what replaces a functional model's layers, by their names, where batch norm is used for inference.

    Everything that can be folded is: batch normalisation over the channels, right after a convolution that has no
    activation and feeds nothing else.
    """
    replaced: dict[str, layers.Layer] = {}
    for layer in model.layers:
        if convolution := _foldable(layer):
            replaced[convolution.name] = layers.Identity(name=convolution.name, dtype=convolution.dtype_policy)
            replaced[layer.name] = FoldedConvolution(convolution, layer)
    return replaced


def _foldable(layer: layers.Layer) -> layers.Layer | None:
    """Returns the convolution that `layer` can be folded into, if it is such a batch normalisation."""
    if not isinstance(layer, layers.BatchNormalization) or layer.axis not in (-1, 3):
        return None
    before = producer(layer)
    linear = isinstance(before, _CONVOLUTIONS) and before.activation is keras.activations.linear
    return before if linear and before.data_format == "channels_last" and consumers(before) == 1 else None
