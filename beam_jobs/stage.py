"""Provides what the job's steps have in common: the configuration, and handing on blocks of rows."""

from __future__ import annotations

from collections.abc import Iterable

import apache_beam as beam

from beam_jobs.job_config import JobConfig
from beam_jobs.rows import pack
from beam_jobs.spool import Block, Spool


class Spooling(beam.DoFn):
    """Hands on blocks of rows; the base of all steps that do."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def setup(self) -> None:
        self._spool = Spool(self._config.spool)

    def put(self, rows: Iterable[tuple]) -> Block:
        return self._spool.put(pack(rows))
