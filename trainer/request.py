"""What a user asked trainer.main for, and whether a run has already done exactly that. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
import json

from etils import epath

from pipeline.format.manifest import DatasetVersion
from pipeline.format.storage import write_atomically

FINISHED = "_SUCCESS"  # written last: its presence says that the run is whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """The flags that decide what a run computes; see trainer.main for their meaning."""

    data: str
    recipe: str
    backbone: str | None
    weights: str | None
    settings: tuple[str, ...]
    seed: int
    skip_bad_records: bool = False

    def _text(self, data: DatasetVersion) -> str:
        content = {"version": data.manifest.version, "fingerprint": data.manifest.source_fingerprint}
        return json.dumps({**dataclasses.asdict(self), "dataset": content}, indent=2, sort_keys=True) + "\n"

    def is_done(self, run: epath.Path, data: DatasetVersion) -> bool:
        """Whether `run` was finished by this same request on the same content; spares the import of TensorFlow."""
        file = run / FINISHED
        return file.exists() and file.read_text() == self._text(data)

    def mark_done(self, run: epath.Path, data: DatasetVersion) -> None:
        write_atomically(run / FINISHED, self._text(data))
