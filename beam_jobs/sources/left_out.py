"""Names what a listing leaves out without looking into it, so that it can be counted and said."""

from __future__ import annotations

import dataclasses
import enum
import os

from pipeline.format import storage


class LeftOutKind(enum.Enum):
    """Says what something is that is no image of a class. A closed list: statistics.json counts by it."""

    NO_CLASS = "no_class"
    EMPTY_CLASS = "empty_class"
    DANGLING_LINK = "dangling_link"
    PLACEHOLDER = "placeholder"
    ARCHIVE = "archive"
    SIDECAR = "sidecar"
    HIDDEN = "hidden"
    SYSTEM = "system"
    UNLABELLED = "unlabelled"
    OTHER_SPLIT = "other_split"


# Kind → what follows the number: of one, of several.
_PHRASES = {
    LeftOutKind.NO_CLASS: ("file lies in no class folder", "files lie in no class folder"),
    LeftOutKind.EMPTY_CLASS: ("class folder holds no image", "class folders hold no image"),
    LeftOutKind.DANGLING_LINK: (
        "link leads nowhere (git annex get, dvc checkout fetch files)",
        "links lead nowhere (git annex get, dvc checkout fetch files)",
    ),
    LeftOutKind.PLACEHOLDER: (
        "placeholder of a file that is elsewhere (iCloud, DVC; download it)",
        "placeholders of files that are elsewhere (iCloud, DVC; download them)",
    ),
    LeftOutKind.ARCHIVE: ("archive is not unpacked", "archives are not unpacked"),
    LeftOutKind.SIDECAR: ("sidecar file (.txt, .json, …)", "sidecar files (.txt, .json, …)"),
    LeftOutKind.HIDDEN: ("hidden file or folder", "hidden files and folders"),
    LeftOutKind.SYSTEM: ("file or folder of an operating system", "files and folders of operating systems"),
    LeftOutKind.UNLABELLED: ("image without a label", "images without a label"),
    LeftOutKind.OTHER_SPLIT: (
        "split that is none of train, validation and test",
        "splits that are none of train, validation and test",
    ),
}

# What Windows, macOS and network disks leave behind, in lower case; whatever begins with "._" besides.
_SYSTEM = frozenset(
    {
        *(".ds_store", ".appledouble", ".fseventsd", ".spotlight-v100", ".temporaryitems", ".trashes", "__macosx"),
        *("icon\r", "$recycle.bin", "desktop.ini", "ehthumbs.db", "recycler", "system volume information", "thumbs.db"),
        *("#recycle", "#snapshot", ".@__thumb", "@eadir", "@recycle", "@tmp", "lost+found"),
    }
)
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
# Annotations, tables, notes and settings: text, which no image is. Arrays (.npy) are not here: they may be the images.
_SIDECARS = (
    *(".txt", ".json", ".jsonl", ".ndjson", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".ini", ".cfg"),
    *(".md", ".rst", ".html", ".htm", ".log", ".xmp", ".aae", ".md5", ".sha1", ".sha256", ".py", ".ipynb"),
    *(".xls", ".xlsx", ".parquet", ".db", ".url", ".lnk"),
)
_PLACEHOLDERS = (".icloud", ".dvc")  # `.name.jpg.icloud`, `name.jpg.dvc`


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Describes one thing that a source holds and does not offer.

    Attributes:
      kind: a value of `LeftOutKind`.
      uri: where it is, as in `SourceItem.uri`.
      label: of an `EMPTY_CLASS`, its class: the folder counts as empty unless an image of it is listed.
      split: of an `EMPTY_CLASS`, its official split.
    """

    kind: str
    uri: str
    label: str = ""
    split: str | None = None


def described(kind: str, count: int) -> str:
    """Says in words how many things of a kind are left out: `5 files lie in no class folder`."""
    one, several = _PHRASES[LeftOutKind(kind)]
    return f"{count} {one if count == 1 else several}"


def readable(name: str) -> str:
    r"""Spells a file's name as valid Unicode, from which `raw` finds it again.

    Bytes that are not UTF-8 show as `\xNN`. So that nothing else looks like that, a backslash before an "x" shows as
    `\x5c`; all other names stay what they are.
    """
    if "\\x" not in name and name.isascii():
        return name
    return os.fsencode(name.replace("\\x", "\\x5cx")).decode("utf-8", "backslashreplace")


def raw(uri: str) -> str:
    """Finds the name that `readable` spelled, as the operating system's functions take it."""
    first, *others = uri.split("\\x")
    data = first.encode()
    for part in others:
        data += bytes.fromhex(part[:2]) + part[2:].encode()
    return os.fsdecode(data)


def kind_of(entry: storage.Entry) -> LeftOutKind | None:
    """Says what a folder's entry is by its name, or None: a folder, or perhaps an image."""
    name = entry.name.lower()
    if name in _SYSTEM or name.startswith("._"):
        return LeftOutKind.SYSTEM
    if entry.is_folder:
        return LeftOutKind.HIDDEN if name.startswith(".") else None
    rules = {
        LeftOutKind.PLACEHOLDER: name.endswith(_PLACEHOLDERS),
        LeftOutKind.HIDDEN: name.startswith("."),
        LeftOutKind.DANGLING_LINK: not entry.stamp,
        LeftOutKind.ARCHIVE: name.endswith(ARCHIVES),
        LeftOutKind.SIDECAR: name.endswith(_SIDECARS),
    }
    return next((kind for kind, holds in rules.items() if holds), None)
