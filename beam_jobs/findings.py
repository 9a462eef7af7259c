"""Keeps what inspection found beside the versions, in part files: what a killed run leaves to whoever goes on."""

from __future__ import annotations

from collections.abc import Sequence

from beam_jobs import parts
from beam_jobs.coders import finding_bytes, finding_of
from beam_jobs.elements import Finding

_FORM = "findings 2"


def write_findings(findings: Sequence[Finding], folder: str) -> None:
    """Writes findings as a part file; a bundle that runs twice leaves two equal ones. Raises OSError."""
    parts.write_part([finding_bytes(finding) for finding in findings], folder, form=_FORM)


def read_findings(path: str) -> list[Finding]:
    """Reads a part file; of a damaged one, or one that has gone, nothing."""
    try:
        return [finding_of(entry) for entry in parts.read_part(path, form=_FORM)]
    except (ValueError, TypeError, KeyError):
        return []
