"""Asks exported models from Python, as `python -m trainer.predict` does, without TensorFlow where there is LiteRT."""

from __future__ import annotations

import dataclasses
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.format.owner import who_trains
from pipeline.native_output import native_output_hidden
from pipeline.progress import counted
from trainer.devices.chips import spare_metadata_server
from trainer.rundir import read_config
from trainer.serving import loading
from trainer.serving.prepare import Prepared

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.images.guarded import Spec
    from trainer.serving import predict as serving
    from trainer.serving.loading import Parts

# What `predict` takes: a file, a folder, a quoted pattern or a URL; an encoded image; a picture of Pillow's; uint8
# [H, W, 3] or [H, W], or several as [N, H, W, 3].
Images: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"
_KINDS = "files, encoded bytes, PIL images or uint8 arrays [H, W, 3] or [H, W]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """Says what a model says of an image.

    Attributes:
      name: of the file, or the URL; of other images, their place in what was asked.
      label: the likeliest; "" where there is no answer.
      probability: its own.
      probabilities: label → probability, the likeliest first.
      problem: why the image could not be read; "" where it could.
    """

    name: str
    label: str
    probability: float
    probabilities: Mapping[str, float]
    problem: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Holds an exported model.

    Attributes:
      path: of the form that is asked.
      labels: names, in the order of the model's numbers.
      parts: how it sees images, and what is asked.
    """

    path: str
    labels: tuple[str, ...]
    parts: Parts = dataclasses.field(repr=False)

    def predict(self, images: Images | Iterable[Images], *, batch_size: int = 32) -> list[Answer]:
        """Classifies images, each by the pixel policy of the dataset builder; pixels of arrays stay as they are.

        Args:
          images: one, or several in a list; a folder stands for all files below it.
          batch_size: images classified at a time.

        Returns:
          An answer for each image, in order; what cannot be read has a problem and no label.

        Raises:
          UsageError: what is asked about is no image; a pattern matches nothing.
        """
        if batch_size < 1:
            raise UsageError(f"--batch_size={batch_size}: must be positive")
        asked = list(_each(images))

        def read(place: str) -> bytes | Prepared | str:
            return _read(asked[int(place)][1], self.parts.spec)

        places = map(str, range(len(asked)))
        answers = self.stream(places, batch_size=batch_size, read=read)
        found = counted(answers, "predicting", total=len(asked))
        return [self._told(name, answer) for (name, _), answer in zip(asked, found, strict=True)]

    def stream(self, names: Iterable[str], *, batch_size: int, **how: Any) -> Iterator[serving.Answer]:
        """Yields answers to files and URLs, as `trainer.serving.predict.predict` does, whose arguments it takes."""
        from trainer.serving.predict import predict  # Pillow, and what decodes

        warnings.filterwarnings("ignore", module="PIL")  # on damaged files, which are reported in one line each
        return predict(self.parts, names, batch_size=batch_size, **how)

    def _told(self, name: str, answer: serving.Answer) -> Answer:
        if answer.problem:
            return Answer(name=name, label="", probability=0.0, probabilities={}, problem=answer.problem)
        order = (-answer.probabilities).argsort(kind="stable")
        probabilities = {self.labels[at]: float(answer.probabilities[at]) for at in order}
        label = self.labels[order[0]]
        return Answer(name=name, label=label, probability=probabilities[label], probabilities=probabilities)


def load_model(place: str | os.PathLike[str]) -> Model:
    """Loads an exported model.

    Args:
      place: a finished run; an export, of which the fastest form is taken, or one form in it; MODELS/champion.

    Raises:
      UsageError: there is none, or a library that it needs is absent.
      DataError: it is damaged.
    """
    given = os.fspath(place)
    try:
        loading.find_form(given)
    except UsageError:
        if not storage.exists(storage.join(given, "config.json")):
            raise
        given = export_of(given)
    found = loading.find_model(given)
    spare_metadata_server()
    with native_output_hidden():  # of TensorFlow, which reads a SavedModel
        parts = loading.load_parts(found, abreast=len(os.sched_getaffinity(0)))
    return Model(path=found, labels=tuple(parts.labels), parts=parts)


def export_of(run: str) -> str:
    """Finds the export of a run; UsageError where it is no run, or has none yet."""
    export = storage.join(run, "export")
    if not storage.exists(export):
        read_config(run)  # says if it is no run
        owner = who_trains(run)
        how = f"is still trained by {owner}" if owner else "has not ended"
        raise UsageError(
            f"--run={run}: the run {how}, so it has exported no model yet; python -m trainer.export --unfinished "
            f"--run={run} --output=DIR exports the best weights so far, for --model=DIR"
        )
    return export


def _each(images: Any) -> Iterator[tuple[str, Any]]:
    """Yields the name and content of every image that is meant."""
    if isinstance(images, str | os.PathLike):
        from trainer.serving.photos import find_images

        yield from ((name, name) for name in find_images([os.fspath(images)]))
    elif _is_one(images):
        yield "0", images
    elif isinstance(images, Iterable) and not isinstance(images, Mapping):
        for index, one in enumerate(images):
            if isinstance(one, str | os.PathLike):
                yield from _each(one)
            elif _is_one(one):
                yield str(index), one
            else:
                raise UsageError(f"image {index} is a {type(one).__name__}; give {_KINDS}")
    else:
        raise UsageError(f"a {type(images).__name__} is no image; give {_KINDS}")


def _is_one(image: object) -> bool:
    """Says whether something is one image, and not the name of some."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        return image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    return isinstance(image, bytes | Image.Image)


def _read(image: Any, spec: Spec | None) -> bytes | Prepared | str:
    """Returns the file of an image, or what the model takes of its pixels; or (a str) why that cannot be."""
    from PIL import Image, ImageOps

    from pipeline.images.model_pixels import pixels
    from trainer.serving.photos import read_source

    if isinstance(image, str):
        return read_source(image)
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            return f"it is {image.dtype}, and pixels are uint8, 0 to 255"
        image = Image.fromarray(image.squeeze(2) if image.ndim == 3 and image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    upright = ImageOps.exif_transpose(image)
    upright.save(buffer, "PNG")
    encoded = buffer.getvalue()
    if upright.mode not in ("RGB", "L"):  # what else Pillow holds (palettes, transparency) is the builder's to turn
        return encoded
    return Prepared(encoded=encoded, shown=pixels(encoded, spec) if spec is not None else encoded)
