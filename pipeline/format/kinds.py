"""Tells what lies at a path that is not what a flag wants, and which flag or command it is for. Free of TensorFlow.

It only looks: a folder is known by the files in it, and of a large one the first few are enough.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.command import nearest
from pipeline.format import storage

# As Pillow opens them; the builder decides by content.
_IMAGES = (".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif", ".ppm", ".jfif")
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq")
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_CIFAR = {"data_batch_1": "cifar10", "data_batch_1.bin": "cifar10", "train.bin": "cifar100"}
_FOLDERS_LOOKED_INTO = 4
_BUILD, _TRAIN = "python -m beam_jobs.build_tfrecords", "python -m trainer.main"

# What may lie in a folder.
RUN = "a training run"
DATASET = "a dataset"
VERSION = "a version of a dataset"
REGISTRY = "a registry of models"
MODEL = "an exported model"
QUICKSTART = "what a quickstart has made"
CHECK = "what trainer.check has found"
PHOTOS = "a folder of images"


@dataclasses.dataclass(frozen=True)
class _Folder:
    """Holds a look at a folder: its path, without a slash at its end, and the names in it."""

    path: str
    files: Sequence[str]
    folders: Sequence[str]

    @classmethod
    def look(cls, path: str) -> _Folder | None:
        """Lists a folder; None where there is none, or it cannot be read."""
        try:
            entries = storage.list_folder(path)
        except OSError:
            return None
        files = [entry.name for entry in entries if not entry.is_folder]
        return cls(path.rstrip("/") or path, files, [entry.name for entry in entries if entry.is_folder])

    def has(self, *names: str) -> bool:
        return any(name in self.files or name in self.folders for name in names)

    def within(self, name: str) -> str:
        return storage.join(self.path, name)

    @property
    def parent(self) -> str:
        return os.path.dirname(self.path if storage.is_remote(self.path) else os.path.abspath(self.path))

    @property
    def is_run(self) -> bool:
        return self.has("config.json") and (
            self.has("checkpoints", "metrics.jsonl") or "recipe" in _object(self.within("config.json"))
        )

    @property
    def is_dataset(self) -> bool:
        return self.has("CURRENT", "manifest.json")

    @property
    def is_model(self) -> bool:
        return self.has("saved_model", "saved_model.pb")

    @property
    def is_registry(self) -> bool:
        return self.has("champion", "CHAMPION", "decisions.jsonl")

    @property
    def is_quickstart(self) -> bool:
        return self.has("quickstart.json")

    @property
    def kind(self) -> str | None:
        """Names what lies in it; None for nothing that is known."""
        looks = {
            QUICKSTART: lambda: self.is_quickstart,
            RUN: lambda: self.is_run,
            VERSION: lambda: self.has("manifest.json"),
            DATASET: lambda: self.is_dataset,
            REGISTRY: lambda: self.is_registry,
            MODEL: lambda: self.is_model,
            CHECK: lambda: self.has("check.json", "label_issues.csv"),
            PHOTOS: lambda: self.images or any(below.images for below in self.below()),
        }
        return next((kind for kind, is_it in looks.items() if is_it()), None)

    def below(self) -> Iterator[_Folder]:
        """Yields the first folders in it that are not hidden."""
        for name in [name for name in self.folders if not name.startswith(".")][:_FOLDERS_LOOKED_INTO]:
            if found := _Folder.look(self.within(name)):
                yield found

    @property
    def images(self) -> bool:
        return any(name.lower().endswith(_IMAGES) for name in self.files)

    @property
    def class_folders(self) -> bool:
        """Says whether folders in it, or in those, hold images."""
        below = list(self.below())
        return any(folder.images for folder in below) or any(
            deeper.images
            for folder in below
            for name in folder.folders[:_FOLDERS_LOOKED_INTO]
            if (deeper := _Folder.look(folder.within(name)))
        )


def no_dataset(path: str) -> str:
    """Says what lies at a path that is no dataset of ours, and how to come by one: for behind "…: not a dataset; "."""
    folder = _Folder.look(path)
    if folder is None:
        return _file_for_dataset(path)
    if folder.is_quickstart:
        return f"it is {QUICKSTART}, whose dataset is {folder.within('data')}"
    if folder.is_run:
        trained_on = _value(folder.within("config.json"), "data")
        return f"it is a training run{f', whose dataset is {trained_on}' if trained_on else ''}"
    above = _Folder.look(folder.parent)
    if above and above.is_dataset:
        return f"it belongs to the dataset {above.path}"
    known = (folder.is_model and f"it is {MODEL}") or (folder.is_registry and f"it is {REGISTRY}")
    return known or _from_known_publisher(folder) or _from_images(folder)


def no_run(path: str) -> str:
    """Says what lies at a path that is no run: for behind "…: no run; "."""
    folder = _Folder.look(path)
    above = _Folder.look(folder.parent if folder else os.path.dirname(path))
    if above and above.is_run:
        return f"the run is {above.path}"
    if folder and folder.is_quickstart:
        return f"it is {QUICKSTART}; its runs lie in {folder.within('runs')}"
    if folder and folder.is_dataset:
        return f"it is a dataset; {_TRAIN} --data={shlex.quote(folder.path)} --run=RUN trains on it"
    what = (folder and folder.kind) or (folder and folder.class_folders and PHOTOS)
    return f"{f'it is {what}; ' if what else ''}give the folder of a run of trainer.main"


def no_model(path: str) -> str:
    """Says what lies at a path that is no exported model: for behind "…: no exported model there; "."""
    folder = _Folder.look(path)
    above = _Folder.look(folder.parent if folder else os.path.dirname(path.rstrip("/")))
    if above and above.is_run:
        return f"python -m trainer.export --run={shlex.quote(above.path)} makes one"
    if folder and folder.is_quickstart:
        return f"it is {QUICKSTART}, whose model is {folder.within('model')}"
    if folder and folder.is_run:
        return _model_of_run(folder)
    if folder and folder.is_dataset:
        return f"it is a dataset; {_TRAIN} --data={shlex.quote(folder.path)} --run=RUN makes one, RUN/export"
    if folder and folder.has("champion"):
        return f"it is a registry, whose model is {folder.within('champion')}"
    return "make one with python -m trainer.export --run=RUN, or give the directory that holds saved_model/"


def _model_of_run(folder: _Folder) -> str:
    if (export := _Folder.look(folder.within("export"))) and export.is_model:
        return f"it is the run whose model is {export.path}"
    return f"it is a run; python -m trainer.export --run={shlex.quote(folder.path)} makes one of it"


def kind_of(path: str) -> str | None:
    """Names what lies in a folder, one of those above; None for nothing that is known, or no folder."""
    folder = _Folder.look(path)
    return folder.kind if folder else None


def nearest_sibling(path: str) -> str:
    """Returns ` Did you mean "x"?` for the name in the same local folder that is most like it, or an empty string."""
    if storage.is_remote(path):
        return ""
    folder = _Folder.look(os.path.dirname(path.rstrip("/")) or ".")
    name = os.path.basename(path.rstrip("/"))
    return nearest(name, folder.folders) if folder and name else ""


def _from_known_publisher(folder: _Folder) -> str | None:
    """Speaks of what our builder has left, of archives that it knows, and of sets that TFDS has prepared."""
    if folder.has("versions", ".build"):
        return (
            "a build that has not come to its end left it; run that build's command again: "
            f"{_BUILD} --input=PHOTOS --output={shlex.quote(folder.path)}"
        )
    if source := next((source for file, source in _CIFAR.items() if folder.has(file)), None):
        return f"it is {source}; {_build(folder.path, source=source)}"
    if folder.has("images") and folder.has("annotations"):
        return f"it is Oxford-IIIT Pet; {_build(folder.path, source='oxford_pets')}"
    prepared = folder.path if folder.has("dataset_info.json") else _prepared_below(folder)
    return f"TFDS has prepared it; {_build(prepared, source='tfds')}" if prepared else None


def _build(path: str, *, source: str = "") -> str:
    """Returns the command that builds a dataset of what lies at `path`, and what to give then."""
    base = path.rstrip("/") if storage.is_remote(path) else os.path.normpath(path)
    if os.path.basename(base) in ("", ".", ".."):
        base = os.path.abspath(base)
    root = base.removesuffix(_ending(base, (*_TABLES, *_ARCHIVES)))
    named = f" --source={source}" if source else ""
    output = shlex.quote(f"{root}-dataset")
    return f"build a dataset: {_BUILD}{named} --input={shlex.quote(path)} --output={output} (then give {output})"


def _ending(name: str, suffixes: Sequence[str]) -> str:
    """Returns the longest of the suffixes that a name ends with, or an empty string."""
    return max((suffix for suffix in suffixes if name.lower().endswith(suffix)), key=len, default="")


def _prepared_below(folder: _Folder) -> str | None:
    """Finds a set that TFDS has prepared in `NAME/1.0.0` or `NAME/config/1.0.0`; the last in the order of names."""
    for name in reversed(folder.folders[-_FOLDERS_LOOKED_INTO:]):
        below = _Folder.look(folder.within(name))
        if below and below.has("dataset_info.json"):
            return below.path
    return None


def _file_for_dataset(path: str) -> str:
    folder, name = os.path.split(path)
    if name in ("manifest.json", "CURRENT") or ".tfrecord" in name:
        return f"it is a file of the dataset {folder or '.'}"
    if _ending(name, _TABLES):
        return f"it is a table; {_build(path, source='table')}"
    if name.startswith("cifar-10"):
        return f"it is an archive; {_build(path, source='cifar100' if name.startswith('cifar-100') else 'cifar10')}"
    if _ending(name, _ARCHIVES):
        return f"it is an archive; unpack it, and build a dataset of the folder: {_BUILD} --input=FOLDER --output=DATA"
    if _ending(name, _IMAGES):
        return f"it is an image; put each class's images into a folder of its own, and {_BUILD} --input=… --output=DATA"
    return f"it is no folder; build a dataset with {_BUILD} --input=PHOTOS --output=DATA"


def _from_images(folder: _Folder) -> str:
    """Speaks of folders of images, or of tables of them."""
    if folder.class_folders:
        return f"it is a folder of images; {_build(folder.path)}"
    if folder.images:
        above = _Folder.look(folder.parent)
        others = [name for name in above.folders if name != os.path.basename(folder.path)] if above else []
        if above and any(_holds_images(above.within(name)) for name in others[:_FOLDERS_LOOKED_INTO]):
            return f"it is one class of {above.path}; {_build(above.path)}"
        return f"images lie directly in it; put those of each class into a folder of its own, and {_build(folder.path)}"
    if tables := [name for name in folder.files if _ending(name, _TABLES)]:
        return f"there is a table in it; {_build(folder.within(tables[0]), source='table')}"
    if not folder.files and not folder.folders:
        return f"it is empty; build one there: {_BUILD} --input=PHOTOS --output={shlex.quote(folder.path)}"
    return f"build one with {_BUILD} --input=PHOTOS --output=DATA"


def _holds_images(path: str) -> bool:
    folder = _Folder.look(path)
    return bool(folder and folder.images)


def _value(file: str, key: str) -> str:
    """Reads a text out of a JSON object; empty where it is not there."""
    value = _object(file).get(key)
    return value if isinstance(value, str) else ""


def _object(file: str) -> dict[str, Any]:
    """Reads a JSON object; an empty one where there is none."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(storage.read_text(file))
        if isinstance(content, dict):
            return content
    return {}
