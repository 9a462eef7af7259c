"""Augmentation as three steps an image, whatever the number of operations: one resampling, one colour matrix, one mask.

Flip, shift, zoom, shear, rotation and random resized crop compose with the resize into one affine map from output
to source; brightness, contrast, saturation and hue into one 3×4 matrix; all cutouts into one mask. Parameters are
drawn for many examples at once (`draw`), each from its own counter-based stream, and applied by `geometry` and
`colour`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipeline.colour import LUMA
from pipeline.random_bits import uniforms

# Hue turns the I and Q axes of YIQ (tf.image.rgb_to_yiq): from_yiq @ turn @ to_yiq = fixed + cos * even + sin * odd.
_TO_YIQ = np.array([LUMA, [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119955]])
_HUE_PARTS = tuple(
    np.linalg.inv(_TO_YIQ) @ np.array(turn, float) @ _TO_YIQ
    for turn in (
        [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
    )
)

# Which uniform of an example's stream feeds what. Fixed places: switching one operation on changes no other's draws.
_FLIP, _SHIFT_X, _SHIFT_Y, _ZOOM, _SHEAR, _ROTATION, _CROP_AREA, _CROP_ASPECT, _CROP_X, _CROP_Y = range(10)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(10, 14)
_CUTOUT = 16  # two each: centre x, centre y

_LEVELS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What to augment and how strongly. The defaults change nothing.

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
      mixup, cutmix: alpha of the Beta distributions of `policies.Mix`; with both, each image gets one of them.
      policy: a name in `policies.POLICIES`, applied last; empty: none.
      on_accelerator: leave colours, cutouts and preprocessing to the training step (`render.finish`): the host does
        less and ships uint8, a quarter of the bytes. Pixels are rounded before they are coloured, not after.
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
        if self.on_accelerator and (self.mixup or self.cutmix or self.policy):
            raise ValueError("on_accelerator cannot be combined with mixup, cutmix or a policy, which the host applies")

    @property
    def moves(self) -> bool:
        """Whether anything but the resize maps pixels to other places."""
        return bool(self.flip or self.shift or self.zoom or self.shear or self.rotation or self.random_resized_crop)

    @property
    def is_window(self) -> bool:
        """Whether the map only scales and shifts, and never so far that the mirrored border exceeds the image."""
        return not self.rotation and not self.shear and self.shift * (1.0 + self.zoom) <= 0.5

    @property
    def sees_parts(self) -> bool:
        """Whether images are usually seen in parts so small that decoding the rest can be spared."""
        return 0.0 < self.random_resized_crop < 0.7

    @property
    def recolours(self) -> bool:
        return bool(self.brightness or self.contrast or self.saturation or self.hue)


def _tabulated(function: Callable[[np.ndarray], np.ndarray], u: tf.Tensor, *, most: float) -> tf.Tensor:
    """`function` of a number uniform in ±most, in `_LEVELS` steps.

    From a table, because TensorFlow's sine, cosine and exponential round differently in a vector register than alone:
    results would depend on the place in the batch.
    """
    table = function((np.arange(_LEVELS) + 0.5) / _LEVELS * 2.0 * most - most)
    return tf.gather(tf.constant(table, tf.float32), tf.cast(u * _LEVELS, tf.int32))


def _stack_matrix(rows: list[list[tf.Tensor]], like: tf.Tensor) -> tf.Tensor:
    """Tensors or numbers, each `[N]` → float32 `[N, rows, columns]`."""
    return tf.stack([tf.stack([c + tf.zeros_like(like) for c in row], axis=-1) for row in rows], axis=-2)


def draw_map(config: AugmentConfig, u: tf.Tensor, *, aspect: tf.Tensor, output_aspect: float) -> tf.Tensor:
    """The affine map of each example.

    Args:
      u: float32 `[N, draws]`, uniforms.
      aspect: float32 `[N]`, width / height of each source image.
      output_aspect: width / height of the output.

    Returns:
      float32 `[N, 2, 3]`: output (x, y, 1) → source (x, y), both from -0.5 to 0.5 across the image.
    """

    def signed(draw: int) -> tf.Tensor:
        return u[:, draw] * 2.0 - 1.0

    one = tf.ones_like(u[:, 0])
    # Rotation and shear act on square pixels of the output; coordinates across a non-square image are not.
    angle = math.radians(config.rotation)
    cos, sin = (_tabulated(f, u[:, _ROTATION], most=angle) for f in (np.cos, np.sin))
    shear = signed(_SHEAR) * config.shear
    scale = 1.0 + signed(_ZOOM) * config.zoom
    a, b = cos, cos * shear - sin
    c, d = sin, sin * shear + cos
    linear = _stack_matrix([[a * scale, b * scale / output_aspect], [c * scale * output_aspect, d * scale]], one)
    mirror = tf.where(u[:, _FLIP] < 0.5, -1.0, 1.0) if config.flip else one
    linear = linear * tf.stack([mirror, one], axis=-1)[:, tf.newaxis, :]
    shift = tf.stack([signed(_SHIFT_X) * -config.shift, signed(_SHIFT_Y) * -config.shift], axis=-1)
    size = tf.ones_like(shift)
    centre = tf.zeros_like(shift)
    if config.random_resized_crop:
        area = config.random_resized_crop + u[:, _CROP_AREA] * (1.0 - config.random_resized_crop)
        ratio = _tabulated(np.exp, u[:, _CROP_ASPECT], most=math.log(4.0 / 3.0))
        size = tf.minimum(tf.stack([tf.sqrt(area * ratio / aspect), tf.sqrt(area / ratio * aspect)], axis=-1), 1.0)
        centre = (tf.stack([u[:, _CROP_X], u[:, _CROP_Y]], axis=-1) - 0.5) * (1.0 - size)
    linear = linear * size[:, :, tf.newaxis]
    offset = shift * size + centre
    return tf.concat([linear, offset[:, :, tf.newaxis]], axis=-1)


def draw_colour(config: AugmentConfig, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The colour change of each example: `out = M @ (contrast * x + (1 - contrast) * grey) + brightness`.

    Returns:
      M float32 `[N, 3, 3]` (saturation, then hue; grey stays grey), contrast `[N]`, brightness `[N]` in 0..255 units.
    """

    def factor(draw: int, most: float) -> tf.Tensor:
        return 1.0 + (u[:, draw] * 2.0 - 1.0) * most

    saturation = factor(_SATURATION, config.saturation)[:, tf.newaxis, tf.newaxis]
    turned = tf.eye(3)
    if config.hue:
        cos, sin = (_tabulated(f, u[:, _HUE], most=config.hue * 2.0 * math.pi) for f in (np.cos, np.sin))
        fixed, even, odd = (tf.constant(part, tf.float32) for part in _HUE_PARTS)
        turned = fixed + even * cos[:, tf.newaxis, tf.newaxis] + odd * sin[:, tf.newaxis, tf.newaxis]
    # Sums and products only: a matmul would round differently for other numbers of examples. Turning leaves grey alone,
    # so turned @ (s * identity + (1 - s) * to_grey) = s * turned + (1 - s) * to_grey.
    matrix = saturation * turned + (1.0 - saturation) * tf.constant([LUMA] * 3, tf.float32)
    return matrix, factor(_CONTRAST, config.contrast), (factor(_BRIGHTNESS, config.brightness) - 1.0) * 255.0


def draw_cutouts(config: AugmentConfig, u: tf.Tensor) -> tf.Tensor:
    """float32 `[N, count, 4]`: left, top, right, bottom of each square, as fractions of the output's sides."""
    centres = tf.reshape(u[:, _CUTOUT : _CUTOUT + 2 * config.cutout_count], [-1, config.cutout_count, 2])
    half = config.cutout_size / 2.0
    return tf.concat([centres - half, centres + half], axis=-1)


def draw(
    config: AugmentConfig,
    identities: tf.Tensor,
    *,
    key: tf.Tensor,
    aspect: tf.Tensor,
    output_aspect: float,
) -> dict[str, tf.Tensor]:
    """Draws the parameters of N examples.

    Args:
      identities: uint64 `[N]`, from the record's id.
      key: uint64 scalar, `random_bits.stream_key(seed, epoch)`.
      aspect: float32 `[N]`, width / height of each source image.
      output_aspect: width / height of the output.

    Returns:
      Only what the configuration uses: "map" `[N, 2, 3]`; "matrix" `[N, 3, 3]`, "contrast" `[N]`, "brightness" `[N]`;
      "cutouts" `[N, count, 4]`.
    """
    u = uniforms(identities, key=key, draws=_CUTOUT + 2 * config.cutout_count)
    parameters = {}
    if config.moves:
        parameters["map"] = draw_map(config, u, aspect=aspect, output_aspect=output_aspect)
    if config.recolours:
        parameters["matrix"], parameters["contrast"], parameters["brightness"] = draw_colour(config, u)
    if config.cutout_count:
        parameters["cutouts"] = draw_cutouts(config, u)
    return parameters


def describe(config: AugmentConfig, identities: tf.Tensor, *, key: tf.Tensor) -> list[list[str]]:
    """The parameters that `draw` gives each example, in words, a line each; for people."""
    lines = []
    for u in uniforms(identities, key=key, draws=_CUTOUT + 2 * config.cutout_count).numpy():
        signed = u * 2.0 - 1.0
        words = {
            "flip": "flip" if config.flip and u[_FLIP] < 0.5 else "",
            "shift": f"shift {signed[_SHIFT_X] * config.shift:+.0%} {signed[_SHIFT_Y] * config.shift:+.0%}",
            "zoom": f"zoom {1.0 / (1.0 + signed[_ZOOM] * config.zoom):.2f}",
            "shear": f"shear {signed[_SHEAR] * config.shear:+.2f}",
            "rotation": f"rotation {signed[_ROTATION] * config.rotation:+.0f}",
            "random_resized_crop": f"crop {1 - (1 - u[_CROP_AREA]) * (1 - config.random_resized_crop):.0%}",
            "brightness": f"brightness {signed[_BRIGHTNESS] * config.brightness:+.0%}",
            "contrast": f"contrast {1 + signed[_CONTRAST] * config.contrast:.2f}",
            "saturation": f"saturation {1 + signed[_SATURATION] * config.saturation:.2f}",
            "hue": f"hue {signed[_HUE] * config.hue * 360:+.0f}",
            "cutout_count": f"{config.cutout_count} cutouts",
            "mixup": "mixup",
            "cutmix": "cutmix",
            "policy": config.policy,
        }
        used = [text for name, text in words.items() if getattr(config, name) and text]
        # Two to a line.
        lines.append([", ".join(used[i : i + 2]) for i in range(0, len(used), 2)])
    return lines
