"""Imports Beam without the connectors that no step of ours uses."""

from __future__ import annotations

import gc
import sys

# Beam imports each of its connectors whose package is there, and does without where it is not: 35 MB a process.
_UNUSED = ("apache_beam.io.gcp.bigquery", "bson", "pyarrow", "pymongo")


def import_beam() -> None:
    """Imports Beam, if it is not, as if these packages were not installed; who imports them later finds them."""
    if "apache_beam" in sys.modules:
        return
    hidden = [name for name in _UNUSED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment] # makes importing it fail
    gc.disable()
    try:
        import apache_beam  # noqa: F401
    finally:
        gc.freeze()  # looking for garbage among what stays anyway takes 60 ms each time
        gc.enable()
        for name in hidden:
            del sys.modules[name]
