"""Decodes photos upright inside of a TensorFlow graph: a phone's JPEG says in its EXIF how it was held.

Records of a dataset are upright, so that training needs none of this. What clients send to an exported model is not.
"""

from __future__ import annotations

import tensorflow as tf

from pipeline import framing
from pipeline.decode import decode_and_resize, decode_jpeg, ratio_index, resize_view
from pipeline.ratios import RATIOS
from pipeline.view import View

_HEAD = 1 << 17  # bytes that are searched: EXIF comes before the pixels, and takes 64 kB at most
_EXIF_MARKER, _FIRST_OF_SCAN, _TAG = 0xE1, 0xDA, 0x0112
_ENTRY = 12  # bytes
_MOST_ENTRIES = 256
_UPRIGHT = 1


def decode_upright(encoded: tf.Tensor, *, height: int, width: int, view: View) -> tf.Tensor:
    """Decodes one image, turns it upright as its EXIF says, and resizes what is seen of it.

    Args:
      encoded: string scalar, as `pipeline.decode.decode_and_resize` takes it.
      height, width: of the output.
      view: which part of it is seen.

    Returns:
      float32 `[height, width, 3]`, 0..255.
    """

    def jpeg() -> tf.Tensor:
        turn = orientation(encoded)
        shape = tf.io.extract_jpeg_shape(encoded)[:2]
        upright = tf.where(turn >= 5, shape[::-1], shape)
        index = ratio_index(framing.factor(view, upright, height=height, width=width))
        image = turned(decode_jpeg(encoded, index=index, count=len(RATIOS)), turn)
        return resize_view(image, height=height, width=width, view=view)

    def other() -> tf.Tensor:
        return decode_and_resize(encoded, height=height, width=width, view=view)

    return tf.cond(tf.io.is_jpeg(encoded), jpeg, other)


def turned(image: tf.Tensor, turn: tf.Tensor) -> tf.Tensor:
    """Turns an image `[h, w, 3]` upright by its EXIF orientation, int32 scalar 1 to 8."""

    def flipped(up: bool, left: bool, transposed: bool) -> tf.Tensor:
        result = tf.transpose(image, [1, 0, 2]) if transposed else image
        axes = [axis for axis, flip in enumerate((up, left)) if flip]
        return tf.ensure_shape(tf.reverse(result, axes) if axes else result, [None, None, 3])

    ways = [
        (False, False, False), (False, True, False), (True, True, False), (True, False, False),
        (False, False, True), (False, True, True), (True, True, True), (True, False, True),
    ]  # fmt: skip
    return tf.switch_case(turn - 1, [lambda way=way: flipped(*way) for way in ways])


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Reads the orientation of a JPEG from its EXIF, int32 scalar 1 to 8; 1 where it has none or a broken one."""
    head = tf.io.decode_raw(tf.strings.substr(encoded, 0, _HEAD), tf.uint8)
    # Whatever a broken file points to, there is a zero to be read.
    data = tf.concat([tf.cast(head, tf.int32), tf.zeros([_MOST_ENTRIES * _ENTRY], tf.int32)], axis=0)
    size = tf.size(head)

    def at(place: tf.Tensor, count: int, little: tf.Tensor | bool = False) -> tf.Tensor:
        """Reads an unsigned number of 2 or 4 bytes; of 4 what is too large for us as something negative."""
        digits = tf.reshape(tf.slice(data, [tf.clip_by_value(place, 0, size)], [count]), [count])
        digits = tf.where(little, digits, digits[::-1])
        return tf.reduce_sum(digits * tf.constant([256**power for power in range(count)], tf.int32))

    def goes_on(place: tf.Tensor) -> tf.Tensor:
        marker = at(place + 1, 1)
        is_exif = (marker == _EXIF_MARKER) & (at(place + 4, 4) == int.from_bytes(b"Exif"))
        return (place + 4 < size) & (at(place, 1) == 0xFF) & (marker != _FIRST_OF_SCAN) & ~is_exif

    def next_segment(place: tf.Tensor) -> tuple[tf.Tensor]:
        return (place + 2 + at(place + 2, 2),)

    (place,) = tf.while_loop(goes_on, next_segment, (tf.constant(2),))
    is_exif = (at(place + 1, 1) == _EXIF_MARKER) & (at(place + 4, 4) == int.from_bytes(b"Exif"))
    start = place + 10  # of the TIFF inside
    little = at(start, 2) == int.from_bytes(b"II")
    first = start + at(start + 4, 4, little)
    inside = is_exif & (first > start) & (first + 2 < size)
    first = tf.where(inside, first, size)
    count = tf.clip_by_value(at(first, 2, little), 0, _MOST_ENTRIES)
    rows = tf.reshape(tf.slice(data, [tf.minimum(first + 2, size)], [_MOST_ENTRIES * _ENTRY]), [_MOST_ENTRIES, _ENTRY])
    low, high = tf.where(little, 0, 1), tf.where(little, 1, 0)
    tags = tf.gather(rows, low, axis=1) + 256 * tf.gather(rows, high, axis=1)
    values = tf.gather(rows, 8 + low, axis=1) + 256 * tf.gather(rows, 8 + high, axis=1)
    wanted = (tags == _TAG) & (tf.range(_MOST_ENTRIES) < count)
    value = tf.reduce_max(tf.where(wanted, values, 0))
    return tf.where(inside & (value >= 1) & (value <= 8), value, _UPRIGHT)
