"""Measures the forms of an export on images whose answers are known: size, time, agreement, accuracy.

What is found lies in the export as forms.json, for the report.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.format.manifest import DatasetVersion
from pipeline.predictions import Predictions
from trainer.report.files import FORMS_FILE
from trainer.serving.forms import FORMS
from trainer.serving.loading import load_model
from trainer.serving.signature import Signature
from trainer.serving.verify import size_of

_BATCH = 16
_SINGLE = 8  # images asked about alone
_MOST_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Holds images that a model was asked about.

    Attributes:
      encoded: N of them.
      names: of their labels.
      expected: what the trained model answered, probabilities float32 [N, C].
    """

    encoded: Sequence[bytes]
    names: Sequence[str]
    expected: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Holds what was found of a form.

    Attributes:
      form: name of its file or folder.
      bytes: on disk.
      milliseconds: from the bytes of an image to its answer, median.
      milliseconds_of_16: from those of 16 images to their answers, median; None where there are fewer.
      images: that it was asked about.
      right: how many it answers rightly.
      same: how many it gives the label that the trained model gives.
      difference: the largest of a probability from the trained model's.
    """

    form: str
    bytes: int
    milliseconds: float
    milliseconds_of_16: float | None
    images: int
    right: int
    same: int
    difference: float


def draw_sample(found: Predictions, data: DatasetVersion, split: str, *, most: int = 100, seed: int = 0) -> Sample:
    """Draws images of a split, and what a model answered to them, in file order.

    Args:
      found: answers to the split.
      data: the dataset.
      split: its name.
      most: how many images.
      seed: of the draw.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(found.ids))[:most])
    wanted = {found.ids[at]: at for at in drawn}
    images = {record.id: record.image for record in data.read(split) if record.id in wanted}
    places = [at for image, at in wanted.items() if image in images]
    return Sample(
        encoded=[images[found.ids[at]] for at in places],
        names=[found.names[found.labels[at]] for at in places],
        expected=np.exp(found.log_probabilities[places]),
    )


def measure_forms(sample: Sample) -> Callable[[pathlib.Path], list[Measured]]:
    """Returns a function that measures every form of an export in a local folder, and writes forms.json into it."""

    def measure(export: pathlib.Path) -> list[Measured]:
        forms = [form for form in FORMS.values() if (export / form).exists()]
        found = [_measure(export / form, sample) for form in forms]
        text = json.dumps([dataclasses.asdict(one) for one in found], indent=2)
        (export / FORMS_FILE).write_text(text + "\n", encoding="utf-8")
        return found

    return measure


def _measure(form: pathlib.Path, sample: Sample) -> Measured:
    ask = load_model(str(form))
    ask(sample.encoded[:_BATCH])  # what is prepared on the first call
    answers: list[np.ndarray] = []
    labels: list[str] = []
    seconds: list[float] = []
    for start in range(0, len(sample.encoded), _BATCH):
        if sum(seconds) > _MOST_SECONDS:  # of a large model on a small machine
            break
        taken, found = _timed(ask, sample.encoded[start : start + _BATCH])
        answers.append(found["probabilities"])
        labels += [label.decode() for label in found["label"]]
        seconds.append(taken)
    probabilities, expected = np.concatenate(answers), sample.expected[: len(labels)]
    full = seconds[: len(labels) // _BATCH]
    ask(sample.encoded[:1])
    single = [_timed(ask, [image])[0] for image in sample.encoded[:_SINGLE]]
    return Measured(
        form=form.name,
        bytes=size_of(form),
        milliseconds=1e3 * statistics.median(single),
        milliseconds_of_16=1e3 * statistics.median(full) if full else None,
        images=len(labels),
        right=sum(label == name for label, name in zip(labels, sample.names, strict=False)),
        same=int((probabilities.argmax(axis=1) == expected.argmax(axis=1)).sum()),
        difference=float(np.abs(probabilities - expected).max()),
    )


def _timed(ask: Signature, encoded: Sequence[bytes]) -> tuple[float, dict[str, np.ndarray]]:
    start = time.perf_counter()
    found = ask(encoded)
    return time.perf_counter() - start, found
