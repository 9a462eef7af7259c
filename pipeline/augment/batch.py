"""Augments whole batches: by MixUp and CutMix, which are reproducible, and by policies of keras-cv, which are not.

MixUp: Zhang et al., arXiv 1710.09412. CutMix: Yun et al., arXiv 1905.04899. The images of an epoch are mixed in pairs:
the first with the second, the third with the fourth. Pairs never straddle batches of an even size, so the result
depends neither on the batch size nor on the number of hosts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from pipeline.augment.config import POLICIES, AugmentConfig
from pipeline.augment.random_bits import uniforms
from pipeline.command import UsageError

_LEVELS = 4096


def keras_cv_policy(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a keras-cv layer as a function of a batch, from float32 `[B, H, W, 3]` 0..255 to the same.

    `name`: in `POLICIES`. Its random numbers are its own: a policy is not reproducible from (seed, epoch, record).

    Raises:
      UsageError: keras-cv is not installed.
    """
    try:
        import keras_cv
    except ImportError as error:
        raise UsageError(f'policy "{name}" needs keras-cv: pip install keras-cv ({error})') from error
    layer_name, arguments = POLICIES[name]
    layer = getattr(keras_cv.layers, layer_name)(**arguments)
    return lambda images: tf.clip_by_value(tf.ensure_shape(layer(images, training=True), images.shape), 0.0, 255.0)


def beta_quantiles(alpha: float) -> np.ndarray:
    """Returns evenly spaced quantiles of Beta(alpha, alpha), float32 `[_LEVELS]`."""
    # With x = s^(1/alpha), density(x) dx is proportional to (1 - x)^(alpha - 1) ds: no pole on the lower half, and the
    # distribution is symmetric.
    s = np.linspace(0.0, 0.5**alpha, 20001)
    x = s ** (1.0 / alpha)
    density = (1.0 - x) ** (alpha - 1.0)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2.0 * np.diff(s))])
    levels = (np.arange(_LEVELS // 2) + 0.5) / _LEVELS
    lower = np.interp(levels, mass / mass[-1] / 2.0, x)
    return np.concatenate([lower, 1.0 - lower[::-1]]).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix:
    """Says how to mix images: by MixUp, by CutMix, or by one of both, chosen at random for each image.

    Attributes:
      mixup: alpha of MixUp's Beta distribution; 0 is off.
      cutmix: alpha of CutMix's Beta distribution; 0 is off.
      key: uint64 scalar from `random_bits.stream_key`.
      num_classes: length of the mixed label vectors.
    """

    mixup: float
    cutmix: float
    key: tf.Tensor
    num_classes: int

    def draw(self, labels: tf.Tensor, identities: tf.Tensor, *, height: int, width: int) -> dict[str, tf.Tensor]:
        """Draws how every image is mixed with the other one of its pair; the last one of an odd number is its own.

        Args:
          labels: int32 `[B]`; identities: uint64 `[B]`; height, width: of the images.

        Returns:
          "label" float32 `[B, num_classes]`, each summing to 1, and what `mix` takes: with MixUp "share" float32 `[B]`,
          how much of the image stays; with CutMix "box" float32 `[B, 3]`, where its partner shows: y and x of the
          centre and length of the sides, as fractions of the image's. With both an image gets one of them: of the
          other it has a share of 1, or a box of no size.
        """
        u = uniforms(identities, key=self.key, draws=4)
        level = tf.cast(u[:, 1] * _LEVELS, tf.int32)
        by_mixup = u[:, 0] < 0.5 if self.cutmix else tf.ones_like(level, tf.bool)
        stays = tf.ones_like(u[:, 0])
        drawn = {}
        if self.mixup:
            drawn["share"] = stays = tf.where(by_mixup, tf.gather(tf.constant(beta_quantiles(self.mixup)), level), 1.0)
        if self.cutmix:
            side = tf.gather(tf.constant(np.sqrt(1.0 - beta_quantiles(self.cutmix))), level)
            side = tf.where(by_mixup, 0.0, side) if self.mixup else side
            drawn["box"] = tf.stack([u[:, 2], u[:, 3], side], axis=-1)
            rows, columns = _inside(drawn["box"], height, width)
            stays *= 1.0 - tf.reduce_mean(rows, axis=-1) * tf.reduce_mean(columns, axis=-1)
        stays = stays[:, tf.newaxis]
        hot = tf.one_hot(labels, self.num_classes)
        return {"label": hot * stays + _partners(hot) * (1.0 - stays), **drawn}


def mix_columns(config: AugmentConfig) -> list[str]:
    """Names the columns that `mix` needs."""
    return ["share"] * bool(config.mixup) + ["box"] * bool(config.cutmix)


def mix(images: tf.Tensor, drawn: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Mixes float32 `[B, H, W, 3]` in pairs as `Mix.draw` says; may run on the accelerator, as XLA can compile it."""
    keep = tf.ones([1, 1, 1, 1])
    if "share" in drawn:
        keep = drawn["share"][:, tf.newaxis, tf.newaxis, tf.newaxis]
    if "box" in drawn:
        rows, columns = _inside(drawn["box"], images.shape[1], images.shape[2])
        keep *= 1.0 - (rows[:, :, tf.newaxis] * columns[:, tf.newaxis, :])[..., tf.newaxis]
    partners = _partners(images)
    return partners + (images - partners) * keep


def _partners(values: tf.Tensor) -> tf.Tensor:
    """Changes the places of the first and the second, the third and the fourth, and so on; an odd last one stays."""
    places = tf.range(tf.shape(values)[0])
    return tf.gather(values, tf.minimum(tf.bitwise.bitwise_xor(places, 1), places[-1]))


def _inside(box: tf.Tensor, height: int, width: int) -> list[tf.Tensor]:
    """Says which rows `[B, height]` and columns `[B, width]` a box covers, maybe across the border; float32, 1 or 0."""
    found = []
    for centre, size in ((box[:, :1], height), (box[:, 1:2], width)):
        places = (tf.range(size, dtype=tf.float32) + 0.5) / size
        found.append(tf.cast(tf.abs(places - centre) < box[:, 2:] / 2.0, tf.float32))
    return found
