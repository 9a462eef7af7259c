"""Says what to augment and how strongly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline.command import nearest
from pipeline.own_code import FORM, is_own

# name → class in keras_cv.layers and its arguments.
POLICIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "randaugment": ("RandAugment", {"value_range": (0, 255)}),
    "augmix": ("AugMix", {"value_range": (0, 255)}),
    "gridmask": ("GridMask", {}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Says what to augment and how strongly. The defaults change nothing.

    Attributes:
      flip: mirror left and right, half of the images.
      shift: largest shift, as a fraction of the side; both axes, uniform in ±shift.
      zoom: side of the part that is seen, uniform in 1 ± zoom of the image's; both axes alike.
      shear: largest shear, x += shear * y; uniform in ±shear.
      rotation: largest rotation in degrees, uniform in ±rotation.
      random_resized_crop: smallest area of the crop as a fraction of the image (aspect 3/4 to 4/3); 0: off.
      brightness: added to the pixels, uniform in ±brightness, as a fraction of 255.
      contrast: factor around the image's mean grey, uniform in 1 ± contrast.
      saturation: factor around grey, uniform in 1 ± saturation; 0 gives a grey image.
      hue: rotation of the colours, uniform in ±hue, as a fraction of a full turn (in YIQ, where it is linear).
      cutout_count: squares cut out of each image.
      cutout_size: side of a square as a fraction of the image's side; centres uniform, may cross the border.
      cutout_fill: pixel value, 0..255, of what is cut out.
      mixup, cutmix: alpha of the Beta distributions of `batch.Mix`; with both, each image gets one of them.
      policy: applied after all but mixup and cutmix: a name in `POLICIES`, or a user's function, `FILE.py:function` or
        `MODULE:function` (`own_policy`); empty: none.
      on_accelerator: leave colours, cutouts, mixing and preprocessing to the training step (`render.finish`): the host
        does less and ships uint8, a quarter of the bytes. Pixels are rounded before they are coloured, not after.
    """

    flip: bool = False
    shift: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    rotation: float = 0.0
    random_resized_crop: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    cutout_count: int = 0
    cutout_size: float = 0.0
    cutout_fill: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    policy: str = ""
    on_accelerator: bool = False

    def __post_init__(self) -> None:
        limits = {
            "shift": 1.0,
            "zoom": 0.99,
            "shear": 2.0,
            "rotation": 180.0,
            "random_resized_crop": 1.0,
            "brightness": 1.0,
            "contrast": 1.0,
            "saturation": 1.0,
            "hue": 0.5,
            "cutout_size": 1.0,
            "cutout_fill": 255.0,
            "mixup": 10.0,
            "cutmix": 10.0,
        }
        for name, most in limits.items():
            value = getattr(self, name)
            if not 0.0 <= value <= most:
                raise ValueError(f"{name} must be in 0..{most:g}, got {value!r}")
        if self.cutout_count < 0 or (self.cutout_count > 0) != (self.cutout_size > 0):
            raise ValueError(
                f"cutout_count and cutout_size are set together, got {self.cutout_count!r} and {self.cutout_size!r}"
            )
        if self.policy and self.policy not in POLICIES and not is_own(self.policy):
            raise ValueError(
                f'no policy "{self.policy}"; there are {", ".join(POLICIES)}, or write {FORM}.'
                f"{nearest(self.policy, list(POLICIES))}"
            )
        if self.on_accelerator and self.policy:
            raise ValueError(f"on_accelerator cannot be combined with policy={self.policy}, which the host applies")

    @property
    def moves(self) -> bool:
        """Says whether anything but the resize maps pixels to other places."""
        return bool(self.flip or self.shift or self.zoom or self.shear or self.rotation or self.random_resized_crop)

    @property
    def is_window(self) -> bool:
        """Says whether the map only scales, flips and shifts, and the mirrored border never exceeds the image."""
        return not self.rotation and not self.shear and self.shift * (1.0 + self.zoom) <= 0.5

    @property
    def sees_parts(self) -> bool:
        """Says whether images are usually seen in parts so small that decoding the rest can be spared."""
        return 0.0 < self.random_resized_crop < 0.7

    @property
    def recolours(self) -> bool:
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    @property
    def mixes(self) -> bool:
        """Says whether images are mixed in pairs."""
        return bool(self.mixup or self.cutmix)
