"""Augments whole batches: by MixUp and CutMix, which are reproducible, and by policies of keras-cv, which are not.

MixUp: Zhang et al., arXiv 1710.09412. CutMix: Yun et al., arXiv 1905.04899. The images of an epoch are mixed in pairs:
the first with the second, the third with the fourth. Pairs never straddle batches of an even size, so the result
depends neither on the batch size nor on the number of hosts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipeline.augment.random_bits import uniforms
from pipeline.command import UsageError, nearest

# name → class in keras_cv.layers and its arguments.
POLICIES = {
    "randaugment": ("RandAugment", {"value_range": (0, 255)}),
    "augmix": ("AugMix", {"value_range": (0, 255)}),
    "gridmask": ("GridMask", {}),
}

_LEVELS = 4096


def keras_cv_policy(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a keras-cv layer as a function of a batch, from float32 `[B, H, W, 3]` 0..255 to the same.

    Its random numbers are its own: a policy is not reproducible from (seed, epoch, record).

    Raises:
      UsageError: unknown name, or keras-cv is not installed.
    """
    if name not in POLICIES:
        raise UsageError(f'no policy "{name}"; known: {", ".join(POLICIES)}.{nearest(name, list(POLICIES))}')
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
    """Mixes images by MixUp, by CutMix, or by one of both, chosen at random for each image.

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

    def apply(self, images: tf.Tensor, labels: tf.Tensor, identities: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mixes every image with the other one of its pair; the last one of an odd number stays as it is.

        Args:
          images: float32 `[B, H, W, 3]`; labels: int32 `[B]`; identities: uint64 `[B]`.

        Returns:
          Images of the same shape; labels float32 `[B, num_classes]`, each summing to 1.
        """
        u = uniforms(identities, key=self.key, draws=4)
        level = tf.cast(u[:, 1] * _LEVELS, tf.int32)
        places = tf.range(tf.shape(images)[0])
        others = tf.minimum(tf.bitwise.bitwise_xor(places, 1), places[-1])
        partners = tf.gather(images, others)
        if self.mixup and self.cutmix:
            chosen = (u[:, 0] < 0.5)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            keep = tf.where(chosen, self._mixup_keep(level), self._cutmix_keep(level, u, images.shape))
        elif self.mixup:
            keep = self._mixup_keep(level)
        else:
            keep = self._cutmix_keep(level, u, images.shape)
        share = tf.reduce_mean(keep, axis=[1, 2])  # [B, 1]
        hot = tf.one_hot(labels, self.num_classes)
        return partners + (images - partners) * keep, hot * share + tf.gather(hot, others) * (1.0 - share)

    def _mixup_keep(self, level: tf.Tensor) -> tf.Tensor:
        """Looks up how much of each image stays, float32 `[B, 1, 1, 1]`."""
        return tf.gather(tf.constant(beta_quantiles(self.mixup)), level)[:, tf.newaxis, tf.newaxis, tf.newaxis]

    def _cutmix_keep(self, level: tf.Tensor, u: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
        """Masks a rectangle of the image's shape, maybe across the border: float32 `[B, H, W, 1]`, 0 inside, else 1."""
        side = tf.gather(tf.constant(np.sqrt(1.0 - beta_quantiles(self.cutmix))), level)

        def inside(centre: tf.Tensor, size: int) -> tf.Tensor:
            places = (tf.range(size, dtype=tf.float32) + 0.5) / size
            return tf.cast(tf.abs(places - centre[:, tf.newaxis]) < side[:, tf.newaxis] / 2.0, tf.float32)

        rows, columns = inside(u[:, 2], shape[1]), inside(u[:, 3], shape[2])
        return 1.0 - (rows[:, :, tf.newaxis] * columns[:, tf.newaxis, :])[..., tf.newaxis]
