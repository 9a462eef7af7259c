"""Keeps a log of what a served model was asked and answered: numbered parts in a folder. NumPy only.

    DIR/answers-<first row, ms of Unix time>-<writer>-<number>.npz

A part is rewritten whole every few seconds until it is full, then the next one begins: a killed server loses the last
seconds, and a quiet one does not fill the folder with small files. Writers share nothing, so several processes may log
into one folder. No image is kept, only numbers of it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import io
import os
import threading
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from pipeline.command import UsageError, first_line
from pipeline.format import storage
from pipeline.format.reference import REFERENCE_FILE, half

_PREFIX, _SUFFIX = "answers-", ".npz"
_FORMAT = 1
_WAITING = 2_000  # answers that wait in memory for a slow disk; what is beyond is dropped
_IDENTITY = ("model.tflite", REFERENCE_FILE)  # files of an export, the first that is there tells it from others


def served_name(export: storage.Path) -> str:
    """Names an export in logs: its folder for people, and a digest that is the same wherever a copy of it lies.

    Args:
      export: folder of an export or of a model of a registry; what a link points to gives the name.

    Returns:
      For instance `7-1a2b3c4d`; the folder's name alone for an export without LiteRT and without reference.
    """
    folder = os.fspath(export).rstrip("/")
    name = os.path.basename(folder if storage.is_remote(folder) else os.path.realpath(folder))
    for file in _IDENTITY:
        with contextlib.suppress(FileNotFoundError):
            return f"{name}-{hashlib.sha256(storage.read(storage.join(folder, file))).hexdigest()[:8]}"
    return name


def digest_of(name: str) -> str:
    """Returns what of a `served_name` tells models apart: the digest, or the whole name where there is none."""
    return name.rpartition("-")[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    seconds: float
    probabilities: np.ndarray
    features: np.ndarray | None
    facts: Mapping[str, float]


class AnswerLog:
    """Writes a log, in a thread of its own, so that a request waits for no disk and fails for none.

    What cannot be written is warned of once and, in time, dropped. The thread begins with the first answer: a server
    may fork before.
    """

    def __init__(
        self,
        directory: storage.Path,
        *,
        model: str,
        labels: Sequence[str],
        rows: int = 500,
        seconds: float = 10.0,
        max_bytes: int = 256 << 20,
    ) -> None:
        """Makes the folder.

        Args:
          directory: of the log, local or in a store.
          model: name of the model that answers, see `served_name`.
          labels: of the model, C, in order.
          rows: of a full part.
          seconds: after which what is new is written; what a kill loses.
          max_bytes: of all parts in the folder, whoever wrote them; the oldest are removed beyond.

        Raises:
          UsageError: the folder cannot be made.
        """
        self._directory, self._model, self._labels = os.fspath(directory), model, tuple(labels)
        self._rows, self._seconds, self._max_bytes = rows, seconds, max_bytes
        self._changed = threading.Condition()
        self._waiting: list[_Row] = []
        self._closing, self._warned, self._dropped = False, False, 0
        self._thread: threading.Thread | None = None
        # Of the thread alone:
        self._part: list[_Row] = []
        self._number = 0
        self._writer = os.urandom(4).hex()
        try:
            storage.make_folder(directory)
        except OSError as error:
            raise UsageError(f"{self._directory}: cannot be made ({error.strerror}); name another folder") from error

    def add(
        self,
        *,
        probabilities: np.ndarray,
        features: np.ndarray | None,
        facts: Mapping[str, float],
        seconds: float,
    ) -> None:
        """Takes an answer; does not wait.

        Args:
          probabilities: float32 [C].
          features: float32 [F] that the answer was made of; None of a model that does not give them. Kept as float16.
          facts: of the image asked about, see `pipeline.images.facts.comparable_of`.
          seconds: when, Unix time.

        Raises:
          ValueError: there is not one probability for each label.
        """
        row = _Row(
            seconds=float(seconds),
            probabilities=np.array(probabilities, np.float32).reshape(len(self._labels)),
            features=None if features is None else half(features).ravel(),
            facts=dict(facts),
        )
        with self._changed:
            if self._closing or len(self._waiting) >= _WAITING:
                self._dropped += 1
                return
            self._waiting.append(row)
            if self._thread is None:
                self._writer = os.urandom(4).hex()  # of this process, if another one made the log and forked
                self._thread = threading.Thread(target=self._run, name="answer log", daemon=True)
                self._thread.start()
            if len(self._waiting) >= self._rows:
                self._changed.notify()

    def close(self) -> None:
        """Writes what is left; what is added after that is dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        if self._dropped:
            logging.warning("%s: %d answers were not logged", self._directory, self._dropped)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or len(self._waiting) >= self._rows, self._seconds)
                new, self._waiting = self._waiting, []
                closing = self._closing
            while new:
                room = self._rows - len(self._part)
                self._part, new = [*self._part, *new[:room]], new[room:]
                self._keep()
            if closing:
                return

    def _keep(self) -> None:
        """Writes the part, and begins another one if it is full."""
        first = int(self._part[0].seconds * 1000)
        name = f"{_PREFIX}{first:013d}-{self._writer}-{self._number:06d}{_SUFFIX}"
        try:
            content = _content(self._part, self._model, self._labels)
            storage.write_atomically(storage.join(self._directory, name), content)
            self._trim(name)
        except Exception as error:  # whatever it is, answers matter more than their log
            if not self._warned:
                logging.warning("%s: answers are not logged (%s)", self._directory, first_line(error))
            self._warned = True
            self._dropped += len(self._part) if len(self._part) >= self._rows else 0
        if len(self._part) >= self._rows:
            self._part, self._number = [], self._number + 1

    def _trim(self, current: str) -> None:
        """Removes the oldest parts, and what killed writers left half-written, beyond the limit of the folder."""
        parts = sorted(
            (entry for entry in storage.list_folder(self._directory) if entry.name.lstrip(".").startswith(_PREFIX)),
            key=lambda entry: entry.name.lstrip("."),
        )
        excess = sum(entry.size for entry in parts) - self._max_bytes
        for entry in parts:
            if excess <= 0:
                return
            if entry.name != current:
                storage.delete(storage.join(self._directory, entry.name))
                excess -= entry.size


def _content(rows: Sequence[_Row], model: str, labels: Sequence[str]) -> bytes:
    names = sorted({name for row in rows for name in row.facts})
    arrays = {
        "format": np.array(_FORMAT),
        "model": np.array(model, str),
        "labels": np.array(labels, str),
        "seconds": np.array([row.seconds for row in rows], np.float64),
        "probabilities": np.stack([row.probabilities for row in rows]),
        "fact_names": np.array(names, str),
        "facts": np.array([[row.facts.get(name, np.nan) for name in names] for row in rows], np.float64),
    }
    widths = {row.features.size for row in rows if row.features is not None}
    if len(widths) == 1:
        absent = np.full(widths.pop(), np.nan, np.float16)
        arrays["features"] = np.stack([absent if row.features is None else row.features for row in rows])
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """Holds N answers of one model, by time.

    Attributes:
      model: its name, as logged; "" where there is no answer.
      labels: of the model, C.
      seconds: float64 [N], Unix time.
      probabilities: float32 [N, C].
      features: float16 [N, F], as kept, NaN in rows without; None if there are none at all.
      facts: name → float64 [N], NaN where it was not logged.
      others: model → how many of its answers are in the log, too.
      damaged: names of files that cannot be read.
    """

    model: str
    labels: tuple[str, ...]
    seconds: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray | None
    facts: Mapping[str, np.ndarray]
    others: Mapping[str, int]
    damaged: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    model: str
    labels: tuple[str, ...]
    seconds: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray | None
    facts: Mapping[str, np.ndarray]


def read_answers(directory: storage.Path, *, model: str | None = None, since: float | None = None) -> Answers:
    """Reads the answers of a model from a log.

    A part that is damaged is warned of and left out, rather than ending whoever reads: the log is a sample, its parts
    do not need each other, and a nightly check that fails until the part is old enough to go checks nothing meanwhile.

    Args:
      directory: of the log.
      model: its name; digests are compared (`digest_of`). None: the one that answered last.
      since: Unix time, from which on.

    Raises:
      UsageError: there is no such folder.
    """
    try:
        entries = storage.list_folder(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not storage.is_remote(directory):
            raise UsageError(f"{os.fspath(directory)}: no such folder; a server with a log makes it") from error
        entries = []  # a store has no empty folders
    names = [entry.name for entry in entries if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX)]
    parts, damaged = [], []
    for name in names:
        file = storage.join(directory, name)
        try:
            content = storage.read(file)
        except FileNotFoundError:  # a writer has just removed it
            continue
        try:
            parts.append(_since(_read(content), since))
        except Exception as error:  # zipfile and NumPy have a dozen ways to refuse bytes
            logging.warning("%s: damaged (%s), left out; remove it to be rid of this", file, first_line(error))
            damaged.append(name)
    parts = [part for part in parts if len(part.seconds)]
    return _joined(parts, model, tuple(damaged))


def _read(content: bytes) -> _Part:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        if int(arrays["format"]) != _FORMAT:
            raise ValueError(f"of format {int(arrays['format'])}, which this version does not know")
        features = arrays["features"].astype(np.float16) if "features" in arrays else None
        part = _Part(
            model=str(arrays["model"]),
            labels=tuple(arrays["labels"].tolist()),
            seconds=arrays["seconds"].astype(np.float64),
            probabilities=arrays["probabilities"].astype(np.float32),
            features=features,
            facts=dict(zip(arrays["fact_names"].tolist(), arrays["facts"].astype(np.float64).T, strict=True)),
        )
    count = len(part.seconds)
    columns = [part.probabilities, *part.facts.values(), *([] if features is None else [features])]
    if part.seconds.shape != (count,) or any(len(column) != count for column in columns):
        raise ValueError("its columns are of several lengths")
    if part.probabilities.shape != (count, len(part.labels)):
        raise ValueError(f"{len(part.labels)} labels do not go with probabilities {part.probabilities.shape}")
    return part


def _since(part: _Part, since: float | None) -> _Part:
    if since is None:
        return part
    at = part.seconds >= since
    return dataclasses.replace(
        part,
        seconds=part.seconds[at],
        probabilities=part.probabilities[at],
        features=None if part.features is None else part.features[at],
        facts={name: values[at] for name, values in part.facts.items()},
    )


def _joined(parts: Sequence[_Part], model: str | None, damaged: tuple[str, ...]) -> Answers:
    """Puts the parts of one model together; of one name with several lists of labels the latest."""
    wanted = [part for part in parts if model is None or digest_of(part.model) == digest_of(model)]
    last = max(wanted, key=lambda part: part.seconds.max(), default=None)
    chosen = [part for part in wanted if last and (part.model, part.labels) == (last.model, last.labels)]
    others: collections.Counter[str] = collections.Counter()
    for part in parts:
        if not any(part is one for one in chosen):
            others[part.model] += len(part.seconds)
    if last is None:
        nothing = np.zeros(0)
        return Answers(
            model="", labels=(), seconds=nothing, probabilities=np.zeros((0, 0), np.float32), features=None, facts={},
            others=others, damaged=damaged,
        )  # fmt: skip
    seconds = np.concatenate([part.seconds for part in chosen])
    order = np.argsort(seconds, kind="stable")
    widths = {part.features.shape[1] for part in chosen if part.features is not None}
    features = None
    if len(widths) == 1:
        width = widths.pop()
        none = np.float16(np.nan)
        found = [np.full((len(p.seconds), width), none) if p.features is None else p.features for p in chosen]
        features = np.concatenate(found)[order]
    names = sorted({name for part in chosen for name in part.facts})
    facts = {
        name: np.concatenate([p.facts.get(name, np.full(len(p.seconds), np.nan)) for p in chosen])[order]
        for name in names
    }
    return Answers(
        model=last.model,
        labels=last.labels,
        seconds=seconds[order],
        probabilities=np.concatenate([part.probabilities for part in chosen])[order],
        features=features,
        facts=facts,
        others=others,
        damaged=damaged,
    )
