"""Decodes images to pixels, at no more than the resolution that is needed.

`decode_and_resize` is the evaluation path: of the trainer and inside the export alike. Large photos are first reduced
by 2, 4 or 8 (JPEG: while decoding, in the DCT, where it saves most of the work; else by averaging squares), then
resized bilinearly by the rest, a factor below 2. Plain bilinear from full size would alias; `antialias=True` looks
nearly the same and makes decode and resize together 2.5 times as expensive.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from pipeline import framing
from pipeline.format.records import Record
from pipeline.ratios import RATIOS, usable_ratios
from pipeline.view import FILL, STRETCH, View

# The pixels of every other decoder (Pillow, libjpeg, browsers). TensorFlow's default is up to 22 grey levels off them,
# and no faster: a model served elsewhere would see other pixels than it was trained on.
_DCT = "INTEGER_ACCURATE"


def ratio_index(factor: tf.Tensor, count: int = len(RATIOS)) -> tf.Tensor:
    """Picks the largest of the first `count` ratios that leaves at least one source pixel per output pixel.

    Args:
      factor: float32, any shape: source pixels per output pixel, of the axis that has fewer.

    Returns:
      int32, same shape: indices into `RATIOS`; 0 where no ratio does.
    """
    steps = [tf.cast(factor >= ratio, tf.int32) for ratio in RATIOS[1:count]]
    return tf.add_n(steps) if steps else tf.zeros_like(factor, tf.int32)


def decode_jpeg(encoded: tf.Tensor, *, index: tf.Tensor, count: int, window: tf.Tensor | None = None) -> tf.Tensor:
    """Decodes a JPEG, or a part of it, reduced by `RATIOS[index]`.

    Args:
      encoded: string scalar.
      index: int32 scalar, below `count`.
      count: how many ratios can occur; 1 leaves the switch out of the graph.
      window: int32 `[4]`: top, left, height, width of the wanted part, in pixels after the reduction.

    Returns:
      uint8 `[h, w, 3]`; reduced sides are rounded up. A part equals the same part of the whole, but for
      its first and last column, where libjpeg has no neighbour to smooth colours with.
    """

    def at(ratio: int) -> tf.Tensor:
        if window is None:
            return tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method=_DCT)
        return tf.image.decode_and_crop_jpeg(encoded, window, channels=3, ratio=ratio, dct_method=_DCT)

    if count == 1:
        return at(1)
    image = tf.switch_case(index, [lambda ratio=ratio: at(ratio) for ratio in RATIOS[:count]])
    return tf.ensure_shape(image, [None, None, 3])


def decode_jpeg_or_png(
    encoded: tf.Tensor, *, index: tf.Tensor, count: int, window: tf.Tensor | None = None
) -> tf.Tensor:
    """Decodes what may also be a PNG, as `decode_jpeg` does, which takes less time."""

    def jpeg() -> tf.Tensor:
        return tf.ensure_shape(decode_jpeg(encoded, index=index, count=count, window=window), [None, None, 3])

    def png() -> tf.Tensor:
        image = tf.ensure_shape(tf.io.decode_png(encoded, channels=3), [None, None, 3])
        if count > 1:
            branches = [
                lambda ratio=ratio: tf.cast(tf.round(_average(image, ratio)), tf.uint8) for ratio in RATIOS[:count]
            ]
            image = tf.switch_case(index, branches)
        if window is not None:
            image = image[window[0] : window[0] + window[2], window[1] : window[1] + window[3]]
        return tf.ensure_shape(image, [None, None, 3])

    return tf.cond(tf.io.is_jpeg(encoded), jpeg, png)


def resize_view(image: tf.Tensor, *, height: int, width: int, view: View) -> tf.Tensor:
    """Resizes what is seen of an image where nothing is augmented.

    Args:
      image: uint8 or float32 `[h, w, 3]`.
      height, width: of the output.
      view: which part it is; its edges are rounded to whole pixels.

    Returns:
      float32 `[height, width, 3]`.
    """
    if view.is_whole:
        return resize(image, height=height, width=width)
    shape = tf.shape(image)[:2]
    begin, size = framing.box(view, shape, height=height, width=width)
    if not view.pads:
        first = tf.cast(begin, tf.int32)
        image = image[first[0] : first[0] + size[0], first[1] : first[1] + size[1]]
        return resize(image, height=height, width=width)
    rows, columns = (
        framing.placed(-begin[axis], size[axis], -begin[axis], output=output)
        for axis, output in enumerate((height, width))
    )
    return resize_into(image, rows, columns, height=height, width=width)


def resize_into(image: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Resizes a whole image into a part of the output; the rest is `FILL`.

    Args:
      image: uint8 or float32 `[h, w, 3]`.
      rows, columns: int32 `[2]`, first and last + 1 of the part, in pixels of the output.
      height, width: of the output.

    Returns:
      float32 `[height, width, 3]`.
    """
    size = tf.stack([rows[1] - rows[0], columns[1] - columns[0]])
    resized = tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], size=size, half_pixel_centers=True)[0]
    beside = [[rows[0], height - rows[1]], [columns[0], width - columns[1]], [0, 0]]
    return tf.ensure_shape(tf.pad(resized, beside, constant_values=FILL), [height, width, 3])


def decode_and_resize(
    encoded: tf.Tensor, *, height: int, width: int, view: View = STRETCH, largest: tuple[int, int] | None = None
) -> tf.Tensor:
    """Decodes one image and resizes what is seen of it (bilinear, half-pixel centres).

    Args:
      encoded: string scalar: JPEG, PNG, GIF (first frame), BMP; grey, RGB or RGBA (alpha is dropped).
      height, width: of the output.
      view: which part of it is seen.
      largest: (height, width) that no image exceeds, where that is known: leaves unneeded cases out of the graph.

    Returns:
      float32 `[height, width, 3]`, 0..255.
    """
    count = len(RATIOS)
    if largest is not None:
        count = usable_ratios(source_height=largest[0], source_width=largest[1], height=height, width=width, view=view)
    if count == 1:
        return resize_view(_decode_whole(encoded), height=height, width=width, view=view)

    def index_for(shape: tf.Tensor) -> tf.Tensor:
        return ratio_index(framing.factor(view, shape[:2], height=height, width=width), count)

    def jpeg() -> tf.Tensor:
        index = index_for(tf.io.extract_jpeg_shape(encoded))
        decoded = decode_jpeg(encoded, index=index, count=count)
        return resize_view(decoded, height=height, width=width, view=view)

    def other() -> tf.Tensor:
        image = _decode_any(encoded)
        branches = [lambda ratio=ratio: _average(image, ratio) for ratio in RATIOS[:count]]
        reduced = tf.switch_case(index_for(tf.shape(image)), branches)
        return resize_view(reduced, height=height, width=width, view=view)

    return tf.cond(tf.io.is_jpeg(encoded), jpeg, other)


def why_unusable(record: Record) -> str:
    """Decodes a record as training does; returns what is wrong with its image, or an empty string."""
    try:
        height, width, _ = tf.io.decode_jpeg(record.image, channels=3).shape
    except tf.errors.InvalidArgumentError as error:
        return f"its image does not decode: {error.message.splitlines()[0]}"
    if (height, width) != (record.height, record.width):
        return f"its image is {height}x{width}, the record says {record.height}x{record.width}"
    return ""


def _decode_whole(encoded: tf.Tensor) -> tf.Tensor:
    jpeg = functools.partial(decode_jpeg, encoded, index=tf.constant(0), count=1)
    return tf.ensure_shape(tf.cond(tf.io.is_jpeg(encoded), jpeg, lambda: _decode_any(encoded)), [None, None, 3])


def _decode_any(encoded: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), [None, None, 3])


def _average(image: tf.Tensor, ratio: int) -> tf.Tensor:
    """Averages squares of `ratio` pixels a side; incomplete ones at the border over what they hold."""
    pixels = tf.cast(image, tf.float32)[tf.newaxis]
    return tf.nn.avg_pool2d(pixels, ratio, ratio, "SAME")[0] if ratio > 1 else pixels[0]


def resize(image: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Resizes a uint8 or float32 image to float32 `[height, width, 3]`, bilinearly with half-pixel centres."""
    resized = tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], size=[height, width], half_pixel_centers=True)
    return tf.ensure_shape(resized[0], [height, width, 3])
