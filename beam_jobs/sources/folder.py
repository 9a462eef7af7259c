"""Implements `--source=folder`: `DIR/class/image`, or with official splits `DIR/split/class/image`.

The tree lies on a disk or in a store; each folder can be listed by another worker. A store is asked folder by folder,
with a delimiter. Which folders are classes and which are splits is decided by layout.py.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import ClassVar

from beam_jobs.sources import SourceItem, local, nfc
from beam_jobs.sources.layout import Contents, class_splits, find_classes
from beam_jobs.sources.left_out import LeftOut, LeftOutKind, kind_of, raw, readable
from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.images.policy import ReadError, RejectCode, read_bounded


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
      options: `folders`, if it is "classes", takes every sub-folder for a class, whatever it is called.
    """

    root: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    needs: ClassVar[tuple[str, ...]] = ("folders",)

    def items(self) -> Iterator[SourceItem]:
        """Implements `Source.items`, in one process."""
        return (listed for listed in self.listing() if isinstance(listed, SourceItem))

    def listing(self) -> Iterator[SourceItem | LeftOut]:
        """Implements `ListingSource.listing`, in one process."""
        classes, left_out = self.classes()
        yield from left_out
        waiting = classes[::-1]
        while waiting:
            folders, items, left_out = self.open(waiting.pop())
            waiting += folders[::-1]
            yield from items
            yield from left_out

    def classes(self) -> tuple[list[Folder], list[LeftOut]]:
        """Lists the folders of the classes, and what lies beside them.

        Every class is among what is left out, as a folder that is empty unless an image of it is listed.

        Raises:
          UsageError: there is no such folder, or not with a layout that this source reads.
          DataError: two folders are spelled alike.
        """
        try:
            layout = find_classes(self.root, self._list, splits=self._finds_splits)
        except OSError as error:
            raise UsageError(f"--input={self.root}: {error.strerror}") from error
        folders, left_out = [], layout.left_out
        for found in layout.classes:
            label = nfc(readable(found.name))
            folders.append(Folder(path=found.path, label=label, split=found.split, parents=()))
            kind = LeftOutKind.EMPTY_CLASS.value
            left_out.append(LeftOut(kind=kind, uri=f"{readable(found.path)}/", label=label, split=found.split))
        return folders, left_out

    def open(self, folder: Folder) -> tuple[list[Folder], list[SourceItem], list[LeftOut]]:
        """Lists the folders and the images that lie directly in a folder, and what else lies there."""
        here = self._real(folder.path)
        if here in folder.parents:
            return [], [], []  # a symbolic link that points back up
        found = self._list(folder.path)
        is_class = self._finds_splits and folder.split is None and not folder.parents
        splits = class_splits(found.folders) if is_class else {}
        below = [
            dataclasses.replace(
                folder,
                path=f"{folder.path}/{name}",
                split=splits.get(name, folder.split),
                parents=(*folder.parents, here),
            )
            for name in found.folders
        ]
        items = [
            SourceItem(
                uri=readable(f"{folder.path}/{entry.name}"),
                label=folder.label,
                split=folder.split,
                stamp=entry.stamp,
            )
            for entry in found.files
        ]
        return below, items, found.left_out

    @property
    def _finds_splits(self) -> bool:
        return self.options.get("folders") != "classes"

    def _list(self, path: str) -> Contents:
        """Lists the names of a folder's folders, the files that may be images, and what is left out. Raises OSError."""
        found = Contents()
        for entry in storage.list_folder(storage.join(self.root, path) if path else self.root):
            if kind := kind_of(entry):
                name = f"{path}/{entry.name}" if path else entry.name
                found.left_out.append(LeftOut(kind=kind.value, uri=readable(name)))
            elif entry.is_folder:
                found.folders.append(entry.name)
            else:
                found.files.append(entry)
        return found

    def _real(self, path: str) -> str:
        """Names a folder's real place; in a store, which has no links, its path."""
        full = storage.join(self.root, path)
        return path if storage.is_remote(full) else os.path.realpath(full)

    def _path(self, item: SourceItem) -> str:
        return storage.join(self.root, raw(item.uri))

    def read(self, item: SourceItem) -> bytes:
        """Implements `Source.read`."""
        path = self._path(item)
        if not storage.is_remote(path):
            return local.read_image(path)
        try:
            with storage.open_file(path) as file:
                return local.refuse_pointers(read_bounded(file))
        except OSError as error:
            raise ReadError(RejectCode.UNREADABLE, error.strerror or str(error)) from error

    def announce(self, item: SourceItem) -> None:
        """Implements `AnnouncedSource.announce`."""
        if not storage.is_remote(self.root):
            local.announce(self._path(item))

    def labels(self) -> list[str] | None:
        """Returns None: a folder's classes are the names of its sub-folders that hold images."""
        return None

    def fingerprint(self) -> str:
        """Returns a constant: everything that identifies a folder's data stands in its items."""
        return "folder"
