"""Loads the model that answers, and lets it end when its last request has been answered."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.command import DataError, first_line
from pipeline.format import storage
from pipeline.format.answer_log import AnswerLog, served_name
from pipeline.format.sums import SUMS_FILE, damage
from pipeline.images.guarded import Spec
from pipeline.images.policy import Reject
from trainer.models.weights import LABELS_FILE
from trainer.serve.batcher import Batcher
from trainer.serve.protocols.bodies import Answer
from trainer.serving.forms import PREPROCESS_FILE
from trainer.serving.golden import ANSWERS, FOLDER
from trainer.serving.litert import FEATURES, PROBABILITIES
from trainer.serving.loading import Parts, find_form, load_parts
from trainer.serving.prepare import Prepared
from trainer.serving.verify import golden_images, problem_of

_DIGITS = 12  # of a digest, where there is no number
_WARM_UP = 4  # images at once
_GREY = b"P6 64 64 255\n" + bytes([127]) * 3 * 64 * 64  # a PPM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Says what is loaded, and of what state.

    Attributes:
      file: the form, a file or a SavedModel's folder.
      export: the folder that holds it, its links followed.
      state: changes whenever a file does that belongs to the model.
    """

    file: str
    export: str
    state: tuple[tuple[str, int, int, int], ...] = ()


def locate(model: str) -> Place:
    """Finds what `--model` means now. Links are followed once, so that all files are of one model.

    Raises:
      UsageError: there is no model.
    """
    if storage.is_remote(model):
        file = find_form(model)
        return Place(file=file, export=os.path.dirname(file.rstrip("/")))
    file = find_form(os.path.realpath(model))
    export = os.path.dirname(file)
    state = []
    for path in sorted(
        {*_files(file), *(os.path.join(export, name) for name in (LABELS_FILE, PREPROCESS_FILE, SUMS_FILE))}
    ):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(path)
            state.append((path, found.st_ino, found.st_size, found.st_mtime_ns))
    return Place(file=file, export=export, state=tuple(state))


def _files(form: str) -> list[str]:
    """Lists the files that tell a form from another one."""
    if storage.is_remote(form):
        return [form if os.path.splitext(form)[1] else storage.join(form, "saved_model.pb")]
    if not os.path.isdir(form):
        return [form]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(form) for name in names)


def version_of(place: Place) -> str:
    """Names a model: the number of its folder in a registry, or else some digits of its files' SHA-256."""
    number = os.path.basename(place.export)
    if number.isdecimal():
        return number
    digest = hashlib.sha256()
    for path in _files(place.file):
        with storage.open_file(path) as file:
            digest.update(file.read())
    return digest.hexdigest()[:_DIGITS]


class Model:
    """Answers for images; for the thread of the event loop, but for `submit`, which is for any."""

    def __init__(
        self,
        *,
        place: Place,
        parts: Parts,
        log: AnswerLog | None,
        most: int,
        observe: Callable[[int], None],
    ) -> None:
        """Starts the thread that asks the model. See `load`."""
        self.version = version_of(place)
        self.place = place
        self.log = log
        self.labels = parts.labels
        self.spec = parts.spec
        self._batcher: Batcher[Any, Answer] = Batcher(
            lambda images: _answers(parts.labels, parts.ask(images)), most=most, observe=observe
        )
        self._requests = 0
        self._retired = False

    def submit(self, image: Prepared) -> concurrent.futures.Future[Answer]:
        """Has the model asked about an image, prepared for its `spec`.

        Returns:
          what will hold the answer, or ValueError if it is a form that decodes by itself, and cannot.
        """
        return self._batcher.submit(image.shown)

    @contextlib.contextmanager
    def answering(self) -> Iterator[Model]:
        """Keeps the model for as long as a request takes."""
        self._requests += 1
        try:
            yield self
        finally:
            self._requests -= 1
            self._end_if_done()

    def retire(self) -> None:
        """Lets the model, and its log, end with its last request; waits for neither."""
        self._retired = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        if not self._retired or self._requests:
            return
        self._batcher.close()
        if self.log:  # it writes what it has; the process waits for that when it ends
            threading.Thread(target=self.log.close, name="end of a log").start()


def _answers(labels: Sequence[str], found: Mapping[str, np.ndarray]) -> list[Answer]:
    probabilities = found[PROBABILITIES]
    features = found.get(FEATURES)
    places = probabilities.argmax(axis=1).tolist()
    return [
        Answer(
            label=labels[at],
            class_index=at,
            probabilities=probabilities[row],
            features=None if features is None else features[row],
        )
        for row, at in enumerate(places)
    ]


Prepare = Callable[[Sequence[bytes], Spec | None], list[Prepared | Reject]]


def load(place: Place, *, prepare: Prepare, most: int, observe: Callable[[int], None], log: str | None = None) -> Model:
    """Loads a model and has it answer: the golden images of its export, where there are some, as they should be.

    Args:
      place: what to load.
      prepare: prepares images for a model, in guarded decoders.
      most: images that are answered together.
      observe: is told the size of each batch.
      log: folder for a log of its answers.

    Raises:
      UsageError: something that belongs to it is not there.
      DataError: it is damaged, or does not answer as it did when it was exported.
    """
    _check_sums(place)
    try:
        parts = load_parts(place.file)
    except (ValueError, RuntimeError, OSError) as error:
        raise DataError(f"{place.file}: cannot be loaded; damaged? ({first_line(error)})") from error
    _warm_up(place, parts, prepare)
    kept = AnswerLog(log, model=served_name(place.export), labels=parts.labels) if log else None
    return Model(place=place, parts=parts, log=kept, most=most, observe=observe)


def _check_sums(place: Place) -> None:
    """Raises DataError where a file of the model is not what was exported or published."""
    for part in (os.path.basename(place.file), LABELS_FILE, PREPROCESS_FILE):
        if damaged := damage(place.export, part=part):
            raise DataError(f"{place.export} is damaged: {damaged[0]}; export the model again")


def _warm_up(place: Place, parts: Parts, prepare: Prepare) -> None:
    images, expected = _known(place)
    found: list[np.ndarray] = []
    answered: list[int] = []
    try:
        # Few at once: a model, and what prepares images, keep the memory of the most that they have seen.
        for start in range(0, len(images), _WARM_UP):
            prepared = enumerate(prepare(images[start : start + _WARM_UP], parts.spec), start)
            # What a builder with another policy has accepted may be refused here.
            shown = {at: one.shown for at, one in prepared if isinstance(one, Prepared)}
            if shown:
                found.append(parts.ask([*shown.values()])[PROBABILITIES])
                answered += shown
        (grey,) = prepare([_GREY], parts.spec)
        assert isinstance(grey, Prepared)
        found.append(parts.ask([grey.shown])[PROBABILITIES])  # last one alone, as those to come
    except (ValueError, RuntimeError) as error:
        raise DataError(f"{place.file}: does not answer ({first_line(error)})") from error
    answers = np.concatenate(found)
    if answers.shape[1] != len(parts.labels):
        raise DataError(f"{place.file}: {answers.shape[1]} probabilities, and {LABELS_FILE} has {len(parts.labels)}")
    if not np.isfinite(answers).all():
        raise DataError(f"{place.file}: answers with what is no number")
    if answered and (problem := problem_of(os.path.basename(place.file), answers[:-1], expected[answered])):
        raise DataError(f"{place.file}: {problem}; it has changed from what it was exported with")


def _known(place: Place) -> tuple[list[bytes], np.ndarray]:
    """Reads the golden images of an export and their probabilities, float [N, C]; none where there are none."""
    export = pathlib.Path(place.export)
    if storage.is_remote(place.export) or not (export / FOLDER / ANSWERS).exists():
        return [], np.zeros((0, 0))
    golden = golden_images(export)
    return [image.file.read_bytes() for image in golden], np.array([image.probabilities for image in golden])
