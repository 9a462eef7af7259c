"""Finds out which folders of a tree are classes and which are splits; refuses, with advice, what leaves it open."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from collections.abc import Callable, Sequence

from beam_jobs.sources import nfc
from beam_jobs.sources.left_out import ARCHIVES, LeftOut, LeftOutKind, readable
from beam_jobs.sources.split_names import split_of, words_of
from pipeline.command import DataError, UsageError
from pipeline.format import storage

# Folders that hold no labelled images, beside those of the splits: of competitions and of sets for other kinds of
# learning.
_UNLABELLED = frozenset(
    ("pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "unsupervised", "submission")
)
_SHOWN = 3  # names in a message
_NUMBERED = re.compile(r"([^\W\d](?:[^\d]*[^\W\d_])?)[ _.-]?\(?\d{1,12}\)?\.\w{3,4}")
_EACH = 3  # images a class, about, without which their names are just names
_PETS = frozenset({"Abyssinian", "american_pit_bull_terrier", "english_cocker_spaniel", "japanese_chin"})
_AS_CLASSES = "if they are classes, give --folders=classes"


@dataclasses.dataclass(kw_only=True)
class Contents:
    """Holds what lies directly in a folder.

    Attributes:
      folders: names of its folders.
      files: those that may be images.
      left_out: everything else.
    """

    folders: list[str] = dataclasses.field(default_factory=list)
    files: list[storage.Entry] = dataclasses.field(default_factory=list)
    left_out: list[LeftOut] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Class:
    """Describes the folder of a class: its path below the input, its name, its official split or None."""

    path: str
    name: str
    split: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Holds the folders of the classes, and what lies beside them."""

    classes: list[Class]
    left_out: list[LeftOut]


def class_splits(folders: Sequence[str]) -> dict[str, str]:
    """Returns folder → split if all folders of a class are splits of it (`DIR/class/split/image`), else nothing."""
    found = {name: split for name in folders if (split := split_of(name))}
    return found if len(found) == len(folders) == len(set(found.values())) > 1 else {}


def find_classes(root: str, contents_of: Callable[[str], Contents], *, splits: bool) -> Layout:
    """Finds the folders of the classes.

    Args:
      root: the value of --input.
      contents_of: lists a folder below it; "" for itself.
      splits: whether folders may be splits; else every sub-folder is a class, whatever it is called.

    Raises:
      UsageError: no class folder is there, or it is not clear which ones are.
      DataError: the names of two classes are spelled differently and are the same.
      OSError: a folder cannot be listed.
    """
    finder = _Finder(root, contents_of)
    base = finder.unwrapped() if splits else ""
    top = finder.open(base)
    if not top.folders:
        raise UsageError(finder.no_folders(base, top))
    named = finder.splits(base, top) if splits else {}
    finder.note_strays(base, top)
    if not named:
        classes = [Class(path=_below(base, name), name=name, split=None) for name in top.folders]
    else:
        classes = [found for name, split in named.items() for found in finder.classes_of(_below(base, name), split)]
    _refuse_same(root, classes)
    return Layout(classes=classes, left_out=finder.left_out)


class _Finder:
    """Looks into the upper folders of a tree."""

    def __init__(self, root: str, contents_of: Callable[[str], Contents]) -> None:
        self._root = root
        self._contents_of = contents_of
        self._known: dict[str, Contents] = {}
        self.left_out: list[LeftOut] = []

    def open(self, path: str) -> Contents:
        """Lists a folder once. Raises UsageError where the input is no folder; OSError."""
        if path not in self._known:
            try:
                self._known[path] = self._contents_of(path)
            except (FileNotFoundError, NotADirectoryError):
                if path:
                    raise
                raise UsageError(f"--input={self._root}: {_no_folder(self._root)}") from None
        return self._known[path]

    def note_strays(self, path: str, found: Contents) -> None:
        """Notes what lies beside the folders of classes."""
        self.left_out += found.left_out
        kind = LeftOutKind.NO_CLASS.value
        self.left_out += [LeftOut(kind=kind, uri=readable(_below(path, entry.name))) for entry in found.files]

    def unwrapped(self) -> str:
        """Finds the folder that holds classes or splits, under folders around everything. Raises UsageError."""
        path, name = "", os.path.basename(os.path.abspath(self._root.rstrip("/")))
        while True:
            found = self.open(path)
            if problem := _other_layout(_below(self._root, path), found, self.open, path):
                raise UsageError(f"--input={self._root}: {problem}")
            if len(found.folders) != 1 or found.files or split_of(found.folders[0]):
                return path
            (only,) = found.folders
            inner = self.open(_below(path, only))
            if problem := _other_layout(_below(self._root, path, only), inner, self.open, _below(path, only)):
                raise UsageError(f"--input={self._root}: {problem}")
            if not inner.folders:
                return path  # one class, which is refused when all images are known
            if only.casefold() != name.casefold() and not _named_splits(inner.folders):
                raise UsageError(
                    f"--input={self._root}: one folder is around everything, {readable(only)}/; if "
                    f"{_names(inner.folders)} in it are the classes, give --input={_below(self._root, path, only)}"
                )
            self.note_strays(path, found)
            path = _below(path, only)

    def no_folders(self, path: str, found: Contents) -> str:
        """Says why there are no classes where there are no folders."""
        where = f"--input={_below(self._root, path)}"
        archives = [entry.uri for entry in found.left_out if entry.kind == LeftOutKind.ARCHIVE.value]
        if archives:
            return f"{where}: holds {_names(archives, slash='')} and no class folders; {unpacking(archives[0])}"
        tables = [entry.uri for entry in found.left_out if entry.uri.lower().endswith((".csv", ".jsonl"))]
        if tables:
            kind = tables[0].lower().rpartition(".")[2]
            advice = f"; if {tables[0]} says the classes, give --source={kind} --input={_below(self._root, tables[0])}"
        else:
            advice = f", and {len(found.files)} files directly in it" if found.files else ""
        names = [readable(entry.name) for entry in found.files]
        if _PETS & {_class_in(name) for name in names}:
            above = os.path.dirname(_below(self._root, path).rstrip("/"))
            advice += "; these are Oxford-IIIT Pet's images, which need the annotations beside their folder: "
            return f"{where}: no sub-folders{advice}give --source=oxford_pets --input={above}"
        if example := _names_hold_classes(names):
            advice += f"; the names seem to hold the classes ({example}): move the images into a folder a class, or "
            return f"{where}: no sub-folders{advice}list them and their classes in a table for --source=csv"
        return f"{where}: no sub-folders{advice}; --source=folder expects DIR/class/image"

    def splits(self, path: str, found: Contents) -> dict[str, str]:
        """Returns folder → split, or nothing where the folders are classes. Raises UsageError where that is open."""
        named = _named_splits(found.folders) or {name: s for name in found.folders if (s := split_of(name))}
        # A class may be called "train": as a split its folder holds folders, as a class it holds images.
        as_splits = [name for name in named if self.open(_below(path, name)).folders]
        others = [name for name in found.folders if name not in named]
        unlabelled = [name for name in others if _UNLABELLED & set(words_of(name))]
        strays = [name for name in others if name not in unlabelled]
        if as_splits and strays:
            raise UsageError(
                f"--input={self._root}: {readable(as_splits[0])}/ looks like a split but {readable(strays[0])}/ does "
                f"not; either all sub-folders are splits (train, validation, test) or all are classes: {_AS_CLASSES}"
            )
        if not as_splits:
            if len(set(named.values())) > 1 and not strays:
                raise UsageError(
                    f"--input={self._root}: {_names(list(named))} look like splits but hold no class folders; expected "
                    f"{readable(next(iter(named)))}/class/image; {_AS_CLASSES}"
                )
            return {}
        by_split: dict[str, str] = {}
        for name, split in named.items():
            if split in by_split:
                raise UsageError(
                    f"--input={self._root}: {readable(by_split[split])}/ and {readable(name)}/ are the same split; "
                    f"keep one of them; {_AS_CLASSES}"
                )
            by_split[split] = name
        kind = LeftOutKind.OTHER_SPLIT.value
        self.left_out += [LeftOut(kind=kind, uri=f"{readable(_below(path, name))}/") for name in unlabelled]
        return named

    def classes_of(self, path: str, split: str) -> list[Class]:
        """Lists the classes of a split, which archives may have unpacked into a folder of the split's own name."""
        found = self.open(path)
        while len(found.folders) == 1 and not found.files:
            (only,) = found.folders
            inner = self.open(_below(path, only))
            same = only.casefold() == path.rpartition("/")[2].casefold() or split_of(only) == split
            if not same or not (inner.folders or inner.files):
                break
            self.note_strays(path, found)
            path, found = _below(path, only), inner
        self.note_strays(path, found)
        return [Class(path=_below(path, name), name=name, split=split) for name in found.folders]


def _class_in(name: str) -> str:
    """Returns what stands before the number in `Abyssinian_100.jpg` or `cat.0.jpg`; "" where the name is another."""
    found = _NUMBERED.fullmatch(name)
    return found[1] if found else ""


def _names_hold_classes(names: Sequence[str]) -> str:
    """Returns an example where the files' names are some words, each with many numbers; else ""."""
    counts = collections.Counter(map(_class_in, names))
    if "" in counts or len(counts) < 2 or len(names) < _EACH * len(counts):
        return ""
    return f"{names[0]}: {_class_in(names[0])}"


def unpacking(path: str) -> str:
    """Says how an archive is unpacked, for a message."""
    command = f"unzip {path} -d DIR" if path.lower().endswith(".zip") else f"tar -xf {path} -C DIR"
    return f"unpack it ({command}) and give --input=DIR"


def _no_folder(root: str) -> str:
    """Says what an input is that is no folder."""
    if not storage.exists(root):
        return "no such folder; give the folder that holds one sub-folder a class"
    name = root.lower()
    if "cifar-10" in os.path.basename(name) and name.endswith(ARCHIVES):
        kind = "cifar100" if "cifar-100" in os.path.basename(name) else "cifar10"
        return f"is an archive, not a folder; an official one of CIFAR is read with --source={kind}"
    if name.endswith(ARCHIVES):
        return f"is an archive, not a folder; {unpacking(root)}"
    for kind in ("csv", "jsonl"):
        if name.endswith(f".{kind}"):
            return f"is a file, not a folder; a table of images is read with --source={kind}"
    return "is a file, not a folder; give the folder that holds one sub-folder a class"


def _other_layout(place: str, found: Contents, open_folder: Callable[[str], Contents], path: str) -> str | None:
    """Recognises sets that another source reads, and says the command; None for all else."""
    files = {entry.name for entry in found.files}
    others = {entry.uri.rpartition("/")[2] for entry in found.left_out}
    command = "python -m beam_jobs.build_tfrecords --source="
    if {"images", "annotations"} <= set(found.folders):
        lists = {entry.uri.rpartition("/")[2] for entry in open_folder(_below(path, "annotations")).left_out}
        if {"list.txt", "trainval.txt", "test.txt"} <= lists:
            return f"is Oxford-IIIT Pet in its official layout; run {command}oxford_pets --input={place} --output=DATA"
    if {"data_batch_1", "test_batch"} <= files or {"data_batch_1.bin", "test_batch.bin"} <= files:
        return f"is CIFAR-10; run {command}cifar10 --input={place} --output=DATA"
    if {"train", "test", "meta"} <= files or {"train.bin", "test.bin"} <= files:
        return f"is CIFAR-100; run {command}cifar100 --input={place} --output=DATA"
    if {"dataset_info.json", "features.json"} <= others:
        return f"is a prepared set of TensorFlow Datasets; run {command}tfds --input={place} --output=DATA"
    if "versions" in found.folders and "CURRENT" in files:
        return "is a dataset that has been built; train on it with python -m trainer.main --data"
    return None


def _named_splits(folders: Sequence[str]) -> dict[str, str]:
    """Returns folder → split where all folders are splits by their names, or would be without words they share.

    `seg_train`, `seg_test`, `seg_pred`: splits, the last one of unlabelled images. Two splits at least; else nothing.
    """
    words = {name: words_of(name) for name in folders}
    shared = set.intersection(*(set(several) for several in words.values())) if len(words) > 1 else set()
    for without in (set(), shared):
        own = {name: [word for word in several if word not in without] for name, several in words.items()}
        named = {name: split for name, several in own.items() if (split := split_of(" ".join(several)))}
        left = [several for name, several in own.items() if name not in named]
        if len(set(named.values())) > 1 and all(_UNLABELLED & set(several) for several in left):
            return named
    return {}


def _refuse_same(root: str, classes: Sequence[Class]) -> None:
    """Raises DataError where two folders of one split have names that differ only in Unicode's normal form."""
    seen: dict[tuple[str | None, str], Class] = {}
    for found in classes:
        first = seen.setdefault((found.split, nfc(readable(found.name))), found)
        if first is not found:
            raise DataError(
                f"--input={root}: the class folders {first.path!a} and {found.path!a} have the same name in two "
                "Unicode spellings; merge them"
            )


def _below(*parts: str) -> str:
    """Joins paths by slashes; an empty one says nothing."""
    first, *others = [part for part in parts if part] or [""]
    return storage.join(first, *others)


def _names(names: Sequence[str], *, slash: str = "/") -> str:
    """Spells the first few names in a row: `a/, b/ and c/`."""
    shown = [f"{readable(name)}{slash}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        shown.append(f"{len(names) - _SHOWN} more")
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
