"""Records → images 0..255: the one code that training, evaluation and the preview share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf

from pipeline import augment as augment_lib
from pipeline import geometry
from pipeline.augment import AugmentConfig
from pipeline.decode import decode_and_resize, decode_jpeg, resize, usable_ratios
from pipeline.preprocess import preprocess


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renderer:
    """Columns of records → images.

    Attributes:
      height, width: of the images that come out.
      largest: (height, width) that no record exceeds.
      augment: the identity for evaluation.
    """

    height: int
    width: int
    largest: tuple[int, int]
    augment: AugmentConfig = AugmentConfig()

    @property
    def ratios(self) -> int:
        """How many of `decode.RATIOS` can occur."""
        return usable_ratios(
            source_height=self.largest[0], source_width=self.largest[1], height=self.height, width=self.width
        )

    def draw(self, columns: dict[str, tf.Tensor], key: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds the augmentation parameters of N records, `[N, ...]` each.

        Args:
          columns: "identity", "height", "width" `[N]`, and whatever else is to be kept.
          key: uint64 scalar.
        """
        heights, widths = columns["height"], columns["width"]
        drawn = augment_lib.draw(
            self.augment,
            columns["identity"],
            key=key,
            aspect=tf.cast(widths, tf.float32) / tf.cast(heights, tf.float32),
            output_aspect=self.width / self.height,
        )
        if self.augment.moves:
            drawn |= geometry.source_windows(
                drawn["map"], heights, widths, height=self.height, width=self.width, count=self.ratios
            )
        return {**columns, **drawn}

    def render(self, row: dict[str, tf.Tensor], pixels: tf.Tensor | None = None) -> tf.Tensor:
        """One record with its parameters → float32 `[height, width, 3]`, 0..255.

        Args:
          row: one row of what `draw` returns; without augmentation a row of the columns does.
          pixels: all decoded images (`source.Columns.pixels`), where they are kept.
        """
        config, size = self.augment, {"height": self.height, "width": self.width}
        if pixels is not None:
            shape = tf.stack([row["height"], row["width"], 3])
            whole = tf.reshape(pixels[row["offset"] : row["offset"] + tf.cast(tf.reduce_prod(shape), tf.int64)], shape)

        def decoded(window: tf.Tensor | None = None) -> tf.Tensor:
            if pixels is None:
                return decode_jpeg(row["encoded"], index=row["ratio"], count=self.ratios, window=window)
            return (
                whole
                if window is None
                else tf.slice(whole, tf.pad(window[:2], [[0, 1]]), tf.concat([window[2:], [3]], 0))
            )

        if not config.moves:
            if pixels is None:
                image = decode_and_resize(row["encoded"], **size, largest=self.largest)
            else:
                image = resize(whole, **size)
        elif config.is_window:
            beyond = row["beyond"] if config.shift or config.zoom else None
            image = geometry.render_window(
                decoded(row["window"])[:, row["columns"][0] : row["columns"][1]], beyond, row["flip"], **size
            )
        else:
            image = geometry.warp(decoded(), row["map"], **size)
        if config.recolours:
            image = augment_lib.recolour(image, row["matrix"], row["contrast"], row["brightness"])
        if config.cutout_count:
            image = augment_lib.cut_out(image, row["cutouts"], fill=config.cutout_fill)
        return image


@functools.lru_cache(maxsize=32)
def traced_draw(renderer: Renderer) -> Callable[[dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]:
    """`Renderer.draw` as a function that is traced once a process, not once an epoch."""
    return tf.function(renderer.draw, autograph=False)


@functools.lru_cache(maxsize=32)
def traced_render(
    renderer: Renderer, mode: str | None
) -> Callable[[dict[str, tf.Tensor], tf.Tensor | None], tf.Tensor]:
    """`Renderer.render`, then `preprocess` unless `mode` is None, traced once a process."""

    def render(row: dict[str, tf.Tensor], pixels: tf.Tensor | None) -> tf.Tensor:
        image = renderer.render(row, pixels)
        return image if mode is None else preprocess(image, mode)

    return tf.function(render, autograph=False)
