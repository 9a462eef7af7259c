"""Puts the parameters that an example is augmented with into words."""

from __future__ import annotations

import os

import tensorflow as tf

from pipeline.augment import places
from pipeline.augment.config import AugmentConfig
from pipeline.augment.random_bits import uniforms


def describe(config: AugmentConfig, identities: tf.Tensor, *, key: tf.Tensor) -> list[list[str]]:
    """Puts the parameters that `render.draw` gives each example into words, two a line; for people."""
    lines = []
    for u in uniforms(identities, key=key, draws=places.draws(config.cutout_count)).numpy():
        signed = u * 2.0 - 1.0
        words = {
            "flip": "flip" if config.flip and u[places.FLIP] < 0.5 else "",
            "shift": f"shift {signed[places.SHIFT_X] * config.shift:+.0%} {signed[places.SHIFT_Y] * config.shift:+.0%}",
            "zoom": f"zoom {1.0 / (1.0 + signed[places.ZOOM] * config.zoom):.2f}",
            "shear": f"shear {signed[places.SHEAR] * config.shear:+.2f}",
            "rotation": f"rotation {signed[places.ROTATION] * config.rotation:+.0f}",
            "random_resized_crop": f"crop {1 - (1 - u[places.CROP_AREA]) * (1 - config.random_resized_crop):.0%}",
            "brightness": f"brightness {signed[places.BRIGHTNESS] * config.brightness:+.0%}",
            "contrast": f"contrast {1 + signed[places.CONTRAST] * config.contrast:.2f}",
            "saturation": f"saturation {1 + signed[places.SATURATION] * config.saturation:.2f}",
            "hue": f"hue {signed[places.HUE] * config.hue * 360:+.0f}",
            "cutout_count": f"{config.cutout_count} cutouts",
            "mixup": "mixup",
            "cutmix": "cutmix",
            "policy": os.path.basename(config.policy),
        }
        used = [text for name, text in words.items() if getattr(config, name) and text]
        # Two to a line.
        lines.append([", ".join(used[i : i + 2]) for i in range(0, len(used), 2)])
    return lines
