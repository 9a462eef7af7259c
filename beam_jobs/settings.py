"""Holds what the graph's steps need to know: the source, and what the user asked for."""

from __future__ import annotations

import dataclasses

from beam_jobs.config import BuildConfig
from beam_jobs.sources import Source
from pipeline.format import storage

WORK_DIR = ".build"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Holds everything that the workers need to know; picklable.

    Attributes:
      source: where images come from.
      build: what the user asked for.
      labels: the source's class names in their order, or () where it has none.
      source_fingerprint: the source's own.
      run: names this run, whose notes the launcher looks for.
      decoders: images that a worker decodes at a time.
      recalls: whether earlier runs may have left findings.
      images_per_search: images that one worker compares at a time, about; see near.py.
    """

    source: Source
    build: BuildConfig
    labels: tuple[str, ...]
    source_fingerprint: str
    run: str
    decoders: int = 1
    recalls: bool = True
    images_per_search: int = 50_000

    def __post_init__(self) -> None:
        if self.images_per_search < 1 or self.decoders < 1:
            raise ValueError(
                f"images_per_search and decoders must be positive, got {self.images_per_search}, {self.decoders}"
            )

    @property
    def findings(self) -> str:
        """Names the folder of what earlier runs found under the same policy with the same decoders."""
        return storage.join(self.build.output, WORK_DIR, "findings", self.inspection)

    @property
    def inspection(self) -> str:
        """Names the policy and the decoders: findings of others do not count."""
        return self.build.inspection()

    @property
    def notes(self) -> str:
        """Names the folder of what this run tells its launcher."""
        return storage.join(self.build.output, WORK_DIR, "runs", self.run)

    def note(self, name: str) -> str:
        """Names a note: `listed`, the number of images; `result`, how the run ended."""
        return storage.join(self.notes, name)

    def shard_reports(self, version: str) -> str:
        """Names the folder of the reports that say which shards of a version are whole."""
        return storage.join(self.build.output, WORK_DIR, "shards", version)
