"""Keeps the model registry: a folder of numbered models, a `champion` link and an append-only decision log.

    MODELS/1/, MODELS/2/ …    one promoted model each, whole or absent
    MODELS/champion -> 2      what to serve
    MODELS/serving/NAME/2     the champion's SavedModel alone, in the layout that TensorFlow Serving watches
    MODELS/decisions.jsonl    every decision with its reasons, one JSON object a line

The pointer is a symbolic link, not a file with a number in it, because whatever serves the model takes a path:
`MODELS/champion` works in any server or script that has never heard of this project. rename() over a link is atomic, so
the path names the old model or the new one and never nothing. A server that opens several files should resolve the
link once (`os.path.realpath`) and read from there; the numbered folders are never changed or removed.

Every model has `SHA256SUMS`, which `sha256sum -c` reads, too. Order of a promotion: the folder (staged, flushed,
renamed), the links, the line in the log. A pass killed in between
finds its own folder by the `pass_id` in `promotion.json` and goes on from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from pipeline.command import DataError, UsageError

CHAMPION = "champion"
DECISIONS_FILE = "decisions.jsonl"
LABELS_FILE = "labels.txt"
PROMOTION_FILE = "promotion.json"
TRAINED_ON_FILE = "trained_on.txt"
SUMS_FILE = "SHA256SUMS"
ROLLED_BACK = "rolled back"  # decision
SERVING, SAVED_MODEL = "serving", "saved_model"
_STAGING = ".staging-"


@dataclasses.dataclass(frozen=True)
class Model:
    """Describes a published model: its number and its folder, which never changes again."""

    number: int
    path: pathlib.Path

    def labels(self) -> list[str]:
        """Names the classes that it can answer, in order."""
        return (self.path / LABELS_FILE).read_text(encoding="utf-8").splitlines()

    def trained_on(self) -> frozenset[str]:
        """Lists the ids of the images that it was trained or selected on; empty where nobody has noted them."""
        file = self.path / TRAINED_ON_FILE
        return frozenset(file.read_text(encoding="utf-8").split()) if file.exists() else frozenset()

    def promotion(self) -> dict[str, Any]:
        """Reads the decision that promoted it; {} of a model that somebody copied in by hand."""
        file = self.path / PROMOTION_FILE
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return record

    def dataset(self) -> str:
        """Names the version that it was trained on, as a path; "" where nobody has noted it."""
        return str(self.promotion().get("dataset", ""))


def models(root: pathlib.Path) -> list[Model]:
    """Lists all published models, by number."""
    numbers = (int(child.name) for child in root.iterdir() if child.name.isdecimal()) if root.is_dir() else ()
    return [Model(number, root / str(number)) for number in sorted(numbers)]


def champion(root: pathlib.Path) -> Model | None:
    """Finds the model that the pointer names, None without a pointer; DataError if it points nowhere."""
    link = root / CHAMPION
    try:
        target = os.readlink(link)  # one call, so that a reader beside a writer sees one state
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{link}: not a symbolic link; the registry cannot replace it. Move it away") from error
    if not target.isdecimal() or not (root / target).is_dir():
        raise DataError(f"{link} points to {target}, which is no model; let it point to a numbered one or remove it")
    return Model(int(target), root / target)


def numbered(root: pathlib.Path, number: int) -> Model:
    """Finds a model by its number; UsageError where there is none."""
    if not (root / str(number)).is_dir():
        known = ", ".join(str(model.number) for model in models(root))
        raise UsageError(f"{root} has no model {number} (it has {known or 'none'})")
    return Model(number, root / str(number))


def _fsync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clean(root: pathlib.Path) -> None:
    """Removes from a folder what was left staged by a process that was killed. Only for the holder of the lock."""
    for child in root.glob(f"{_STAGING}*"):
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def find(root: pathlib.Path, pass_id: str) -> Model | None:
    """Finds the model that the pass of this id has published already."""
    for model in reversed(models(root)):
        if model.promotion().get("pass_id") == pass_id:
            return model
    return None


def next_number(root: pathlib.Path) -> int:
    """Returns the number of the model that is published next."""
    return max((model.number for model in models(root)), default=0) + 1


def publish(
    root: pathlib.Path, contents: Mapping[str, pathlib.Path], promotion: Mapping[str, Any], *, number: int | None = None
) -> Model:
    """Publishes `root/<number>/`, whole or not at all.

    Args:
      root: the registry.
      contents: name in the model's folder → the file or folder to copy.
      promotion: the decision with its `pass_id`; becomes `promotion.json`.
      number: `next_number` if not given.
    """
    root.mkdir(parents=True, exist_ok=True)
    number = number or next_number(root)
    stage = root / f"{_STAGING}{number}"
    stage.mkdir()
    for name, source in contents.items():
        if source.is_dir():
            shutil.copytree(source, stage / name)
        else:
            shutil.copyfile(source, stage / name)
    text = json.dumps({**promotion, "model": number}, indent=2, ensure_ascii=False) + "\n"
    (stage / PROMOTION_FILE).write_text(text, encoding="utf-8")
    (stage / SUMS_FILE).write_text(_sums(stage), encoding="utf-8")
    # The rename must not reach the disk before the bytes: after a power cut the number would stand for empty files.
    for folder, _, files in os.walk(stage, topdown=False):
        for file in files:
            _fsync(pathlib.Path(folder, file))
        _fsync(pathlib.Path(folder))
    model = Model(number, root / str(number))
    os.rename(stage, model.path)
    _fsync(root)
    return model


def _sums(folder: pathlib.Path) -> str:
    """Returns a line for each file, as `sha256sum` writes them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(model: Model) -> list[str]:
    """Says what is wrong with a model's files; nothing of one that has no sums, which nobody has published here."""
    file = model.path / SUMS_FILE
    if not file.exists():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        digest, _, name = line.partition("  ")
        path = model.path / name
        if not path.is_file():
            found.append(f"{name} is gone")
        elif _sha256(path) != digest:
            found.append(f"{name} is not what was published")
    return found


def require_whole(model: Model) -> None:
    """Raises DataError if a file of a model is not what was published."""
    if found := damage(model):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise DataError(
            f"{model.path} is damaged: {found[0]}{more}; put its files back, or let python -m retrain.models rollback "
            f"--models={model.path.parent} take the champion before"
        )


def set_champion(root: pathlib.Path, model: Model) -> None:
    """Points `champion`, and what is served, at a published model, each atomically."""
    _point(root / CHAMPION, str(model.number), staging=root)  # relative: the registry may be moved
    if not (model.path / SAVED_MODEL).is_dir():
        return
    name = str(model.promotion().get("name", "model"))
    folder = root / SERVING / name
    folder.mkdir(parents=True, exist_ok=True)
    _point(folder / str(model.number), os.path.join("..", "..", str(model.number), SAVED_MODEL), staging=root)
    for other in folder.iterdir():  # a server takes the highest number that it finds
        if other.is_symlink() and other.name != str(model.number):
            other.unlink()
    _fsync(folder)


def _point(link: pathlib.Path, target: str, *, staging: pathlib.Path) -> None:
    temporary = staging / f"{_STAGING}{CHAMPION}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target, target_is_directory=True)
    os.replace(temporary, link)
    _fsync(link.parent)


def predecessor(root: pathlib.Path, model: Model) -> Model | None:
    """Finds the champion that a champion replaced when it was promoted; None where there was none, or it is gone.

    Not the one that was rolled back for it: who rolls back twice goes back twice.
    """
    for record in reversed(decisions(root)):
        if record.get("decision") == ROLLED_BACK:
            continue
        before = record.get("champion_before")
        if record.get("champion_after") == model.number and before not in (None, model.number):
            return Model(before, root / str(before)) if (root / str(before)).is_dir() else None
    return None


def decisions(root: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the decision log, oldest first. A torn last line, of an append that was killed, does not count."""
    file = root / DECISIONS_FILE
    if not file.exists():
        return []
    records = []
    lines = file.read_bytes().split(b"\n")[:-1]  # what follows the last newline was never finished
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{file}, line {number}: not JSON; repair or remove that line") from error
    return records


def passes(root: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the decisions that passes have made, not those made by hand, oldest first."""
    return [record for record in decisions(root) if "pass_id" in record]


def append_decision(root: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Adds one line to the decision log and flushes it to the disk; a torn line of a killed append is cut off first."""
    root.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    with open(root / DECISIONS_FILE, "ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    _fsync(root)
