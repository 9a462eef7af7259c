"""Implements `--source=folder`: `DIR/class/image`, or `DIR/{train,valid|validation|val,test}/class/image`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping

from beam_jobs.sources import SourceItem, local
from beam_jobs.sources.tree import NOT_DATA, SPLITS, readable
from pipeline.command import UsageError


def _entries(directory: str) -> tuple[list[str], list[os.DirEntry[str]]]:
    """Lists a directory's sub-directories by name, and its files, both sorted, hidden ones left out."""
    directories, files = [], []
    with os.scandir(directory) as scan:
        for entry in scan:
            if entry.name.startswith(".") or entry.name.lower() in NOT_DATA:
                continue
            if entry.is_dir():
                directories.append(entry.name)
            elif not entry.is_symlink() or os.path.exists(entry.path):
                files.append(entry)
    return sorted(directories), sorted(files, key=lambda entry: entry.name)


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Offers a folder with one sub-folder a class; deeper folders belong to their class.

    Attributes:
      root: the value of --input.
      options: unused; every source takes them.
    """

    root: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def items(self) -> Iterator[SourceItem]:
        """Implements `Source.items`. URIs are paths relative to the folder, so moving the folder changes nothing."""
        if not os.path.isdir(self.root):
            what = "is a file, not a folder" if os.path.exists(self.root) else "no such folder"
            raise UsageError(f"--input={self.root}: {what}; give the folder that holds one sub-folder a class")
        directories, _ = _entries(self.root)
        if not directories:
            raise UsageError(f"--input={self.root}: no sub-folders; --source=folder expects DIR/class/image")
        found = False
        for path, label, split in self._classes(directories):
            for item in self._walk(path, label=label, split=split, parents=()):
                found = True
                yield item
        if not found:
            raise UsageError(f"--input={self.root}: its sub-folders hold no files; expected DIR/class/image")

    def _classes(self, directories: list[str]) -> Iterator[tuple[str, str, str | None]]:
        """Yields (path relative to the root, label, official split or None)."""
        if not self._has_official_splits(directories):
            yield from ((name, readable(name), None) for name in directories)
            return
        folders: dict[str, str] = {}
        for folder in directories:
            split = SPLITS[folder.lower()]
            if split in folders:
                raise UsageError(
                    f"--input={self.root}: {folders[split]}/ and {folder}/ are the same split; keep one of them"
                )
            folders[split] = folder
        for split, folder in folders.items():
            labels, files = _entries(os.path.join(self.root, folder))
            if files:
                raise UsageError(
                    f"--input={self.root}: {folder}/{readable(files[0].name)} is not inside a class folder; "
                    f"expected {folder}/class/image"
                )
            yield from ((f"{folder}/{label}", readable(label), split) for label in labels)

    def _has_official_splits(self, directories: list[str]) -> bool:
        named = [name for name in directories if name.lower() in SPLITS]
        # A class may be called "train": as a split its folder holds folders, as a class it holds images.
        as_splits = [name for name in named if _entries(os.path.join(self.root, name))[0]]
        if as_splits and len(named) < len(directories):
            stray = next(name for name in directories if name.lower() not in SPLITS)
            raise UsageError(
                f"--input={self.root}: {as_splits[0]}/ looks like a split but {stray}/ does not; "
                "either all sub-folders are splits (train, validation, test) or all are classes"
            )
        return bool(as_splits)

    def _walk(
        self, path: str, *, label: str, split: str | None, parents: tuple[tuple[int, int], ...]
    ) -> Iterator[SourceItem]:
        full = os.path.join(self.root, path)
        status = os.stat(full)
        here = (status.st_dev, status.st_ino)
        if here in parents:
            return  # a symbolic link that points back up
        directories, files = _entries(full)
        for entry in files:
            status = entry.stat()
            yield SourceItem(
                uri=readable(f"{path}/{entry.name}"),
                label=label,
                split=split,
                stamp=f"{status.st_size}:{status.st_mtime_ns}",
            )
        for name in directories:
            yield from self._walk(f"{path}/{name}", label=label, split=split, parents=(*parents, here))

    def read(self, item: SourceItem) -> bytes:
        """Implements `Source.read`."""
        return local.read_image(os.path.join(self.root, item.uri))

    def announce(self, item: SourceItem) -> None:
        """Implements `AnnouncedSource.announce`."""
        local.announce(os.path.join(self.root, item.uri))

    def labels(self) -> list[str] | None:
        """Returns None: a folder's classes are the sorted names of its sub-folders."""
        return None

    def fingerprint(self) -> str:
        """Returns a constant: everything that identifies a folder's data stands in its items."""
        return "folder"
