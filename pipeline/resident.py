"""Keeps a small dataset decoded on the accelerator, so that a host feeds numbers instead of images.

All splits lie end to end in one variable, a copy on every replica. A batch says which images it wants and what is drawn
for each (`dataset.train_dataset` with cache="device"); they are rendered in the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from pipeline import reader
from pipeline.augment.config import AugmentConfig
from pipeline.augment.render import Renderer
from pipeline.augment.resampling import resample
from pipeline.format.manifest import DatasetVersion, Manifest
from pipeline.view import View

# Decoded before the first step, sent to other hosts in one message (of at most 2 GiB), and held by every replica.
MOST_BYTES = 1 << 30


def size(manifest: Manifest) -> int:
    """Counts the bytes of all images, each filled up to the height and width of the largest ones."""
    images = sum(manifest.num_examples(split) for split in manifest.splits)
    return images * manifest.max_height * manifest.max_width * 3


def obstacle(
    manifest: Manifest, augment: AugmentConfig, *, height: int, width: int, view: View, limit: int = MOST_BYTES
) -> str | None:
    """Says why a dataset cannot be kept on the accelerator and rendered there; None if it can.

    Args:
      augment: of training.
      height, width: of the images that come out.
      view: which part of an image is seen.
      limit: bytes that it may take.
    """
    if view.pads:
        return "resize=pad puts grey beside images, which the host does"
    if augment.policy:
        return f"policy={augment.policy} is applied to images on the host"
    if augment.moves and not augment.is_window:
        turned = [f"{name}={getattr(augment, name):g}" for name in ("rotation", "shear") if getattr(augment, name)]
        shifted = f"shift={augment.shift:g} with zoom={augment.zoom:g}, above 0.5 together,"
        return (
            f"{' and '.join(turned) or shifted} cannot be done to rows and columns one after the other, which is how "
            "images are rendered on a device; the host does it"
        )
    if Renderer.of(manifest, height=height, width=width, view=view, augment=augment).ratios > 1:
        return (
            f"images of up to {manifest.max_height}x{manifest.max_width} pixels are reduced to {height}x{width} while "
            "decoding, and would lie on the device at full size; --max_side of the build makes them smaller"
        )
    if (found := size(manifest)) > limit:
        return f"the decoded images take {found >> 20} MiB, and at most {limit >> 20} MiB are kept on a device"
    return None


def decoded(data: DatasetVersion) -> np.ndarray:
    """Decodes all images, split by split in file order.

    Returns:
      uint8 `[N, height * width * 3]` for the largest height and width; smaller images lie in the upper left corner.
    """
    manifest = data.manifest
    images = sum(manifest.num_examples(split) for split in manifest.splits)
    found = np.zeros((images, manifest.max_height, manifest.max_width, 3), np.uint8)
    for split in filter(manifest.num_examples, manifest.splits):
        columns = reader.read_columns(reader.readable(data, split), split, decode=True)
        pixels = np.asarray(columns.pixels)
        rows = zip(*(np.asarray(columns.rows[name]).tolist() for name in ("offset", "height", "width")), strict=True)
        for number, (offset, height, width) in enumerate(rows, reader.first_position(manifest, split)):
            of_image = pixels[offset : offset + height * width * 3]
            found[number, :height, :width] = of_image.reshape(height, width, 3)
    return found.reshape(images, -1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Resident:
    """Renders batches of images that lie on the accelerator, as `augment.render.finish` wants it.

    Attributes:
      pixels: uint8 `[N, h * w * 3]`, see `decoded`. Rows are flat because a TPU fills up the last axis to 128.
      source: (h, w).
      height, width: of the images that come out.
    """

    pixels: tf.Variable
    source: tuple[int, int]
    height: int
    width: int

    @classmethod
    def load(cls, data: DatasetVersion, *, height: int, width: int) -> Resident:
        """Decodes a dataset and lays it on every replica; call within `strategy.scope()`."""
        # Neither trained nor saved: it is in no model, and no checkpoint lists it.
        pixels = tf.Variable(decoded(data), trainable=False, name="resident_pixels")
        source = (data.manifest.max_height, data.manifest.max_width)
        return cls(pixels=pixels, source=source, height=height, width=width)

    def __call__(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Renders a batch of `dataset.train_dataset` or `eval_dataset`, float32 `[B, height, width, 3]`, 0..255."""
        positions = batch["position"]
        images = tf.reshape(tf.gather(self.pixels, positions), [positions.shape[0], *self.source, 3])
        return resample(images, batch, height=self.height, width=self.width)
