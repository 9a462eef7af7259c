"""Writes index.html, where everything that a quickstart has made begins, and try.html. Free of TensorFlow.

The page is one file without scripts and without anything to download, but for what it links to.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.format import storage
from pipeline.format.manifest import STATISTICS_FILE, TEST, TRAIN, VALIDATION, DatasetVersion
from pipeline.format.rows import checks_folder, known_images
from pipeline.intervals import wilson_interval
from pipeline.pages.environment import environment
from pipeline.pages.findings import WORDS, Finding, Level, worst
from pipeline.predictions import Predictions
from trainer.quickstart.memory import Decision
from trainer.quickstart.model import Model
from trainer.quickstart.place import Place
from trainer.report.label_issues import LABEL_ISSUES

COMPARISON = "comparison.html"  # of fine-tuning with the head, image by image
_SHOWN = 10  # decisions


def write_page(place: Place, data: DatasetVersion, model: Model, decisions: Sequence[Decision]) -> None:
    """Writes the page.

    Args:
      place: where everything lies.
      data: the dataset, built of the photos as they are.
      model: the one that is taken.
      decisions: which models were taken and why, the oldest first.
    """
    text = environment(__package__).get_template("index.html.j2").render(_context(place, data, model, decisions))
    storage.write_atomically(place.page, text)


def write_try_page(place: Place, *, title: str) -> None:
    """Writes the page that asks the model, where what runs it in a browser is there and the page is not of now."""
    from trainer.serving.page.render import render_page  # LiteRT's schema takes half a second
    from trainer.serving.page.runtime import default_folder, read_runtime

    runtime = read_runtime(default_folder())
    if runtime is None or not _is_stale(place):
        return
    page = render_page(pathlib.Path(place.model).resolve(), title=title, runtime=runtime)
    storage.write_atomically(place.try_page, page)


def _is_stale(place: Place) -> bool:
    try:
        return os.stat(place.try_page).st_mtime_ns < os.lstat(place.model).st_mtime_ns
    except FileNotFoundError:
        return True


def example_photo(place: Place, data: DatasetVersion) -> str:
    """Names a photo that the models of a dataset have not learnt from: the first of the test split, by its name."""
    split = TEST if data.manifest.num_examples(TEST) else VALIDATION
    return storage.join(place.photos, min(known_images(data, split=split).sources))


def _context(place: Place, data: DatasetVersion, model: Model, decisions: Sequence[Decision]) -> dict[str, Any]:
    manifest = data.manifest
    sizes = {split: manifest.num_examples(split) for split in manifest.splits}
    check = _read(os.path.join(checks_folder(data), "check.json"))
    findings = [Finding(**one | {"level": Level(one["level"])}) for one in check["findings"]]
    judged = [split for split in (TEST, VALIDATION) if model.has_answers(split)]
    return {
        "name": manifest.name,
        "photos": place.photos,
        "root": place.root,
        "version": manifest.version,
        "images": sum(sizes.values()),
        "labels": manifest.labels,
        "sizes": {split: sizes[split] for split in (TRAIN, VALIDATION, TEST) if split in sizes},
        "left_out": _left_out(data),
        "verdict": check["verdict"],
        "findings": [one for one in findings if one.level is not Level.GREEN],
        "level": worst(findings),
        "words": WORDS,
        "model": model.words,
        "of_version": model.version,
        "judged": {split: _judged(model.answers(split)) for split in judged},
        "per_label": _per_label(model.answers(judged[0])),
        "split": judged[0],
        "decisions": decisions[-_SHOWN:][::-1],
        "photo": example_photo(place, data),
        "link": place.model,
        "data": place.data,
        "links": _links(place, data, model),
    }


def _read(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(storage.read_text(file))
    return found


def _left_out(data: DatasetVersion) -> Mapping[str, int]:
    """Counts the images that were refused, by reason."""
    return _read(os.path.join(data.path, STATISTICS_FILE)).get("rejects", {})


def _judged(answers: Predictions) -> dict[str, Any]:
    right, images = int(answers.correct.sum()), len(answers.ids)
    return {"right": right, "images": images, "share": right / images, "interval": wilson_interval(right, images)}


def _per_label(answers: Predictions) -> list[dict[str, Any]]:
    """Lists how many images of each label are found, the fewest first."""
    rows = []
    for index, name in enumerate(answers.names):
        of_label = answers.labels == index
        if images := int(of_label.sum()):
            right = int(np.count_nonzero(answers.correct & of_label))
            rows.append({"label": name, "right": right, "images": images, "share": right / images})
    return sorted(rows, key=lambda row: (row["share"], row["label"]))


def _links(place: Place, data: DatasetVersion, model: Model) -> dict[str, str | None]:
    """Returns the addresses, relative to the page, of what it links to; None for what is not there."""
    checks = checks_folder(data)
    places = {
        "images": os.path.join(data.path, "report.html"),
        "check": os.path.join(checks, "report.html"),
        "label_issues": os.path.join(checks, LABEL_ISSUES),
        "report": os.path.join(model.folder, "report.html"),
        "comparison": os.path.join(place.root, COMPARISON),
        "try_page": place.try_page,
        "log": place.log,
    }
    return {name: os.path.relpath(file, place.root) if os.path.exists(file) else None for name, file in places.items()}
