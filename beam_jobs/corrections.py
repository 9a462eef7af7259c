"""Holds what a person decided about single images: which to leave out, and which class others are of (two CSV files).

An image is named by its id (sha256, hex), which its copies share, or by its URI. What is held travels with the settings
to every worker: digests, not names, and a bounded number of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from beam_jobs.sources.columns import find_column, listed
from beam_jobs.sources.delimited import delimited_fields
from beam_jobs.sources.rows import RowError, check_text
from pipeline.command import DataError, UsageError, nearest

MAX_ROWS = 20_000  # 20 bytes each in every step of a job, which an engine takes up to 10 MB of
_ID_DIGITS = 64


def _key(kind: str, name: str) -> bytes:
    return hashlib.blake2b(f"{kind}:{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrections:
    """Says which images are left out and which get another class.

    Attributes:
      excluded: keys of the images that are left out; see `keys_of`.
      labels: key → class.
      digest: names the content; "" where there is none.
    """

    excluded: frozenset[bytes] = frozenset()
    labels: Mapping[bytes, str] = dataclasses.field(default_factory=dict)
    digest: str = ""

    def excludes(self, uri: str, image_id: bytes | None = None) -> bool:
        """Says whether an image is left out; its id may not be known yet."""
        return bool(self.excluded) and any(key in self.excluded for key in keys_of(uri, image_id))

    def label(self, uri: str, image_id: bytes | None = None) -> str | None:
        """Returns the class that a person gave an image, if any; by its URI before that by its id, if it is known."""
        if not self.labels:
            return None
        return next((self.labels[key] for key in keys_of(uri, image_id) if key in self.labels), None)

    def check_classes(self, labels: Sequence[str]) -> None:
        """Refuses a class that no image is listed under. Raises DataError."""
        if unknown := sorted(set(self.labels.values()) - set(labels)):
            hint = nearest(unknown[0], labels)
            raise DataError(f'--relabel: "{unknown[0][:100]}" is none of the {len(labels)} classes.{hint}')


def keys_of(uri: str, image_id: bytes | None) -> Iterator[bytes]:
    """Yields the keys of an image: of its URI, and, where it is known, of its id (32 bytes)."""
    yield _key("uri", uri)
    if image_id is not None:
        yield _key("id", image_id.hex())


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    line: int
    key: bytes
    name: str
    label: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Names:
    id: str | None
    uri: str | None
    label: str | None

    @property
    def needed(self) -> Sequence[str]:
        return [name for name in (self.id or self.uri, self.label) if name]


def _choose(names: Sequence[str], *, labels: bool) -> _Names:
    """Chooses the columns. Raises ValueError."""
    # Records call a URI `source`.
    uri = _usual("uri", names) or next((name for name in names if name == "source"), None)
    # A table of label issues has both labels of an image, the one that it has and the one that it should have.
    label = next((name for name in names if name == "suggested"), None) or _usual("label", names)
    found = _Names(id=_usual("id", names), uri=uri, label=label if labels else None)
    if not (found.id or found.uri):
        raise ValueError(f'no column "id" or "uri"; {listed(names)}')
    if labels and not found.label:
        raise ValueError(f'no column "label"; {listed(names)}')
    return found


def _usual(ours: str, names: Sequence[str]) -> str | None:
    try:
        return find_column(ours, names)
    except ValueError:
        return None


def _entries(path: str, flag: str) -> Iterator[_Entry]:
    """Reads a file's rows. Raises UsageError, DataError."""
    labels = flag == "relabel"
    seen: dict[bytes, _Entry] = {}
    try:
        for line, names, fields in delimited_fields(path, lambda columns: _choose(columns, labels=labels)):
            entry = _entry(line, names, fields)
            if seen.setdefault(entry.key, entry).label != entry.label:
                raise RowError(line, f"{entry.name} has another class than in line {seen[entry.key].line}")
            if len(seen) > MAX_ROWS:
                raise RowError(line, f"more than {MAX_ROWS} images; correct so many in the input itself")
    except FileNotFoundError:
        raise UsageError(f"--{flag}={path}: no such file") from None
    except OSError as error:
        raise UsageError(f"--{flag}={path}: {error.strerror or error}") from error
    except RowError as error:
        raise DataError(f"--{flag}={path}, {error}") from error
    return iter(seen.values())


def _entry(line: int, names: _Names, fields: Mapping[str, str]) -> _Entry:
    image_id = fields.get(names.id or "", "").strip().lower()
    uri = fields.get(names.uri or "", "").strip()
    label = unicodedata.normalize("NFC", fields.get(names.label or "", "").strip())
    if not (image_id or uri):
        raise RowError(line, "neither an id nor a URI")
    if image_id and (len(image_id) != _ID_DIGITS or not set(image_id) <= set("0123456789abcdef")):
        raise RowError(line, f'id "{image_id[:80]}" is no sha256: {_ID_DIGITS} hexadecimal digits')
    if names.label is not None:
        try:
            check_text(names.label, label)
        except ValueError as error:
            raise RowError(line, str(error)) from error
    key = _key("id", image_id) if image_id else _key("uri", uri)
    return _Entry(line=line, key=key, name=image_id or uri, label=label)


def read_corrections(exclude: str | None, relabel: str | None) -> Corrections:
    """Reads the files of --exclude (columns id or uri) and --relabel (id or uri, and suggested, else label).

    Raises:
      UsageError: a file is not there.
      DataError: a file is damaged, contradicts itself, or is too long.
    """
    excluded = frozenset(entry.key for entry in _entries(exclude, "exclude")) if exclude else frozenset()
    labels = {entry.key: entry.label for entry in _entries(relabel, "relabel")} if relabel else {}
    if not excluded and not labels:
        return Corrections()
    content = [sorted(key.hex() for key in excluded), sorted((key.hex(), label) for key, label in labels.items())]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return Corrections(excluded=excluded, labels=labels, digest=digest)


def unknown_names(path: str, flag: str, known: Iterable[bytes]) -> list[str]:
    """Lists the ids and URIs of a file of --exclude or --relabel that name none of the known keys' images."""
    keys = {entry.key: entry.name for entry in _entries(path, flag)}
    for key in known:
        keys.pop(key, None)
    return list(keys.values())
