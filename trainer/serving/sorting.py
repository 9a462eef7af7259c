"""Does with classified images what people do next: sorts them into folders, and counts right answers."""

from __future__ import annotations

import collections
import hashlib
import os
import pathlib
import re
from collections.abc import Collection
from urllib.parse import unquote, urlsplit

from pipeline.format import storage
from pipeline.intervals import wilson_interval


def sort_into(folder: pathlib.Path, label: str, name: str, content: bytes) -> None:
    """Copies an image into the folder of its label; one that is there already is left alone.

    Args:
      folder: of the folders of labels.
      label: that it goes to.
      name: of a file, or a URL.
      content: of the file.
    """
    target = folder / _folder_name(label)
    target.mkdir(parents=True, exist_ok=True)
    copy = target / _file_name(name)
    if copy.exists() and copy.read_bytes() != content:  # another image of that name
        digest = hashlib.sha256(content).hexdigest()[:12]
        copy = copy.with_stem(f"{copy.stem}-{digest}")
    if not copy.exists():
        storage.write_atomically(copy, content, shared=True)


def _folder_name(label: str) -> str:
    """Spells a label so that it is one folder, and not a hidden one."""
    return re.sub(r"[/\\\0]|^\.", "_", label) or "_"


def _file_name(name: str) -> str:
    path = unquote(urlsplit(name).path) if "://" in name else name
    return os.path.basename(path.rstrip("/")) or "image"


class Score:
    """Counts right answers to images that lie in a folder of their label's name."""

    def __init__(self, labels: Collection[str]) -> None:
        self._labels = set(labels)
        self._found: collections.Counter[tuple[str, bool]] = collections.Counter()

    def add(self, name: str, label: str) -> None:
        """Counts an answer, if the image's folder tells what it is."""
        truth = os.path.basename(os.path.dirname(name))
        if truth in self._labels:
            self._found[truth, label == truth] += 1

    def told(self) -> list[str]:
        """Says how many are right: of all, and of each label, the weakest first; nothing without such images."""
        if not self._found:
            return []
        right, total = sum(count for (_, good), count in self._found.items() if good), self._found.total()
        low, high = wilson_interval(right, total)
        rows = [
            (self._found[label, True], self._found[label, True] + self._found[label, False], label)
            for label in {label for label, _ in self._found}
        ]
        rows.sort(key=lambda row: (row[0] / row[1], row[2]))
        return [
            f"{right} of {total} images are in the folder of the label they get: {right / total:.1%} ({low:.1%} to "
            f"{high:.1%})",
            *(f"  {label}: {good} of {count}" for good, count, label in rows),
        ]
