"""Knows `index.html` of a folder, a name that others use for pages of their own."""

from __future__ import annotations

from pipeline.format import storage

PAGE = "index.html"


def is_foreign(folder: storage.Path, title: str) -> bool:
    """Says whether a page lies in a folder that is not one of ours.

    Args:
      folder: on a disk or in a store.
      title: with which the text of each of ours has its title end.
    """
    try:
        return f"{title}</title>" not in storage.read_text(storage.join(folder, PAGE))
    except FileNotFoundError:
        return False
    except ValueError:  # no UTF-8
        return True
