"""Counts a training step's floating-point operations from the layers alone: a check on what the compiler says.

Convolutions and dense layers only, a multiplication and an addition being two. What trains costs its forward pass
once more for the gradient of its kernel, and everything behind the first trained layer once more for the gradient of
its input; a frozen stretch before it costs the forward pass alone. Where a step takes several passes, on the same
images with other weights, that stretch has the same answer in all of them, and the compiler computes it once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import keras

from trainer.models.keras_private import first_call, operations_by_depth
from trainer.preflight.hlo import valid_positions


def forward_flops(layer: keras.Layer) -> int:
    """Counts one image's operations; 0 for layers without products. Taps on the padding do not count, as in XLA."""
    if isinstance(layer, keras.layers.Dense):
        return 2 * math.prod(layer.input.shape[1:]) * layer.units
    if not isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
        return 0
    taps = math.prod(_taps(layer, axis) for axis in (0, 1))
    channels_in, channels_out = layer.input.shape[-1], layer.output.shape[-1]
    products = channels_out if isinstance(layer, keras.layers.DepthwiseConv2D) else channels_in * channels_out
    return 2 * taps * products


def channel_fill(models: Sequence[keras.Model], unit: int) -> float:
    """Measures how full channels are once filled up to multiples of `unit`, 0 to 1, weighted by their layers' work.

    Of dense layers and convolutions; a depthwise one sums over no channels, so the matrix unit has no part in it.
    """
    work = filled = 0.0
    for layer in (layer for model in models for layer in model.layers):
        if isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D)):
            flops = forward_flops(layer)
            work += flops
            for channels in (layer.input.shape[-1], layer.output.shape[-1]):
                flops *= math.ceil(channels / unit) * unit / channels
            filled += flops
    return work / filled if filled else 1.0


def _taps(layer: keras.Layer, axis: int) -> int:
    size, stride, dilation = layer.kernel_size[axis], layer.strides[axis], layer.dilation_rate[axis]
    given, made = layer.input.shape[1 + axis], layer.output.shape[1 + axis]
    missing = max((made - 1) * stride + (size - 1) * dilation + 1 - given, 0) if layer.padding == "same" else 0
    return valid_positions(
        input_size=given, output_size=made, size=size, stride=stride, pad=missing // 2, kernel_dilation=dilation
    )


def training_flops(
    model: keras.Model, trained: Collection[str], *, input_trains: bool = False, passes: int = 1
) -> tuple[int, bool]:
    """Counts the operations of one image in one step.

    Args:
      model: a functional model.
      trained: paths of the variables that train.
      input_trains: whether something before the model trains, so that the gradient of its input is wanted.
      passes: how often a step computes gradients, each time with other values of what trains.

    Returns:
      The operations, and whether the gradient of the model's output is wanted by something that trains.
    """
    wanted: dict[int, bool] = {id(tensor): input_trains for tensor in model.inputs}
    total = 0
    for layers in operations_by_depth(model):
        for layer in layers:
            inputs, outputs = first_call(layer)
            if not inputs:
                continue
            before = any(wanted[id(tensor)] for tensor in inputs)
            own = any(variable.path in trained for variable in getattr(layer, "trainable_variables", ()))
            kernel = any(v.path in trained for v in getattr(layer, "trainable_variables", ()) if "kernel" in v.name)
            forward_passes = passes if before or own else 1
            total += forward_flops(layer) * (forward_passes + passes * (before + kernel))
            for tensor in outputs:
                wanted[id(tensor)] = before or own
    return total, any(wanted[id(tensor)] for tensor in model.outputs)
