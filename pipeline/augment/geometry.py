"""Does the geometric half of augmentation by one affine map an image, so that pixels are resampled once.

The map goes from output to source. Without rotation and shear it is a window, which is cut out while decoding and
resized, at no more cost than a plain resize; its edges are rounded to whole source pixels. Any other map goes through a
general bilinear warp. What lies beyond an image is its mirror image, or grey where the view pads.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from pipeline import framing
from pipeline.augment import places
from pipeline.augment.config import AugmentConfig
from pipeline.decode import ratio_index, resize, resize_into
from pipeline.ratios import RATIOS
from pipeline.view import FILL, View


def _stack_matrix(rows: list[list[tf.Tensor]], like: tf.Tensor) -> tf.Tensor:
    """Stacks tensors `[N]`, or numbers, into float32 `[N, rows, columns]`; `like`: any tensor `[N]`."""
    return tf.stack([tf.stack([c + tf.zeros_like(like) for c in row], axis=-1) for row in rows], axis=-2)


def draw_map(config: AugmentConfig, u: tf.Tensor, *, aspect: tf.Tensor, output_aspect: float, view: View) -> tf.Tensor:
    """Draws the affine map of each example.

    A random-area crop is a part of the view, of proportions 3/4 to 4/3 in the image's own pixels. Where the view pads,
    it lies as far inside of the image as it fits, and around its middle where it does not.

    Args:
      u: float32 `[N, draws]`, uniforms.
      aspect: float32 `[N]`, width / height of each source image.
      output_aspect: width / height of the output.
      view: what is seen of an image that nothing moves.

    Returns:
      float32 `[N, 2, 3]`: output (x, y, 1) → view (x, y), both from -0.5 to 0.5 across it.
    """

    def signed(draw: int) -> tf.Tensor:
        return u[:, draw] * 2.0 - 1.0

    one = tf.ones_like(u[:, 0])
    # Rotation and shear act on square pixels of the output; coordinates across a non-square image are not.
    angle = math.radians(config.rotation)
    cos, sin = (places.tabulated(f, u[:, places.ROTATION], most=angle) for f in (np.cos, np.sin))
    shear = signed(places.SHEAR) * config.shear
    scale = 1.0 + signed(places.ZOOM) * config.zoom
    a, b = cos, cos * shear - sin
    c, d = sin, sin * shear + cos
    linear = _stack_matrix([[a * scale, b * scale / output_aspect], [c * scale * output_aspect, d * scale]], one)
    mirror = tf.where(u[:, places.FLIP] < 0.5, -1.0, 1.0) if config.flip else one
    linear = linear * tf.stack([mirror, one], axis=-1)[:, tf.newaxis, :]
    shift = tf.stack([signed(places.SHIFT_X) * -config.shift, signed(places.SHIFT_Y) * -config.shift], axis=-1)
    size = tf.ones_like(shift)
    centre = tf.zeros_like(shift)
    if config.random_resized_crop:
        area = config.random_resized_crop + u[:, places.CROP_AREA] * (1.0 - config.random_resized_crop)
        ratio = places.tabulated(np.exp, u[:, places.CROP_ASPECT], most=math.log(4.0 / 3.0))
        covered = framing.covered(view, aspect, output_aspect=output_aspect)
        aspect = aspect if view.resize == "stretch" else one * output_aspect
        size = tf.minimum(tf.stack([tf.sqrt(area * ratio / aspect), tf.sqrt(area / ratio * aspect)], axis=-1), 1.0)
        room = tf.maximum(covered - size, 0.0)
        centre = (tf.stack([u[:, places.CROP_X], u[:, places.CROP_Y]], axis=-1) - 0.5) * room
    linear = linear * size[:, :, tf.newaxis]
    offset = shift * size + centre
    return tf.concat([linear, offset[:, :, tf.newaxis]], axis=-1)


def source_windows(
    maps: tf.Tensor,
    heights: tf.Tensor,
    widths: tf.Tensor,
    *,
    height: int,
    width: int,
    view: View,
    count: int,
    parts: bool,
) -> dict[str, tf.Tensor]:
    """Computes from the maps which part of each source has to be decoded, and how far reduced.

    Args:
      maps: float32 `[N, 2, 3]`: output (x, y, 1) → view (x, y), both from -0.5 to 0.5 across it.
      heights, widths: int `[N]`, of the sources, in pixels.
      height, width: of the output.
      view: what is seen of an image that nothing moves.
      count: how many of `RATIOS` can occur.
      parts: whether only the wanted part is decoded. That pays for small parts; for nearly whole images it does not.

    Returns:
      int32 tensors, in pixels after the reduction: "ratio" `[N]`, index into `RATIOS`; "rows", "columns" `[N, 2]`:
      first and last + 1 of what is wanted; "beyond" `[N, 4]`: rows above, below, columns left and right of the source
      that are to be mirrored, or, where the view pads, "placed" `[N, 4]`: first and last + 1 of the output's rows, of
      its columns, that the source fills; "flip" `[N]`, 0 or 1; and with `parts` "window" `[N, 4]`: top, left, height,
      width of the part to decode, to which rows and columns are then relative.
    """
    output = {"height": height, "width": width}
    shapes = tf.stack([heights, widths], axis=-1)
    sides = tf.reverse(framing.sides(view, shapes, **output), [-1])  # x, y as in the maps
    # Source pixels that one output pixel steps over, along the output's x and y.
    steps = tf.sqrt(tf.reduce_sum((maps[:, :, :2] * sides[:, :, tf.newaxis]) ** 2, axis=1))
    ratio = ratio_index(tf.reduce_min(steps / tf.constant([width, height], tf.float32), axis=-1), count)
    divisor = tf.gather(tf.constant(RATIOS), ratio)[:, tf.newaxis]
    shapes = (shapes + divisor - 1) // divisor
    reduced, (begin, box) = tf.reverse(shapes, [-1]), (tf.reverse(a, [-1]) for a in framing.box(view, shapes, **output))
    scale = tf.cast(box, tf.float32)
    extent = tf.stack([tf.abs(maps[:, 0, 0]), maps[:, 1, 1]], axis=-1)
    low = tf.floor((maps[:, :, 2] + 0.5 - extent / 2.0) * scale + 0.5) + begin
    size = tf.maximum(tf.floor(extent * scale + 0.5), 1.0)
    first = tf.clip_by_value(tf.cast(tf.floor(low), tf.int32), 0, reduced - 1)
    last = tf.clip_by_value(tf.cast(tf.math.ceil(low + size), tf.int32), first + 1, reduced)
    before = tf.maximum(tf.cast(first, tf.float32) - low, 0.0)
    after = tf.maximum(low + size - tf.cast(last, tf.float32), 0.0)
    flipped = maps[:, 0, 0] < 0.0
    windows = {
        "ratio": ratio,
        "rows": tf.stack([first[:, 1], last[:, 1]], axis=-1),
        "columns": tf.stack([first[:, 0], last[:, 0]], axis=-1),
        "flip": tf.cast(flipped, tf.int32),
    }
    if view.pads:
        size = tf.cast(size, tf.int32)
        rows = framing.placed(before[:, 1], size[:, 1], after[:, 1], output=height)
        columns = framing.placed(before[:, 0], size[:, 0], after[:, 0], output=width)
        columns = tf.where(flipped[:, tf.newaxis], width - tf.reverse(columns, [-1]), columns)
        windows["placed"] = tf.concat([rows, columns], axis=-1)
    else:
        beyond = tf.stack([before[:, 1], after[:, 1], before[:, 0], after[:, 0]], axis=-1)
        windows["beyond"] = tf.cast(beyond, tf.int32)
    if parts:
        # libjpeg smooths colour over neighbouring columns: with one more on either side, a part equals the whole's.
        left = tf.maximum(first[:, 0] - 1, 0)
        right = tf.minimum(last[:, 0] + 1, reduced[:, 0])
        windows["window"] = tf.stack([first[:, 1], left, last[:, 1] - first[:, 1], right - left], axis=-1)
        windows["rows"] -= first[:, 1:]
        windows["columns"] -= left[:, tf.newaxis]
    return windows


def _cut_and_mirror(image: tf.Tensor, wanted: tf.Tensor, beyond: tf.Tensor, *, axis: int) -> tf.Tensor:
    """Keeps `wanted` (first, last + 1) of an axis and continues it `beyond` (before, after) with its mirror image.

    MirrorPad does the latter 20 times slower.
    """

    def cut(start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        return image[start:end] if axis == 0 else image[:, start:end]

    low = tf.reverse(cut(wanted[0], wanted[0] + beyond[0]), [axis])
    high = tf.reverse(cut(wanted[1] - beyond[1], wanted[1]), [axis])
    return tf.concat([low, cut(wanted[0], wanted[1]), high], axis=axis)


def render_window(
    image: tf.Tensor, drawn: dict[str, tf.Tensor], *, height: int, width: int, overhangs: bool
) -> tf.Tensor:
    """Turns one decoded source, or the decoded part of it, into the output image.

    Args:
      image: uint8 `[h, w, 3]`.
      drawn: one row of what `source_windows` returns.
      overhangs: whether windows can reach beyond their source, where it is mirrored.

    Returns:
      float32 `[height, width, 3]`.
    """
    rows, columns = drawn["rows"], drawn["columns"]
    if overhangs and "beyond" in drawn:
        beyond = drawn["beyond"]
        image = _cut_and_mirror(image, rows, beyond[:2], axis=0)
        image = _cut_and_mirror(image, columns, beyond[2:], axis=1)
    else:
        image = image[rows[0] : rows[1], columns[0] : columns[1]]
    # Before the resize, while pixels are bytes; tf.reverse along a computed axis would cost twice as much.
    image = tf.cond(drawn["flip"] > 0, lambda: tf.reverse(image, [1]), lambda: image)
    if "placed" in drawn:
        return resize_into(image, drawn["placed"][:2], drawn["placed"][2:], height=height, width=width)
    return resize(image, height=height, width=width)


def warp(image: tf.Tensor, affine: tf.Tensor, *, height: int, width: int, view: View) -> tf.Tensor:
    """Warps one image by an affine map, bilinearly; what lies beyond the border is its mirror image, or grey.

    Args:
      image: uint8 or float32 `[h, w, 3]`.
      affine: float32 `[2, 3]`: output (x, y, 1) → view (x, y), both from -0.5 to 0.5 across it.
      height, width: of the output.
      view: what is seen of an image that nothing moves; grey is beyond the image if it pads.

    Returns:
      float32 `[height, width, 3]`. With the identity map it equals a bilinear resize with half-pixel centres.
    """
    boxes = framing.box(view, tf.shape(image)[:2], height=height, width=width)
    first, source = (tf.cast(tf.reverse(box, [0]), tf.float32) for box in boxes)
    output = tf.constant([width, height], tf.float32)
    linear = affine[:, :2] * source[:, tf.newaxis] / output
    # Pixel p covers p..p+1, so its centre lies at (p + 0.5) / side - 0.5 across the image.
    centre = tf.linalg.matvec(linear, 0.5 - output / 2.0)
    offset = affine[:, 2] * source + centre + source / 2.0 - 0.5 + first
    transform = tf.concat([linear[0], offset[:1], linear[1], offset[1:], [0.0, 0.0]], axis=0)
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[tf.newaxis],
        transforms=transform[tf.newaxis],
        output_shape=[height, width],
        fill_value=FILL,
        interpolation="BILINEAR",
        fill_mode="CONSTANT" if view.pads else "REFLECT",
    )
    return tf.ensure_shape(warped[0], [height, width, 3])
