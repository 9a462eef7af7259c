"""Implements `--source=folder`: `DIR/class/image`, or `DIR/{train,valid|validation|val,test}/class/image`.

The tree lies on a disk or in a store; each folder can be listed by another worker. A store is asked folder by folder,
with a delimiter. Names that are not UTF-8 stand in URIs with `\\xNN`; their files are refused when read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import ClassVar

from beam_jobs.sources import SourceItem, local
from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.images.policy import ReadError, RejectCode, read_bounded

_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_NOT_DATA = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # what Windows and macOS leave behind


def readable(name: str) -> str:
    """Spells `name` as valid Unicode: bytes that are not UTF-8 show as \\xNN (the file is then refused when read)."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """Describes a folder of images below the input.

    Attributes:
      path: below the input, as the store spells it.
      label: class of its images.
      split: their official split, or None.
      parents: the real places of the folders above it, up to that of its class: a link back to one is not followed.
    """

    path: str
    label: str
    split: str | None
    parents: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Offers a folder with one sub-folder a class; deeper folders belong to their class.

    Attributes:
      root: the value of --input.
      options: none; every source takes them.
    """

    root: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    needs: ClassVar[tuple[str, ...]] = ()

    def items(self) -> Iterator[SourceItem]:
        """Implements `Source.items`, in one process."""
        found = False
        waiting = self.classes()[::-1]
        while waiting:
            folders, items = self.open(waiting.pop())
            waiting += folders[::-1]
            found = found or bool(items)
            yield from items
        if not found:
            raise UsageError(f"--input={self.root}: its sub-folders hold no files; expected DIR/class/image")

    def classes(self) -> list[Folder]:
        """Lists the folders of the classes.

        Raises:
          UsageError: there is no such folder, or not with this layout.
        """
        try:
            directories, _ = self._list("")
        except (FileNotFoundError, NotADirectoryError):
            what = "is a file, not a folder" if storage.exists(self.root) else "no such folder"
            raise UsageError(
                f"--input={self.root}: {what}; give the folder that holds one sub-folder a class"
            ) from None
        except OSError as error:
            raise UsageError(f"--input={self.root}: {error.strerror}") from error
        if not directories:
            raise UsageError(f"--input={self.root}: no sub-folders; --source=folder expects DIR/class/image")
        if not self._has_official_splits(directories):
            return [self._folder(name, label=name, split=None) for name in directories]
        folders: dict[str, str] = {}
        for folder in directories:
            split = _SPLITS[folder.lower()]
            if split in folders:
                raise UsageError(
                    f"--input={self.root}: {folders[split]}/ and {folder}/ are the same split; keep one of them"
                )
            folders[split] = folder
        found = []
        for split, folder in folders.items():
            labels, files = self._list(folder)
            if files:
                raise UsageError(
                    f"--input={self.root}: {folder}/{readable(files[0].name)} is not inside a class folder; "
                    f"expected {folder}/class/image"
                )
            found += [self._folder(f"{folder}/{label}", label=label, split=split) for label in labels]
        return found

    def _has_official_splits(self, directories: list[str]) -> bool:
        named = [name for name in directories if name.lower() in _SPLITS]
        # A class may be called "train": as a split its folder holds folders, as a class it holds images.
        as_splits = [name for name in named if self._list(name)[0]]
        if as_splits and len(named) < len(directories):
            stray = next(name for name in directories if name.lower() not in _SPLITS)
            raise UsageError(
                f"--input={self.root}: {as_splits[0]}/ looks like a split but {stray}/ does not; "
                "either all sub-folders are splits (train, validation, test) or all are classes"
            )
        return bool(as_splits)

    def open(self, folder: Folder) -> tuple[list[Folder], list[SourceItem]]:
        """Lists the folders and the images that lie directly in a folder."""
        here = self._real(folder.path)
        if here in folder.parents:
            return [], []  # a symbolic link that points back up
        directories, files = self._list(folder.path)
        below = [
            dataclasses.replace(folder, path=f"{folder.path}/{name}", parents=(*folder.parents, here))
            for name in directories
        ]
        items = [
            SourceItem(
                uri=readable(f"{folder.path}/{entry.name}"),
                label=folder.label,
                split=folder.split,
                stamp=entry.stamp,
            )
            for entry in files
        ]
        return below, items

    def _folder(self, path: str, *, label: str, split: str | None) -> Folder:
        return Folder(path=path, label=readable(label), split=split, parents=())

    def _list(self, path: str) -> tuple[list[str], list[storage.Entry]]:
        """Lists the names of a folder's folders, and its files, hidden ones and links that lead nowhere left out."""
        folders, files = [], []
        for entry in storage.list_folder(storage.join(self.root, path) if path else self.root):
            if entry.name.startswith(".") or entry.name.lower() in _NOT_DATA:
                continue
            if entry.is_folder:
                folders.append(entry.name)
            elif entry.stamp:
                files.append(entry)
        return folders, files

    def _real(self, path: str) -> str:
        """Names a folder's real place; in a store, which has no links, its path."""
        full = storage.join(self.root, path)
        return path if storage.is_remote(full) else os.path.realpath(full)

    def read(self, item: SourceItem) -> bytes:
        """Implements `Source.read`."""
        path = storage.join(self.root, item.uri)
        if not storage.is_remote(path):
            return local.read_image(path)
        try:
            with storage.open_file(path) as file:
                return read_bounded(file)
        except OSError as error:
            raise ReadError(RejectCode.UNREADABLE, error.strerror or str(error)) from error

    def announce(self, item: SourceItem) -> None:
        """Implements `AnnouncedSource.announce`."""
        if not storage.is_remote(self.root):
            local.announce(storage.join(self.root, item.uri))

    def labels(self) -> list[str] | None:
        """Returns None: a folder's classes are the sorted names of its sub-folders."""
        return None

    def fingerprint(self) -> str:
        """Returns a constant: everything that identifies a folder's data stands in its items."""
        return "folder"
