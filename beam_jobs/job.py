"""Builds the Beam graph: buckets of the listing → rows → without copies → splits → shards.

Rows (metadata) are shuffled, image bytes never: the shard writer reads each image again, or what inspection encoded
from a file. What a step leaves behind is a file written atomically under a name that follows from its content, so
bundles may run twice or be killed.
"""

from __future__ import annotations

import collections
import concurrent.futures
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from beam_jobs import crew, exact
from beam_jobs.duplicates import Distinct, near_duplicates
from beam_jobs.errors import storage_errors
from beam_jobs.job_config import JobConfig
from beam_jobs.plan import Assign, Positions, cut_class, decide, reject_counts
from beam_jobs.planning import add_counts
from beam_jobs.rows import Row, unpack, unpack_rejects
from beam_jobs.shards import shard_of
from beam_jobs.spool import Block
from beam_jobs.stage import Spooling
from beam_jobs.tasks import Tasks
from pipeline.format.storage import write_atomically

PLAN_FILE = "plan.json"
REJECTS_FILE = "rejects.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"


class Inspect(beam.DoFn):
    """Inspects buckets. Group of buckets → (pixel partition, block of rows); tagged `rejects`: blocks of rejects."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def setup(self) -> None:
        self._crew = crew.current()
        self._tasks = Tasks(self._config)

    def process(self, buckets: tuple[str, ...]) -> Iterator[Any]:
        if self._crew:
            blocks, rejects = self._crew.inspect(buckets)
        else:
            blocks, rejects = self._tasks.inspect(buckets)
        yield from blocks
        if rejects:
            yield beam.pvalue.TaggedOutput("rejects", rejects)


class DropCopies(Spooling):
    """Drops exact duplicates, and those that stand under several labels.

    (partition, blocks) → block of distinct images; tagged `rejects`: blocks, `groups`: lines of duplicates.jsonl.
    """

    def process(self, element: tuple[int, Iterable[Block]]) -> Iterator[Any]:
        resolved = exact.resolve(row for block in element[1] for row in unpack(block))
        if resolved.kept:
            yield self.put(resolved.kept)
        if resolved.rejects:
            yield beam.pvalue.TaggedOutput("rejects", self.put(resolved.rejects))
        for line in resolved.groups:
            yield beam.pvalue.TaggedOutput("groups", line)


class ToShards(Spooling):
    """Sends rows to their shards, or nowhere where the plan says that nothing may be written.

    Block of rows → ((split, shard), block).
    """

    def process(self, block: Block, plan: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int], Block]]:
        if plan["error"]:
            return
        shards: dict[tuple[str, int], list[Row]] = collections.defaultdict(list)
        for row in unpack(block):
            split = row.split or ""
            shards[split, shard_of(row, plan["shards"][split])].append(row)
        for key, rows in shards.items():
            yield key, self.put(rows)


class WriteShard(beam.DoFn):
    """Writes a shard and its report. ((split, shard), blocks) → nothing."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def setup(self) -> None:
        self._crew = crew.current()
        self._tasks = Tasks(self._config)

    def start_bundle(self) -> None:
        self._under_way: list[concurrent.futures.Future[None]] = []

    def process(self, element: tuple[tuple[str, int], Iterable[Block]], plan: Mapping[str, Any]) -> None:
        (split, shard), blocks = element
        task = split, shard, plan["shards"][split], list(blocks)
        if self._crew:
            self._under_way.append(self._crew.submit("write", *task))
        else:
            self._tasks.write(*task)

    def finish_bundle(self) -> None:
        for shard in self._under_way:
            crew.result(shard)


class WriteLines(beam.DoFn):
    """Writes a file of sorted lines into the staging directory. (file name, lists of lines) → nothing."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def process(self, element: tuple[str, Iterable[list[str]]]) -> None:
        name, several = element
        lines = sorted(line for lines in several for line in lines)
        with storage_errors(self._config.staging):
            path = os.path.join(self._config.staging, name)
            write_atomically(path, "".join(f"{line}\n" for line in lines), shared=True, durable=True)


def _reject_lines(block: Block) -> tuple[str, list[str]]:
    return REJECTS_FILE, [json.dumps(reject._asdict(), ensure_ascii=False) for reject in unpack_rejects(block)]


def build_graph(pipeline: beam.Pipeline, config: JobConfig) -> None:
    """Adds the whole job to a pipeline; it leaves shards, rejects, duplicates and the plan in the staging directory."""
    inspected = (
        pipeline
        | "Buckets" >> beam.Create(config.bucket_groups)
        | "SpreadBuckets" >> beam.Reshuffle()
        | "Inspect" >> beam.ParDo(Inspect(config)).with_outputs("rejects", main="rows")
    )
    exact_free = (
        inspected.rows  # (partition, block)
        | "GroupByPixels" >> beam.GroupByKey()
        | "DropCopies" >> beam.ParDo(DropCopies(config)).with_outputs("rejects", "groups", main="rows")
    )
    distinct = Distinct(rows=exact_free.rows, rejects=exact_free.rejects, groups=exact_free.groups)
    if config.near_duplicates != "keep":
        near = near_duplicates(exact_free.rows, mode=config.near_duplicates, total=config.total, spool=config.spool)
        distinct = Distinct(
            rows=near.rows,
            rejects=(exact_free.rejects, near.rejects) | "CopyRejects" >> beam.Flatten(),
            groups=(exact_free.groups, near.groups) | "AllGroups" >> beam.Flatten(),
        )
    rejects = (inspected.rejects, distinct.rejects) | "AllRejects" >> beam.Flatten()  # block
    cuts = (
        distinct.rows  # block
        | "Positions" >> beam.ParDo(Positions(config))  # (label, positions)
        | "GroupByLabel" >> beam.GroupByKey()
        | "CutClasses" >> beam.Map(cut_class, config)  # (label, cuts)
    )
    assigned = distinct.rows | "Assign" >> beam.ParDo(Assign(config), cuts=beam.pvalue.AsDict(cuts)).with_outputs(
        "counts", main="rows"
    )
    plan = (
        (assigned.counts, rejects | "CountRejects" >> beam.Map(reject_counts))
        | "AllCounts" >> beam.Flatten()
        | "AddCounts" >> beam.CombineGlobally(add_counts)
        | "Decide" >> beam.Map(decide, cuts=beam.pvalue.AsDict(cuts), config=config)
    )
    _ = (
        assigned.rows
        | "ToShards" >> beam.ParDo(ToShards(config), plan=beam.pvalue.AsSingleton(plan))
        | "GroupByShard" >> beam.GroupByKey()
        | "WriteShard" >> beam.ParDo(WriteShard(config), plan=beam.pvalue.AsSingleton(plan))
    )
    _ = (
        (
            plan | "PlanLine" >> beam.Map(lambda plan: (PLAN_FILE, [json.dumps(plan, ensure_ascii=False)])),
            rejects | "RejectLines" >> beam.Map(_reject_lines),
            distinct.groups | "GroupLines" >> beam.Map(lambda line: (DUPLICATES_FILE, [line])),
        )
        | "AllLines" >> beam.Flatten()
        | "GroupByFile" >> beam.GroupByKey()
        | "WriteLines" >> beam.ParDo(WriteLines(config))
    )
