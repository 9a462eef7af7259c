"""Builds datasets from Python, by the command that does: in a process of its own.

Beam's workers and the builder's limits on memory and threads belong to a process; in a notebook's, they would meet
TensorFlow, and Ctrl-C would end the notebook.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, cast

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.format.manifest import open_dataset
from pipeline.processes import command_line, error_of, wait_or_kill
from trainer.api.inputs import InMemory, is_in_memory, place_of, write_input
from trainer.api.notebook import in_a_cell

_BUILD = "beam_jobs.build_tfrecords"
_ERROR = "error: "  # begins the line that a command ends with
_HERE = str(pathlib.Path(__file__).resolve().parents[2])  # where the package lies, if it is not installed
_GRACE_SECONDS = 10  # for an interrupted build, which ends at once
_NO_BUILDS = ("dry_run", "help", "version", "template_location")  # flags with which the command builds nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """Describes a version of a dataset on disk.

    Attributes:
      path: the dataset's root, which every other call and command takes.
      version: that is current.
      labels: names, in the order of the label numbers.
      counts: split → label → images.
      left_out: reason → images that were refused.
      report: the page that shows it.
    """

    path: str
    version: str
    labels: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, int]
    report: str

    def _repr_html_(self) -> str:
        return in_a_cell(self.report)


def build_dataset(
    photos: str | os.PathLike[str] | InMemory,
    output: str | os.PathLike[str],
    *,
    source: str | None = None,
    name: str | None = None,
    label_names: Sequence[str] | None = None,
    splits: str | Mapping[str, float] | None = None,
    near_duplicates: Literal["keep", "drop", "group"] | None = None,
    small_classes: Literal["refuse", "train", "drop"] | None = None,
    max_side: int | None = None,
    min_side: int | None = None,
    exclude: str | os.PathLike[str] | None = None,
    relabel: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    **flags: object,
) -> Dataset:
    """Builds a dataset of images, or finds that it is built: `beam_jobs.build_tfrecords`.

    Args:
      photos: the folder, table or archive with the images; or the images, as `trainer.api.inputs` has them: a pair
        (images, labels) of arrays, a tf.data set of such pairs, or split → either of them. Arrays become PNGs, whose
        pixels are theirs.
      output: the dataset's root.
      source: where images come from: csv, cifar10, …; None: a folder.
      name: of the dataset.
      label_names: of in-memory labels that are numbers, from 0.
      splits: shares, {"train": 0.7, "test": 0.3}, or text as the command takes.
      near_duplicates: what becomes of images that look alike.
      small_classes: what becomes of classes with fewer images than splits.
      max_side: pixels, to which the longer side is shrunk.
      min_side: pixels; images with a shorter side are refused.
      exclude: a table of images to leave out.
      relabel: a table of images' right labels.
      seed: of the choice of splits.
      flags: any other flag of the command, and Beam's options, by their names: keep_versions=3.

    Raises:
      UsageError, DataError, TryAgainError, CommandError: as the command ends, with its text.
      KeyboardInterrupt: interrupted; called again, it goes on.
    """
    given: dict[str, object] = {
        "source": source,
        "name": name,
        "splits": ",".join(f"{k}:{v}" for k, v in splits.items()) if isinstance(splits, Mapping) else splits,
        "near_duplicates": near_duplicates,
        "small_classes": small_classes,
        "max_side": max_side,
        "min_side": min_side,
        "exclude": exclude,
        "relabel": relabel,
        "seed": seed,
        **flags,
    }
    for flag in _NO_BUILDS:
        if given.get(flag):
            raise UsageError(f"{flag} builds nothing; it is for the command: python -m {_BUILD} --{flag}")
    root = os.fspath(output)
    with _input(photos, label_names, given) as place:
        _run({**given, "input": place, "output": root})
    return read_dataset(root)


def read_dataset(path: str) -> Dataset:
    """Describes the current version of a dataset. Raises UsageError if there is none."""
    data = open_dataset(path)
    statistics = json.loads(storage.read_text(storage.join(data.path, "statistics.json")))
    return Dataset(
        path=path,
        version=data.manifest.version,
        labels=data.manifest.labels,
        counts={split: part["labels"] for split, part in statistics["splits"].items()},
        left_out=statistics["rejects"],
        report=storage.join(data.path, "report.html"),
    )


@contextlib.contextmanager
def _input(
    photos: str | os.PathLike[str] | InMemory, names: Sequence[str] | None, given: dict[str, object]
) -> Iterator[str]:
    """Yields where the builder finds the images; completes the flags for those that were in memory."""
    if not is_in_memory(photos):
        yield place_of(photos, names)
        return
    if given["source"]:
        raise UsageError(f"source={given['source']} names files, and the images are in memory; leave it out")
    given["source"], given["name"] = "arrays", given["name"] or "arrays"
    with tempfile.TemporaryDirectory() as folder:
        yield write_input(folder, cast(InMemory, photos), names=names)


def _run(flags: Mapping[str, object]) -> None:
    """Runs the builder, shows what it says, and raises what it ends with."""
    plain = {name: value for name, value in flags.items() if value is not None and not isinstance(value, list | tuple)}
    several = [f"--{name}={one}" for name, value in flags.items() if isinstance(value, list | tuple) for one in value]
    folders = os.pathsep.join(filter(None, (_HERE, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command_line(_BUILD, plain, several),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": folders, "PYTHONUNBUFFERED": "1"},  # lines come when they are said
        text=True,
        errors="replace",
    )
    said = ""
    try:
        for line in process.stdout or ():
            if said or line.startswith(_ERROR):  # which is the last that a command says
                said += line
            else:
                print(line, end="", flush=True)
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        wait_or_kill(process, seconds=_GRACE_SECONDS)
        raise
    if code == 128 + signal.SIGINT:
        raise KeyboardInterrupt("interrupted; call it again to continue")
    if code:
        text = said.removeprefix(_ERROR).rstrip()
        raise error_of(code, text or f"{_BUILD} ended with exit code {code}; what it said stands above")
