"""Says how an image of any proportions becomes one of the output's: stretched, padded or cropped."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from pipeline.command import nearest

RESIZES = ("stretch", "pad", "crop")
FILL = 127.0  # beside a padded image: grey, which every mode of `pipeline.preprocess` but identity takes to about 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """Says which part of an image is seen, in training and evaluation alike.

    A view is a box around the image's centre. It becomes the whole output; augmentation moves it.

    Attributes:
      resize: "stretch": the image's own box, its proportions not kept. "pad": the smallest box of the output's
        proportions that holds the image, grey (`FILL`) where there is no image. "crop": the largest box of the output's
        proportions that the image holds.
      eval_centre: where no augmentation moves pixels, the view is a box of the output's proportions, its sides this
        fraction of those of the largest one (0.875: the usual resize of the shorter side to 256, then a crop of 224).
        0: as `resize` says.
    """

    resize: str = "stretch"
    eval_centre: float = 0.0

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            known = f'{", ".join(RESIZES)}, got "{self.resize}".{nearest(self.resize, RESIZES)}'
            raise ValueError(f"resize must be one of {known}")
        if not 0 <= self.eval_centre <= 1:
            raise ValueError(f"eval_centre must be in 0..1, got {self.eval_centre:g}")
        if self.resize == "pad" and self.eval_centre:
            raise ValueError(
                f"resize=pad shows whole images, and eval_centre={self.eval_centre:g} their centre: "
                "set eval_centre=0, or resize=crop"
            )

    @property
    def moved(self) -> View:
        """Returns the view that augmentation moves."""
        return dataclasses.replace(self, eval_centre=0.0)

    @property
    def pads(self) -> bool:
        return self.resize == "pad"

    @property
    def is_whole(self) -> bool:
        """Says whether the view is the image, its proportions not kept."""
        return self.resize == "stretch" and not self.eval_centre

    def factor(self, shape: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
        """Counts source pixels per output pixel, float32 `[...]`, of the axis that has fewer.

        Args:
          shape: int `[..., 2]`, heights and widths of the sources.
          height, width: of the output.
        """
        sides = tf.cast(shape, tf.float32) / tf.constant([height, width], tf.float32)
        if self.pads:
            return tf.reduce_max(sides, axis=-1)
        return tf.reduce_min(sides, axis=-1) * (self.eval_centre or 1.0)

    def sides(self, shape: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
        """Returns the sides of the box before they are rounded to pixels, float32 `[..., 2]`; arguments as `factor`."""
        if self.is_whole:
            return tf.cast(shape, tf.float32)
        factor = self.factor(shape, height=height, width=width)[..., tf.newaxis]
        return tf.constant([height, width], tf.float32) * factor

    def box(self, shape: tf.Tensor, *, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns where the box begins, float32 `[..., 2]`, and its size, int32 `[..., 2]`, in pixels of the source.

        It begins at a whole pixel. One that pads begins before the image, below 0 and maybe at half a pixel, and ends
        as far behind it.

        Args:
          shape: int32 `[..., 2]`, heights and widths of the sources.
          height, width: of the output.
        """
        if self.is_whole:
            return tf.zeros_like(shape, tf.float32), shape
        size = tf.cast(tf.round(self.sides(shape, height=height, width=width)), tf.int32)
        if self.pads:
            size = tf.maximum(size, shape)
            return tf.cast(shape - size, tf.float32) / 2.0, size
        size = tf.clip_by_value(size, 1, shape)
        return tf.cast((shape - size) // 2, tf.float32), size

    def covered(self, aspects: tf.Tensor, *, output_aspect: float) -> tf.Tensor:
        """Returns which part of the view's width and height the image takes, float32 `[N, 2]`: all, unless it pads.

        Args:
          aspects: float32 `[N]`, width / height of the sources; output_aspect: that of the output.
        """
        relative = tf.stack([aspects / output_aspect, output_aspect / aspects], axis=-1)
        return tf.minimum(relative, 1.0) if self.pads else tf.ones_like(relative)


STRETCH = View()


def placed(before: tf.Tensor, size: tf.Tensor, after: tf.Tensor, *, output: int) -> tf.Tensor:
    """Finds the output pixels that an image takes of an axis which reaches beyond it; one of them at least.

    Args:
      before, after: float32 `[...]`, source pixels of the axis before and after the image: whole ones and halves.
      size: int32 `[...]`, source pixels of the axis.
      output: output pixels of the axis.

    Returns:
      int32 `[..., 2]`: first and last + 1. Reversing the axis reverses them.
    """

    def pixels(source: tf.Tensor) -> tf.Tensor:
        return (tf.cast(2.0 * source, tf.int32) * output + size) // (2 * size)  # rounded

    first = tf.minimum(pixels(before), output - 1)
    return tf.stack([first, tf.clip_by_value(output - pixels(after), first + 1, output)], axis=-1)
