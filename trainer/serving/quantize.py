"""Makes a LiteRT model of 8-bit integers, and says whether it is as good as the one of floats.

Weights and activations are integers, calibrated on some training images (post-training quantisation, Jacob et al. 2018,
arXiv 1712.05877); what goes in and comes out stays float32, so that it takes the place of `model.tflite`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.format.manifest import TEST, TRAIN, VALIDATION, DatasetVersion
from pipeline.images.model_pixels import pixels
from pipeline.noninferiority import PairedCounts, images_needed, p_value
from trainer.models.weights import KERAS_FILE, LABELS_FILE
from trainer.serving.export import litert_converter
from trainer.serving.forms import PREPROCESS_FILE, TFLITE_FILE
from trainer.serving.litert import PROBABILITIES, open_litert

_CALIBRATED_ON, _JUDGED_ON = 200, 2_000  # images, at most
_MARGIN, _ALPHA = 0.02, 0.05
_BATCH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """Holds a quantised model and what it lost.

    Attributes:
      content: of the file.
      images: that both models answered.
      float_right, int8_right: how many of them each answered rightly.
      why_not: why it is not to be used; "" where it is as good.
    """

    content: bytes
    images: int
    float_right: int
    int8_right: int
    why_not: str


def quantize(export: pathlib.Path, data: DatasetVersion) -> Quantized:
    """Quantises the model of an export, and compares it with `model.tflite` on test and validation images.

    Args:
      export: its folder, local.
      data: the run's dataset.
    """
    spec = json.loads((export / PREPROCESS_FILE).read_text(encoding="utf-8"))
    labels = (export / LABELS_FILE).read_text(encoding="utf-8").splitlines()
    model = keras.models.load_model(export / KERAS_FILE, compile=False)
    content = _convert(model, itertools.islice(_images(data, TRAIN, spec), _CALIBRATED_ON))
    models = [open_litert(one) for one in ((export / TFLITE_FILE).read_bytes(), content)]
    right: list[tuple[bool, bool]] = []
    splits = [split for split in (TEST, VALIDATION) if split in data.manifest.splits]
    judged = itertools.islice(itertools.chain(*(_images(data, split, spec) for split in splits)), _JUDGED_ON)
    while batch := list(itertools.islice(judged, _BATCH)):
        images, names = np.stack([image for image, _ in batch]), [name for _, name in batch]
        answers = [ask(images)[PROBABILITIES].argmax(axis=1) for ask in models]
        right += [(labels[a] == name, labels[b] == name) for name, a, b in zip(names, *answers, strict=True)]
    return Quantized(
        content=content,
        images=len(right),
        float_right=sum(before for before, _ in right),
        int8_right=sum(after for _, after in right),
        why_not=_why_not(right),
    )


def _why_not(right: Sequence[tuple[bool, bool]]) -> str:
    """Says why a quantised model is not shown to be as good: exact test, see `pipeline.noninferiority`."""
    if not right:
        return "there is no test or validation image to judge it by"
    wins, losses = right.count((False, True)), right.count((True, False))
    p = p_value(PairedCounts(pairs=len(right), wins=wins, losses=losses), difference=-_MARGIN)
    if p <= _ALPHA:
        return ""
    needed = images_needed(margin=_MARGIN, alpha=_ALPHA)
    too_few = f"; that takes {needed} images at least" if len(right) < needed else ""
    return (
        f"of {len(right)} images it loses {losses} and wins {wins}: not shown to be worse by less than {_MARGIN:g} "
        f"(p = {p:.2g}, above {_ALPHA:g}){too_few}"
    )


def _images(data: DatasetVersion, split: str, spec: Mapping[str, Any]) -> Iterator[tuple[np.ndarray, str]]:
    for record in data.read(split):
        yield pixels(record.image, spec), data.manifest.labels[record.label]


def _convert(model: keras.Model, images: Iterator[tuple[np.ndarray, str]]) -> bytes:
    seen = [image[np.newaxis] for image, _ in images]
    with litert_converter(model) as converter:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image] for image in seen)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        content: bytes = converter.convert()
    return content
