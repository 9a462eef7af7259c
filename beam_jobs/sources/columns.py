"""Finds the columns of a table that say where an image is, its class and its split, by their usual names."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence

from pipeline.command import nearest

REQUIRED = ("uri", "label")
OURS = (*REQUIRED, "split")
# Our name → what other tools call it: Hugging Face's imagefolder has `file_name`, Keras `filename` and `class`. Case
# and separators do not count. Our own name goes before all of them.
_USUAL = {
    "uri": (
        *("image", "img", "photo", "picture", "path", "file", "url"),
        *("filepath", "filename", "filelocation", "imagefilename"),
        *("imagepath", "imagefile", "imagename", "imageurl", "imageuri", "imgpath", "imgfile", "imgname", "imgurl"),
    ),
    "label": (
        *("labels", "class", "category", "target", "classname", "labelname", "categoryname", "targetname"),
        *("classlabel", "imagelabel", "imageclass"),
    ),
    "id": ("sha256", "imageid", "recordid"),
    "split": ("splits", "set", "subset", "partition", "datasplit", "splitname"),
}
_SHOWN = 20  # columns that a message lists


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Names a table's columns.

    Attributes:
      uri: the one that says where the image is.
      label: the one that holds its class.
      split: the one that holds its official split, or "" where there is none.
    """

    uri: str
    label: str
    split: str = ""

    def __str__(self) -> str:
        split = f'split from "{self.split}"' if self.split else "no split"
        return f'images from column "{self.uri}", labels from "{self.label}", {split}'

    @property
    def needed(self) -> tuple[str, str]:
        return self.uri, self.label

    @property
    def guessed(self) -> bool:
        """Says whether a column is not called what we call it."""
        return (self.uri, self.label, self.split or "split") != OURS


@functools.cache
def say_once(text: str) -> None:
    """Prints a line on stderr, once in a process, however often a table is listed."""
    print(text, file=sys.stderr)


def one_line(name: str) -> str:
    """Spells a column's name, which spreadsheets let go over several lines, on one."""
    return " ".join(name.split())


def listed(names: Sequence[str]) -> str:
    """Words the columns that a table has, for a message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = ", ".join(f'"{one_line(name)[:50]}"' for name in names[:_SHOWN])
    return f"the columns are {shown}{more}" if names else "there are no columns: the file is empty"


def find_columns(names: Sequence[str], asked: Mapping[str, str]) -> Columns:
    """Finds our columns among a table's.

    Args:
      names: of all its columns.
      asked: what the user said: our name → the column's; "" for `split` where no column is one.

    Raises:
      ValueError: one that is needed is not there, or several may be it; says which columns there are.
    """
    found = {ours: find_column(ours, names, asked.get(ours)) for ours in OURS}
    if found["split"] is None and "split" not in asked:
        for name in names:
            if name not in found.values() and (hint := nearest(name.lower(), ["split"])):
                raise ValueError(f'column "{name}" is unknown.{hint} (--split_column= for no split)')
    return Columns(uri=found["uri"] or "", label=found["label"] or "", split=found["split"] or "")


def _plain(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())


def find_column(ours: str, names: Sequence[str], asked: str | None = None) -> str | None:
    """Finds one column; None where one that is not `REQUIRED` is not there.

    Args:
      ours: our name of it.
      names: of all columns.
      asked: the user's name of it, "" for none; None to look for the usual ones.

    Raises:
      ValueError: it is not there, or several may be it; says which columns there are.
    """
    if asked == "" and ours not in REQUIRED:
        return None
    if asked is not None:
        tiers = [[name for name in names if name == asked], [name for name in names if _plain(name) == _plain(asked)]]
    else:
        plain = [(name, _plain(name)) for name in names]
        tiers = [
            [name for name in names if name == ours],
            [name for name, spelt in plain if spelt == ours],
            [name for name, spelt in plain if spelt in _USUAL[ours]],
        ]
    candidates = next(filter(None, tiers), [])
    if len(candidates) > 1 and len(set(candidates)) == 1:
        raise ValueError(f'column "{candidates[0]}" appears twice; {listed(names)}')
    if len(candidates) > 1:
        several = " or ".join(f"--{ours}_column={name}" for name in candidates)
        raise ValueError(f"several columns may be the {ours}: give {several}; {listed(names)}")
    if candidates:
        return candidates[0]
    if asked is not None:
        raise ValueError(f'no column "{asked}" (--{ours}_column); {listed(names)}.{nearest(asked, names)}')
    if ours not in REQUIRED:
        return None
    remedy = f": name the one with --{ours}_column=NAME" if names else ""
    raise ValueError(f'no column "{ours}"; {listed(names)}{remedy}')
