"""Shows what the model will see: images as evaluation and as training epochs see them, on one sheet.

The pixels come from the very functions, seed and keys that training uses.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image, ImageDraw

from pipeline import reader
from pipeline.augment.batch import Mix, keras_cv_policy, mix
from pipeline.augment.config import AugmentConfig
from pipeline.augment.describe import describe
from pipeline.augment.own_policy import own_policy, seeds
from pipeline.augment.random_bits import stream_key
from pipeline.augment.render import Renderer
from pipeline.fonts import font_for
from pipeline.format import records, storage
from pipeline.format.manifest import DatasetVersion
from pipeline.own_code import is_own
from pipeline.view import View

_TEXT_HEIGHT, _LINE_HEIGHT, _TEXT_SIZE, _LEAST_CELL = 56, 12, 10, 128


def first_records(data: DatasetVersion, split: str, count: int) -> list[bytes]:
    """Reads the first serialized records of a split."""

    found: list[bytes] = []
    for path in data.shard_paths(split):
        with storage.open_file(path) as file:
            found += itertools.islice(records.read_frames(file), count - len(found))
    return found


def render_epochs(
    data: DatasetVersion,
    serialized: list[bytes],
    *,
    config: AugmentConfig,
    height: int,
    width: int,
    view: View,
    seed: int,
    epochs: int,
) -> tuple[np.ndarray, list[list[str]]]:
    """Renders records as evaluation and as the first epochs of training see them; `view`: as in `train_dataset`.

    Returns:
      uint8 `[records, 1 + epochs, height, width, 3]`, and a caption for each.
    """
    manifest = data.manifest
    config = dataclasses.replace(config, on_accelerator=False)  # the same functions, here
    plain = Renderer.of(manifest, height=height, width=width, view=view)
    renderer = Renderer.of(manifest, height=height, width=width, view=view, augment=config)
    columns = reader.parse(tf.constant(serialized), num_classes=manifest.num_classes)
    names = [manifest.labels[label] for label in columns["label"].numpy()]

    def render(chosen: Renderer, rows: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.stack([chosen.render({k: v[i] for k, v in rows.items()}) for i in range(len(serialized))])

    sheets, captions = [render(plain, columns)], [[[name] for name in names]]
    for epoch in range(epochs):
        key = tf.constant(stream_key(seed=seed, epoch=epoch, purpose="augment"), tf.uint64)
        images = render(renderer, renderer.draw(columns, key))
        if is_own(config.policy):
            own_key = tf.constant(stream_key(seed=seed, epoch=epoch, purpose="policy"), tf.uint64)
            pairs = zip(images, seeds(columns["identity"], key=own_key), strict=True)
            change = own_policy(config.policy, height=height, width=width)
            images = tf.stack([change(*pair) for pair in pairs])
        elif config.policy:
            images = keras_cv_policy(config.policy)(images)
        if config.mixes:
            mix_key = tf.constant(stream_key(seed=seed, epoch=epoch, purpose="mix"), tf.uint64)
            mixer = Mix(mixup=config.mixup, cutmix=config.cutmix, key=mix_key, num_classes=manifest.num_classes)
            images = mix(images, mixer.draw(columns["label"], columns["identity"], height=height, width=width))
        sheets.append(images)
        captions.append(describe(config, columns["identity"], key=key))
    pixels = tf.cast(tf.round(tf.stack(sheets, axis=1)), tf.uint8).numpy()
    return pixels, [["\n".join(column[row]) for column in captions] for row in range(len(serialized))]


def contact_sheet(pixels: np.ndarray, captions: list[list[str]]) -> Image.Image:
    """Pastes uint8 `[rows, columns, height, width, 3]` into one image, a caption below each cell."""
    rows, columns, height, width, _ = pixels.shape
    scale = max(1, -(-_LEAST_CELL // width))
    cell_width, cell_height = width * scale + 4, height * scale + _TEXT_HEIGHT
    sheet = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    unreadable: dict[str, str] = {}
    for row, column in itertools.product(range(rows), range(columns)):
        picture = Image.fromarray(pixels[row, column]).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        at = (column * cell_width, row * cell_height)
        sheet.paste(picture, at)
        for line, text in enumerate(captions[row][column].splitlines()):
            readable = font_for(text, size=_TEXT_SIZE) is not None
            shown = text if readable else unreadable.setdefault(text, f"({len(unreadable) + 1})")
            place = (at[0] + 2, at[1] + height * scale + 2 + line * _LINE_HEIGHT)
            draw.text(place, shown, fill="black", font=font_for(shown, size=_TEXT_SIZE))
    if unreadable:
        logging.warning(
            "no installed font has the characters of %s; install one, e.g. Noto Sans CJK; on the sheet: %s",
            next(iter(unreadable)),
            ", ".join(f"{number} {text}" for text, number in unreadable.items()),
        )
    return sheet
