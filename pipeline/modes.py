"""Lists the modes of `pipeline.preprocess`. Free of TensorFlow."""

from __future__ import annotations

from pipeline.command import UsageError, nearest

# name → what the backbone expects. "tf", "caffe" and "torch" are Keras's names (keras.applications.imagenet_utils).
PREPROCESS = {
    "identity": "RGB 0..255 (EfficientNet: its own first layer rescales)",
    "tf": "RGB -1..1",
    "caffe": "BGR minus the ImageNet mean (VGG16, ResNet50)",
    "torch": "RGB 0..1 minus the ImageNet mean, by its deviation (torchvision's ResNet34)",
    "lite": "RGB (x - 127) / 128 (EfficientNet-Lite)",
    "unit": "RGB 0..1",
}


def check_mode(mode: str) -> None:
    """Raises UsageError naming the modes if `mode` is none of them."""
    if mode not in PREPROCESS:
        raise UsageError(f'no preprocessing "{mode}"; known: {", ".join(PREPROCESS)}.{nearest(mode, list(PREPROCESS))}')
