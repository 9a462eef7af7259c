"""Says where everything that a quickstart makes lies: in one folder beside the photos."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil

from pipeline.command import UsageError
from pipeline.format import kinds, storage
from pipeline.format.lock import LOCK_FILE
from pipeline.format.places import check_folder

_STATE_FILE = "quickstart.json"
_LAYOUT = "give the folder that holds one folder of photos for each class"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Names the files of a quickstart.

    Attributes:
      photos: the folder of photos, as the user named it.
      root: the folder beside it.
    """

    photos: str
    root: str

    @property
    def data(self) -> str:
        return os.path.join(self.root, "data")

    @property
    def log(self) -> str:
        """Names the file that holds what the commands have said."""
        return os.path.join(self.root, "log.txt")

    @property
    def state(self) -> str:
        return os.path.join(self.root, _STATE_FILE)

    @property
    def model(self) -> str:
        """Names the link to the export that is taken."""
        return os.path.join(self.root, "model")

    @property
    def page(self) -> str:
        return os.path.join(self.root, "index.html")

    @property
    def try_page(self) -> str:
        return os.path.join(self.root, "try.html")

    def run(self, version: str, name: str) -> str:
        """Names the folder of a run on a version of the dataset."""
        return os.path.join(self.root, "runs", version, name)

    def linked(self) -> str | None:
        """Returns the folder that `model` links to; None without any."""
        with contextlib.suppress(OSError):
            target = os.path.normpath(os.path.join(self.root, os.readlink(self.model)))
            return target if os.path.isdir(target) else None
        return None

    def take(self, export: str) -> None:
        """Links `model` to an export; whoever reads it meanwhile finds the one before or this one."""
        staged = f"{self.model}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
        os.symlink(os.path.relpath(export, self.root), staged)
        os.replace(staged, self.model)

    def remove_if_nothing_came(self) -> None:
        """Removes the folder where the photos were refused before anything was made of them."""
        with contextlib.suppress(OSError):
            if set(os.listdir(self.root)) <= {LOCK_FILE, os.path.basename(self.log), _STATE_FILE}:
                shutil.rmtree(self.root)


def find_place(photos: str, output: str | None) -> Place:
    """Checks what the user has named, before anything is written.

    Args:
      photos: the folder of photos; on this disk, gs:// or s3://.
      output: where everything goes; None for `PHOTOS-model`.

    Raises:
      UsageError: there is no such folder, or nothing can be written to the other, or that is in use for other things.
    """
    if not storage.is_remote(photos):
        _check_photos(photos)
    root = os.path.normpath(output) if output else _beside(photos)
    if storage.is_remote(output or ""):
        raise UsageError(f"--output={output}: what is made lies on this disk; give a folder here")
    if not storage.is_remote(photos):
        inside, outside = os.path.realpath(root), os.path.realpath(photos)
        if os.path.commonpath([inside, outside]) == outside:
            raise UsageError(f"--output={root} lies inside of {photos}, whose folders are classes; take one beside it")
    check_folder(root, flag="output")
    place = Place(photos=photos, root=root)
    with contextlib.suppress(FileNotFoundError):
        if os.listdir(root) and not os.path.exists(place.state):
            raise UsageError(f"--output={root}: other things lie there; take a folder that is empty, or a new one")
    if os.path.lexists(place.model) and not os.path.islink(place.model):
        raise UsageError(f"{place.model}: no link, so another hand has put it there; move it away")
    return place


def _check_photos(photos: str) -> None:
    if not os.path.lexists(photos):
        raise UsageError(f"{photos}: no such folder;{kinds.nearest_sibling(photos) or f' {_LAYOUT}'}")
    if not os.path.isdir(photos):
        raise UsageError(f"{photos}: a file, not a folder; {_LAYOUT} (an archive: unpack it)")
    if not os.access(photos, os.R_OK | os.X_OK):
        raise UsageError(f"{photos}: this folder may not be read; chmod u+rx gives its owner the right to")
    if os.path.exists(os.path.join(photos, _STATE_FILE)):
        raise UsageError(f"{photos}: this command has made it; give the folder of photos that it was made of")
    if (what := kinds.kind_of(photos)) not in (None, kinds.PHOTOS, kinds.CHECK):
        raise UsageError(f"{photos}: {what}, not a folder of photos; {_LAYOUT}")


def _beside(photos: str) -> str:
    """Returns `PHOTOS-model`; for `.` and the like by the folder's name."""
    if storage.is_remote(photos):
        raise UsageError(f"{photos}: photos in a store; --output=DIR says where on this disk the model is made")
    base = os.path.normpath(photos)
    if os.path.basename(base) in ("", ".", ".."):
        base = os.path.abspath(base)
    if not os.path.basename(base):
        raise UsageError(f"{photos}: nothing can lie beside it; give --output=DIR")
    return f"{base}-model"
