"""Tells a person what became, in a version, of what they decided about single images."""

from __future__ import annotations

import json
from collections.abc import Iterator

from beam_jobs.corrections import keys_of, unknown_names
from beam_jobs.version.table import read_names, tables
from pipeline.command import printable_line
from pipeline.format import storage
from pipeline.format.manifest import STATISTICS_FILE

_EXAMPLES = 3


def remarks(directory: str, *, exclude: str | None, relabel: str | None) -> Iterator[str]:
    """Yields lines for a person: how many images were given a class, and what names no image.

    Args:
      directory: of the version.
      exclude: the file of --exclude, if any.
      relabel: the file of --relabel, if any.
    """
    files = {flag: path for flag, path in (("exclude", exclude), ("relabel", relabel)) if path}
    if relabel:
        statistics = json.loads(storage.read_text(storage.join(directory, STATISTICS_FILE)))
        yield f"  {statistics['total']['relabelled']} images have the class that --relabel gives them"
    if not files:
        return
    known = {
        key
        for name in tables(directory)
        for uri, image_id in read_names(storage.join(directory, name))
        for key in keys_of(uri, image_id)
    }
    for flag, path in files.items():
        if unknown := unknown_names(path, flag, known):
            shown = printable_line(", ".join(unknown[:_EXAMPLES]))
            yield f"warning: --{flag}={path}: {len(unknown)} of its rows name no image that is read here, like {shown}"
