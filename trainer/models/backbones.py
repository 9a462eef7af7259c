"""Lists the backbones, and says what each wants and gives. Free of TensorFlow."""

from __future__ import annotations

import dataclasses

from pipeline.command import UsageError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """Describes what a backbone wants and gives.

    Attributes:
      name: as in `--backbone=NAME`.
      image_size: pixels, height and width, at which its ImageNet weights were trained.
      preprocess: the mode of `pipeline.preprocess.preprocess` that makes its input.
      features: channels of its feature map.
      parameters: numbers that its layers hold, statistics of batch normalisation included.
    """

    name: str
    image_size: int
    preprocess: str
    features: int
    parameters: int


_ROWS = (
    # name, image_size, preprocess, features, parameters
    ("efficientnet_lite0", 224, "lite", 1280, 3_413_024),
    ("efficientnet_lite1", 240, "lite", 1280, 4_189_344),
    ("efficientnet_lite2", 260, "lite", 1280, 4_869_168),
    ("efficientnet_b0", 224, "identity", 1280, 4_049_564),
    ("efficientnet_b1", 240, "identity", 1280, 6_575_232),
    ("efficientnet_b2", 260, "identity", 1408, 7_768_562),
    ("efficientnet_b3", 300, "identity", 1536, 10_783_528),
    ("efficientnet_b4", 380, "identity", 1792, 17_673_816),
    ("efficientnet_b5", 456, "identity", 2048, 28_513_520),
    ("efficientnet_b6", 528, "identity", 2304, 40_960_136),
    ("efficientnet_b7", 600, "identity", 2560, 64_097_680),
    ("vgg16", 224, "caffe", 512, 14_714_688),
    ("resnet34", 224, "torch", 512, 21_301_696),
    ("resnet50", 224, "caffe", 2048, 23_587_712),
    ("cifar10_cnn", 32, "unit", 64, 112_576),
)
BACKBONES: dict[str, BackboneInfo] = {
    name: BackboneInfo(name=name, image_size=size, preprocess=mode, features=features, parameters=parameters)
    for name, size, mode, features, parameters in _ROWS
}


def backbone_info(name: str) -> BackboneInfo:
    """Looks a backbone up; UsageError with the nearest name if there is none of this name."""
    if name not in BACKBONES:
        raise UsageError(f'no backbone "{name}"; there are {", ".join(BACKBONES)}.{nearest(name, list(BACKBONES))}')
    return BACKBONES[name]
