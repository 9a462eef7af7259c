"""Renders records as images 0..255: the one code that training, evaluation and the preview share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import tensorflow as tf

from pipeline.augment import colour, geometry, places
from pipeline.augment.batch import mix, mix_columns
from pipeline.augment.config import AugmentConfig
from pipeline.augment.random_bits import uniforms
from pipeline.decode import decode_and_resize, decode_jpeg, decode_jpeg_or_png, resize_view
from pipeline.format.manifest import Manifest
from pipeline.preprocess import preprocess
from pipeline.ratios import usable_ratios
from pipeline.view import STRETCH, View


def draw(
    config: AugmentConfig,
    identities: tf.Tensor,
    *,
    key: tf.Tensor,
    aspect: tf.Tensor,
    output_aspect: float,
    view: View = STRETCH,
) -> dict[str, tf.Tensor]:
    """Draws the augmentation parameters of N examples.

    Args:
      identities: uint64 `[N]`, from the record's id.
      key: uint64 scalar, `random_bits.stream_key` of seed, epoch and purpose.
      aspect: float32 `[N]`, width / height of each source image.
      output_aspect: width / height of the output.
      view: what is seen of an image that nothing moves.

    Returns:
      Only what the configuration uses: "map" `[N, 2, 3]`; "matrix" `[N, 3, 3]`, "contrast" `[N]`, "brightness" `[N]`;
      "cutouts" `[N, count, 4]`.
    """
    u = uniforms(identities, key=key, draws=places.draws(config.cutout_count))
    parameters = {}
    if config.moves:
        parameters["map"] = geometry.draw_map(config, u, aspect=aspect, output_aspect=output_aspect, view=view)
    if config.recolours:
        parameters["matrix"], parameters["contrast"], parameters["brightness"] = colour.draw_colour(config, u)
    if config.cutout_count:
        parameters["cutouts"] = colour.draw_cutouts(config, u)
    return parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renderer:
    """Renders columns of records as images.

    Attributes:
      height, width: of the images that come out.
      largest: (height, width) that no record exceeds.
      has_png: whether records may hold PNGs; see `Manifest.has_png`.
      augment: what training does to images; the default, for evaluation, does nothing.
      view: which part of an image is seen where the augmentation moves nothing, which else moves it.
      resident: whether the images lie decoded on the accelerator, which renders them (`pipeline.resident`).
    """

    height: int
    width: int
    largest: tuple[int, int]
    has_png: bool = False
    augment: AugmentConfig = AugmentConfig()
    view: View = STRETCH
    resident: bool = False

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        *,
        height: int,
        width: int,
        view: View,
        augment: AugmentConfig | None = None,
        resident: bool = False,
    ) -> Renderer:
        """Makes the renderer for a dataset version's records."""
        return cls(
            height=height,
            width=width,
            largest=(manifest.max_height, manifest.max_width),
            has_png=manifest.has_png,
            augment=augment or AugmentConfig(),
            view=view,
            resident=resident,
        )

    @property
    def ratios(self) -> int:
        """Counts how many of `ratios.RATIOS` can occur."""
        return usable_ratios(
            source_height=self.largest[0],
            source_width=self.largest[1],
            height=self.height,
            width=self.width,
            view=self.view.moved if self.augment.moves else self.view,
        )

    def draw(self, columns: dict[str, tf.Tensor], key: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds the augmentation parameters of N records, `[N, ...]` each, to their columns.

        Args:
          columns: "identity", "height", "width" `[N]`, and whatever else is to be kept.
          key: uint64 scalar.
        """
        heights, widths = columns["height"], columns["width"]
        drawn = draw(
            self.augment,
            columns["identity"],
            key=key,
            aspect=tf.cast(widths, tf.float32) / tf.cast(heights, tf.float32),
            output_aspect=self.width / self.height,
            view=self.view.moved,
        )
        if self.augment.moves:
            drawn |= geometry.source_windows(
                drawn["map"],
                heights,
                widths,
                height=self.height,
                width=self.width,
                view=self.view.moved,
                count=self.ratios,
                parts=self.augment.sees_parts and not self.resident,
            )
        return {**columns, **drawn}

    def render(self, row: dict[str, tf.Tensor], pixels: tf.Tensor | None = None) -> tf.Tensor:
        """Renders one record with its parameters, float32 `[height, width, 3]`, 0..255 (uint8 with `on_accelerator`).

        Args:
          row: one row of what `draw` returns; without augmentation a row of the columns does.
          pixels: all decoded images (`reader.Columns.pixels`), where they are kept.
        """
        config, size = self.augment, {"height": self.height, "width": self.width}
        if not config.moves:
            if pixels is None:
                image = decode_and_resize(row["encoded"], **size, view=self.view, largest=self.largest)
            else:
                image = resize_view(_kept(pixels, row), **size, view=self.view)
        else:
            part = row["window"] if config.is_window and config.sees_parts else None
            if pixels is None:
                decode = decode_jpeg_or_png if self.has_png else decode_jpeg
                decoded = decode(row["encoded"], index=row["ratio"], count=self.ratios, window=part)
            else:
                decoded = _kept(pixels, row)
                if part is not None:
                    decoded = decoded[part[0] : part[0] + part[2], part[1] : part[1] + part[3]]
            if config.is_window:
                overhangs = config.shift > 0 or config.zoom > 0
                image = geometry.render_window(decoded, row, **size, overhangs=overhangs)
            else:
                image = geometry.warp(decoded, row["map"], **size, view=self.view.moved)
        if config.on_accelerator:
            return tf.cast(tf.round(image), tf.uint8)
        return _colour_and_cut(image, row, config, products=True)


def _colour_and_cut(
    images: tf.Tensor, drawn: Mapping[str, tf.Tensor], config: AugmentConfig, *, products: bool
) -> tf.Tensor:
    """Applies the part of an augmentation that leaves pixels where they are, to an image or a batch."""
    if config.recolours:
        change = drawn["matrix"], drawn["contrast"], drawn["brightness"]
        images = colour.recolour(images, *change, products=products)
    if config.cutout_count:
        images = colour.cut_out(images, drawn["cutouts"], fill=config.cutout_fill)
    return images


def finish(
    batch: Mapping[str, tf.Tensor],
    config: AugmentConfig,
    mode: str,
    resident: Callable[[Mapping[str, tf.Tensor]], tf.Tensor] | None = None,
) -> tf.Tensor:
    """Does in the step what the host has left to it: renders, colours, cuts out, mixes, preprocesses.

    Args:
      batch: of `dataset.train_dataset` or `eval_dataset`: "image" `[B, H, W, 3]` and, if it is uint8,
        `finish_columns(config)`; or what `resident` takes in place of the image, and those columns.
      config: the dataset's augmentation; mode: its preprocessing.
      resident: renders images that lie on the accelerator, float32 `[B, H, W, 3]`, 0..255 (`resident.Resident`).

    Returns:
      float32 `[B, H, W, 3]`, preprocessed. Images that the host has finished come back as they are.
    """
    if "image" not in batch:
        if resident is None:
            raise ValueError(f"a batch without images needs `resident`, got {', '.join(batch)}")
        images = resident(batch)
        images = tf.round(images) if config.on_accelerator else images
    elif batch["image"].dtype == tf.uint8:
        images = tf.cast(batch["image"], tf.float32)
    else:
        return batch["image"]
    images = _colour_and_cut(images, batch, config, products=False)
    return preprocess(mix(images, batch) if config.mixes else images, mode)


def finish_columns(config: AugmentConfig) -> list[str]:
    """Names the columns, besides the image, that `finish` needs where it has something to do."""
    return [
        *(["matrix", "contrast", "brightness"] * config.recolours),
        *(["cutouts"] * bool(config.cutout_count)),
        *mix_columns(config),
    ]


def _kept(pixels: tf.Tensor, row: dict[str, tf.Tensor]) -> tf.Tensor:
    """Takes a record's image, uint8 `[h, w, 3]`, out of all decoded images."""
    shape = tf.stack([row["height"], row["width"], 3])
    return tf.reshape(pixels[row["offset"] : row["offset"] + tf.cast(tf.reduce_prod(shape), tf.int64)], shape)


@functools.lru_cache(maxsize=32)
def traced_draw(renderer: Renderer) -> Callable[[dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]:
    """Returns `Renderer.draw` as a function that is traced once a process, not once an epoch."""
    return tf.function(renderer.draw, autograph=False)


@functools.lru_cache(maxsize=32)
def traced_render(
    renderer: Renderer, mode: str | None
) -> Callable[[dict[str, tf.Tensor], tf.Tensor | None], tf.Tensor]:
    """Returns `Renderer.render`, then `preprocess` unless `mode` is None or `finish` does it, traced once a process."""

    def render(row: dict[str, tf.Tensor], pixels: tf.Tensor | None) -> tf.Tensor:
        image = renderer.render(row, pixels)
        return image if mode is None or renderer.augment.on_accelerator else preprocess(image, mode)

    return tf.function(render, autograph=False)
