"""Keeps the model registry: a folder, or a place in a store, of numbered models, a champion and a decision log.

    MODELS/1/, MODELS/2/ …    one promoted model each, whole or absent
    MODELS/champion -> 2      what to serve (in a store the object CHAMPION, which holds the number)
    MODELS/serving/NAME/2     the champion's SavedModel alone, in the layout that TensorFlow Serving watches
    MODELS/decisions.jsonl    every decision with its reasons, one JSON object a line (in a store one object each)

A server that opens several files through the link should resolve it once (`os.path.realpath`) and read from there; the
numbered folders are never changed or removed. Every model has `SHA256SUMS`, which `sha256sum -c` reads, too; in a store
it is written last, and a folder without it is no model.

Order of a promotion: the folder (staged, flushed, renamed), the links, the line in the log. A pass killed in between
finds its own folder by the `pass_id` in `promotion.json` and goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.command import DataError, UsageError
from pipeline.format import storage, sums
from pipeline.format.local_copy import copy_to_disk
from retrain import ledger
from retrain.ledger import decisions

LABELS_FILE = "labels.txt"
PROMOTION_FILE = "promotion.json"
TRAINED_ON_FILE = "trained_on.txt"
ROLLED_BACK = "rolled back"  # decision
SERVING, SAVED_MODEL = "serving", "saved_model"
_GRAPH = "saved_model.pb"  # what a server waits for
_STAGING = ".staging-"


@dataclasses.dataclass(frozen=True)
class Model:
    """Describes a published model: its number and its folder, which never changes again."""

    number: int
    path: str

    def file(self, name: str) -> str:
        """Returns the path of one of its files."""
        return storage.join(self.path, name)

    def labels(self) -> list[str]:
        """Names the classes that it can answer, in order."""
        return storage.read_text(self.file(LABELS_FILE)).splitlines()

    def trained_on(self) -> frozenset[str]:
        """Lists the ids of the images that it was trained or selected on; empty where nobody has noted them."""
        return frozenset(_text(self.file(TRAINED_ON_FILE)).split())

    def promotion(self) -> dict[str, Any]:
        """Reads the decision that promoted it; {} of a model that somebody copied in by hand."""
        record: dict[str, Any] = json.loads(_text(self.file(PROMOTION_FILE)) or "{}")
        return record

    def dataset(self) -> str:
        """Names the version that it was trained on, as a path; "" where nobody has noted it."""
        return str(self.promotion().get("dataset", ""))


def _text(file: str) -> str:
    try:
        return storage.read_text(file)
    except FileNotFoundError:
        return ""


def models(root: str) -> list[Model]:
    """Lists all published models, by number."""
    try:
        entries = storage.list_folder(root)
    except FileNotFoundError:
        return []
    numbers = sorted(int(entry.name) for entry in entries if entry.is_folder and entry.name.isdecimal())
    found = [Model(number, storage.join(root, str(number))) for number in numbers]
    return [model for model in found if not storage.is_remote(root) or storage.exists(model.file(sums.SUMS_FILE))]


def champion(root: str) -> Model | None:
    """Finds the model that the pointer names, None without a pointer; DataError if it points nowhere."""
    number = ledger.champion_number(root)
    if number is None:
        return None
    model = Model(number, storage.join(root, str(number)))
    if not storage.exists(model.path):
        raise DataError(
            f"{storage.join(root, ledger.CHAMPION)} points to {number}, which is no model; let it point to a numbered "
            "one or remove it"
        )
    return model


def numbered(root: str, number: int) -> Model:
    """Finds a model by its number; UsageError where there is none."""
    known = {model.number: model for model in models(root)}
    if number not in known:
        raise UsageError(f"{root} has no model {number} (it has {', '.join(map(str, known)) or 'none'})")
    return known[number]


def clean(root: str) -> None:
    """Removes from a folder what was left staged by a process that was killed. Only for the holder of the lock."""
    if storage.is_remote(root):
        return
    for child in pathlib.Path(root).glob(f"{_STAGING}*"):
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def find(root: str, pass_id: str) -> Model | None:
    """Finds the model that the pass of this id has published already."""
    for model in reversed(models(root)):
        if model.promotion().get("pass_id") == pass_id:
            return model
    return None


def next_number(root: str) -> int:
    """Returns the number of the model that is published next."""
    return max((model.number for model in models(root)), default=0) + 1


def publish(
    root: str, contents: Mapping[str, str], promotion: Mapping[str, Any], *, number: int | None = None
) -> Model:
    """Publishes `root/<number>/`, whole or not at all.

    Args:
      root: the registry.
      contents: name in the model's folder → the file or folder to copy.
      promotion: the decision with its `pass_id`; becomes `promotion.json`.
      number: `next_number` if not given.
    """
    storage.make_folder(root)
    number = number or next_number(root)
    model = Model(number, storage.join(root, str(number)))
    with _staged(root, number) as stage:
        for name, source in contents.items():
            copy_to_disk(source, os.path.join(stage, name))
        text = json.dumps({**promotion, "model": number}, indent=2, ensure_ascii=False) + "\n"
        (stage / PROMOTION_FILE).write_text(text, encoding="utf-8")
        sums.write_sums(stage)
        if storage.is_remote(root):
            _upload(stage, model)
        else:
            _rename(stage, model)
    return model


@contextlib.contextmanager
def _staged(root: str, number: int) -> Iterator[pathlib.Path]:
    """Yields a folder to put a model together in: on the registry's own disk, where it can be renamed."""
    if storage.is_remote(root):
        with tempfile.TemporaryDirectory() as directory:
            yield pathlib.Path(directory)
        return
    stage = pathlib.Path(root, f"{_STAGING}{number}")
    stage.mkdir()
    yield stage


def _rename(stage: pathlib.Path, model: Model) -> None:
    # The rename must not reach the disk before the bytes: after a power cut the number would stand for empty files.
    for folder, _, files in os.walk(stage, topdown=False):
        for file in files:
            ledger.fsync(pathlib.Path(folder, file))
        ledger.fsync(folder)
    os.rename(stage, model.path)
    ledger.fsync(os.path.dirname(model.path))


def _upload(stage: pathlib.Path, model: Model) -> None:
    storage.delete(model.path)  # what a killed pass has left
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == sums.SUMS_FILE):
        storage.write_atomically(model.file(path.relative_to(stage).as_posix()), path.read_bytes())


def require_whole(model: Model) -> None:
    """Raises DataError if a file of a model is not what was published."""
    if found := sums.damage(model.path):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise DataError(
            f"{model.path} is damaged: {found[0]}{more}; put its files back, or let python -m retrain.models rollback "
            f"--models={os.path.dirname(model.path)} take the champion before"
        )


def set_champion(root: str, model: Model) -> None:
    """Points `champion`, and what is served, at a published model, each atomically."""
    ledger.point(root, model.number)
    if not storage.exists(model.file(SAVED_MODEL)):
        return
    name = str(model.promotion().get("name", "model"))
    folder = storage.join(root, SERVING, name)
    number = str(model.number)
    if storage.is_remote(root):
        _copy_served(model, storage.join(folder, number))
        others = [entry.name for entry in storage.list_folder(folder) if entry.name != number]
    else:
        storage.make_folder(folder)
        target = os.path.join("..", "..", number, SAVED_MODEL)
        ledger.replace_link(storage.join(folder, number), target, staging=root)
        others = [other.name for other in os.scandir(folder) if other.is_symlink() and other.name != number]
    for other in others:  # a server takes the highest number that it finds
        storage.delete(storage.join(folder, other))
    if not storage.is_remote(root):
        ledger.fsync(folder)


def _copy_served(model: Model, target: str) -> None:
    """Copies a SavedModel inside of a store, the file that a server waits for last."""
    with tempfile.TemporaryDirectory() as directory:
        copy_to_disk(model.file(SAVED_MODEL), directory)
        files = [path for path in pathlib.Path(directory).rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == _GRAPH):
            name = path.relative_to(directory).as_posix()
            storage.write_atomically(storage.join(target, name), path.read_bytes())


def predecessor(root: str, model: Model) -> Model | None:
    """Finds the champion that a champion replaced when it was promoted; None where there was none, or it is gone.

    Not the one that was rolled back for it: who rolls back twice goes back twice.
    """
    for record in reversed(decisions(root)):
        if record.get("decision") == ROLLED_BACK:
            continue
        before = record.get("champion_before")
        if record.get("champion_after") == model.number and before not in (None, model.number):
            found = Model(before, storage.join(root, str(before)))
            return found if storage.exists(found.path) else None
    return None


def passes(root: str) -> list[dict[str, Any]]:
    """Reads the decisions that passes have made, not those made by hand, oldest first."""
    return [record for record in decisions(root) if "pass_id" in record]
