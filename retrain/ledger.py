"""Keeps what a registry has decided, and which model is the champion, in a way that no writer can undo another's.

On a disk: decisions.jsonl, one line a decision, and the symbolic link `champion`. A link, not a file with a number in
it, because whatever serves the model takes a path: `MODELS/champion` works in any server or script that has never heard
of this project, and rename() over it is atomic.

In a store, which has neither links nor appending: numbered objects, decisions/00000007.json and champions/00000003.txt,
each of which only one writer can create (a precondition that there is none). The last one counts. Beside them CHAMPION
holds the number alone, for scripts.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from pipeline.command import DataError, TryAgainError
from pipeline.format import storage

CHAMPION = "champion"
DECISIONS_FILE = "decisions.jsonl"
_CHAMPION_FILE = "CHAMPION"  # in a store
_DECISIONS, _CHAMPIONS = "decisions", "champions"  # folders in a store
_STAGING = ".staging-champion"


def champion_number(root: str) -> int | None:
    """Returns the number that the pointer names, None without a pointer; DataError if it is damaged."""
    if storage.is_remote(root):
        last = _last(root, _CHAMPIONS)
        return _number(storage.read_text(_object(root, _CHAMPIONS, last)).strip(), root) if last else None
    link = storage.join(root, CHAMPION)
    try:
        target = os.readlink(link)  # one call, so that a reader beside a writer sees one state
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{link}: not a symbolic link; the registry cannot replace it. Move it away") from error
    return _number(target, link)


def _number(text: str, place: str) -> int:
    if not text.isdecimal():
        raise DataError(f"{place} points to {text}, which is no model; let it point to a numbered one or remove it")
    return int(text)


def point(root: str, number: int) -> None:
    """Makes a model the champion.

    Raises:
      TryAgainError: another process has done so at this moment.
    """
    if not storage.is_remote(root):
        replace_link(storage.join(root, CHAMPION), str(number), staging=root)  # relative: the registry may be moved
        return
    last = _last(root, _CHAMPIONS)
    name, content = _object(root, _CHAMPIONS, last + 1), f"{number}\n"
    if not storage.create(name, content) and storage.read_text(name) != content:
        raise TryAgainError(f"{root}: another process has made a champion at this moment; look, and run again")
    storage.write_atomically(storage.join(root, _CHAMPION_FILE), content)


def replace_link(link: str, target: str, *, staging: str) -> None:
    """Points a symbolic link, atomically and durably; `staging` is a folder on the same disk."""
    temporary = pathlib.Path(staging, _STAGING)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target, target_is_directory=True)
    os.replace(temporary, link)
    fsync(os.path.dirname(link))


def fsync(path: str | os.PathLike[str]) -> None:
    """Flushes a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def decisions(root: str) -> list[dict[str, Any]]:
    """Reads the decision log, oldest first. A torn last line, of an append that was killed, does not count."""
    if storage.is_remote(root):
        names = [_object(root, _DECISIONS, number) for number in _numbers(root, _DECISIONS)]
        return [_parsed(storage.read(name), name) for name in names]
    file = storage.join(root, DECISIONS_FILE)
    if not storage.exists(file):
        return []
    lines = storage.read(file).split(b"\n")[:-1]  # what follows the last newline was never finished
    return [_parsed(line, f"{file}, line {number}") for number, line in enumerate(lines, start=1)]


def _parsed(content: bytes, place: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(content)
    except ValueError as error:
        raise DataError(f"{place}: not JSON; repair or remove that line") from error
    return record


def append_decision(root: str, record: Mapping[str, Any]) -> None:
    """Adds a decision to the log, durably; a torn line of a killed append is cut off first."""
    content = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    if storage.is_remote(root):
        number = _last(root, _DECISIONS) + 1
        while not storage.create(_object(root, _DECISIONS, number), content):
            if storage.read(_object(root, _DECISIONS, number)) == content:  # the answer was lost on the way
                return
            number += 1
        return
    storage.make_folder(root)
    with open(storage.join(root, DECISIONS_FILE), "ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fsync(root)


def _object(root: str, folder: str, number: int) -> str:
    return storage.join(root, folder, f"{number:08}.{'json' if folder == _DECISIONS else 'txt'}")


def _numbers(root: str, folder: str) -> list[int]:
    try:
        entries = storage.list_folder(storage.join(root, folder))
    except FileNotFoundError:
        return []
    return sorted(int(stem) for entry in entries if (stem := entry.name.partition(".")[0]).isdecimal())


def _last(root: str, folder: str) -> int:
    return max(_numbers(root, folder), default=0)
