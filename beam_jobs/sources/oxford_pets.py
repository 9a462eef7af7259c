"""Implements `--source=oxford_pets`: Oxford-IIIT Pet in its official layout.

That is `DIR/images/` and `DIR/annotations/{list,trainval,test}.txt`, as images.tar.gz and annotations.tar.gz unpack to
(https://www.robots.ox.ac.uk/~vgg/data/pets/).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import ClassVar

from beam_jobs.sources import SourceItem, local
from pipeline.command import DataError, UsageError

_SPLIT_FILES = {"train": "trainval.txt", "test": "test.txt"}
_LIST = "list.txt"
_MAX_BYTES = 16 << 20  # of an annotation file; the official ones have 250 kB


@dataclasses.dataclass(frozen=True)
class _Entry:
    image: str
    breed: str
    number: int


def _entry(line: str) -> _Entry | None:
    """Takes `Abyssinian_100 1 1 1` apart: image, class, species, breed within the species. None where it is no such."""
    image, *numbers = line.split()
    breed, _, index = image.rpartition("_")
    named = breed and image.replace("_", "x").isalnum()
    if not named or len(numbers) != 3 or not all(n.isdecimal() and len(n) < 10 for n in (index, *numbers)):
        return None
    return _Entry(image=image, breed=breed, number=int(numbers[0]))


@dataclasses.dataclass(frozen=True)
class OxfordPetsSource:
    """Offers the images of the official folders.

    Attributes:
      root: the value of --input.
      options: none; every source takes them.
    """

    root: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    needs: ClassVar[tuple[str, ...]] = ()

    def _entries(self, name: str) -> Iterator[_Entry]:
        """Yields the lines of an annotation file."""
        path = os.path.join(self.root, "annotations", name)
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            raise UsageError(
                f"--input={self.root}: no annotations/{name}; unpack the official images.tar.gz and "
                "annotations.tar.gz there"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: {error}") from error
        if len(text) > _MAX_BYTES:
            raise DataError(f"{path}: more than {_MAX_BYTES} characters; this is no official one")
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            entry = _entry(line)
            if entry is None:
                raise DataError(f'{path}, line {number}: "{line[:100]}" is not "image class species breed"')
            yield entry

    @functools.cached_property
    def _breeds(self) -> dict[int, str]:
        """Maps class numbers to breeds, as the image names say them."""
        breeds: dict[int, str] = {}
        for entry in self._entries(_LIST):
            if breeds.setdefault(entry.number, entry.breed) != entry.breed:
                raise DataError(
                    f"{self.root}/annotations/{_LIST}: class {entry.number} is {breeds[entry.number]} but "
                    f"{entry.image} has it, too"
                )
        if len(set(breeds.values())) != len(breeds):
            raise DataError(f"{self.root}/annotations/{_LIST}: one breed has two class numbers")
        return dict(sorted(breeds.items()))

    def _splits(self) -> dict[str, str]:
        """Maps images to official splits."""
        splits: dict[str, str] = {}
        for split, name in _SPLIT_FILES.items():
            for entry in self._entries(name):
                if splits.setdefault(entry.image, split) != split:
                    raise DataError(f"{self.root}/annotations: {entry.image} is in trainval.txt and in test.txt")
                if self._breeds.get(entry.number) != entry.breed:
                    raise DataError(f"{self.root}/annotations/{name}: {entry.image} has another class than in {_LIST}")
        return splits

    def items(self) -> Iterator[SourceItem]:
        """Implements `Source.items`. Images that only list.txt names have no official split."""
        if not os.path.isdir(self.root):
            raise UsageError(f"--input={self.root}: no such folder; give the one with images/ and annotations/")
        splits = self._splits()
        files = self._files()
        seen = set()
        for entry in self._entries(_LIST):
            if entry.image in seen:
                raise DataError(f"{self.root}/annotations/{_LIST}: {entry.image} appears twice")
            seen.add(entry.image)
            name = f"{entry.image}.jpg"
            yield SourceItem(
                uri=f"images/{name}",
                label=self._breeds[entry.number],
                split=splits.pop(entry.image, None),
                stamp=files.get(name, "absent"),
            )
        if splits:
            raise DataError(f"{self.root}/annotations/{_LIST}: {min(splits)} is missing, though it is in a split")

    def _files(self) -> dict[str, str]:
        """Maps the names of all files in images/ to their stamps."""
        folder = os.path.join(self.root, "images")
        if not os.path.isdir(folder):
            raise UsageError(f"--input={self.root}: no images/; unpack the official images.tar.gz there")
        with os.scandir(folder) as entries:
            stats = ((entry.name, entry.stat()) for entry in entries if entry.is_file())
            return {name: f"{status.st_size}:{status.st_mtime_ns}" for name, status in stats}

    def read(self, item: SourceItem) -> bytes:
        """Implements `Source.read`."""
        return local.read_image(os.path.join(self.root, item.uri))

    def announce(self, item: SourceItem) -> None:
        """Implements `AnnouncedSource.announce`."""
        local.announce(os.path.join(self.root, item.uri))

    def labels(self) -> list[str]:
        """Lists the breeds in the order of their class numbers: 37 in the whole set."""
        return list(self._breeds.values())

    def fingerprint(self) -> str:
        """Names the breeds in order; the items say the rest."""
        return f"oxford_pets:{','.join(self.labels())}"
