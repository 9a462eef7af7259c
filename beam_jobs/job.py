"""The Beam graph: buckets of the listing → rows → without copies → splits → shards.

Rows (metadata) are shuffled, image bytes never: the shard writer reads each image again, or what inspection encoded
from a file. What a step leaves behind is a file written atomically under a name that follows from its content, so
bundles may run twice or be killed.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from beam_jobs import exact
from beam_jobs.duplicates import Distinct, near_duplicates
from beam_jobs.errors import BuildError, storage_errors
from beam_jobs.inspection import BUCKETS, inspect_items, read_bucket, write_atomically
from beam_jobs.plan import Assign, Positions, add_counts, cut_class, decide, reject_counts
from beam_jobs.progress import Counter
from beam_jobs.rows import Row, unpack, unpack_rejects
from beam_jobs.shards import SourceChanged, make_record, shard_name, shard_of, write_shard
from beam_jobs.sources import ReadError
from beam_jobs.spool import Block
from beam_jobs.stage import JobConfig, Spooling
from pipeline.cli import ExitCode

PLAN_FILE = "plan.json"
REJECTS_FILE = "rejects.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
STAGES = ("inspecting", "writing")


class Inspect(Spooling):
    """bucket → (partition by pixels, block of rows); tagged `rejects`: blocks of rejects."""

    def setup(self) -> None:
        super().setup()
        self._progress = Counter(self._config.progress, STAGES[0])

    def process(self, bucket: str) -> Iterator[Any]:
        config = self._config
        with storage_errors(config.staging):
            rows, rejects = inspect_items(
                read_bucket(config.listing, bucket),
                config.source,
                policy=config.policy,
                cache_file=os.path.join(config.cache, bucket),
                progress=self._progress,
                store=self._spool.store,
            )
        partitions: dict[int, list[Row]] = collections.defaultdict(list)
        for row in rows:
            partitions[int.from_bytes(row.pixels[:8], "big") % config.partitions].append(row)
        for partition, members in partitions.items():
            yield partition, self.put(members)
        if rejects:
            yield beam.pvalue.TaggedOutput("rejects", self.put(rejects))

    def finish_bundle(self) -> None:
        self._progress.flush()


class DropCopies(Spooling):
    """(partition, blocks) → block of distinct images; tagged `rejects`: blocks, `groups`: lines of duplicates.jsonl."""

    def process(self, element: tuple[int, Iterable[Block]]) -> Iterator[Any]:
        resolved = exact.resolve(row for block in element[1] for row in unpack(block))
        if resolved.kept:
            yield self.put(resolved.kept)
        if resolved.rejects:
            yield beam.pvalue.TaggedOutput("rejects", self.put(resolved.rejects))
        for line in resolved.groups:
            yield beam.pvalue.TaggedOutput("groups", line)


class ToShards(Spooling):
    """Block of rows → ((split, shard), block); nothing where the plan says that nothing may be written."""

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
    """((split, shard), blocks) → nothing; leaves the shard and its report."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._labels = {label: number for number, label in enumerate(config.labels)}

    def setup(self) -> None:
        self._progress = Counter(self._config.progress, STAGES[1])

    def process(self, element: tuple[tuple[str, int], Iterable[Block]], plan: Mapping[str, Any]) -> None:
        (split, shard), blocks = element
        config = self._config
        name = shard_name(name=config.name, split=split, shard=shard, count=plan["shards"][split])
        previous = config.previous.reader(shard).find if config.previous else None
        try:
            with storage_errors(config.staging):
                write_shard(
                    (row for block in blocks for row in unpack(block)),
                    directory=config.staging,
                    reports=config.reports,
                    name=name,
                    record=lambda row: make_record(
                        row, config.source, policy=config.policy, label=self._labels[row.label], previous=previous
                    ),
                    progress=self._progress.add,
                )
        except SourceChanged as error:
            raise BuildError(
                ExitCode.AGAIN, f"{error} changed while the build ran; run the same command again"
            ) from error
        except ReadError as error:
            raise BuildError(
                ExitCode.AGAIN, f"an image could be inspected but not read again ({error}); run the same command again"
            ) from error

    def finish_bundle(self) -> None:
        self._progress.flush()


class WriteLines(beam.DoFn):
    """(file name, lists of lines) → nothing; leaves the file in the staging directory, sorted."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def process(self, element: tuple[str, Iterable[list[str]]]) -> None:
        name, several = element
        lines = sorted(line for lines in several for line in lines)
        with storage_errors(self._config.staging):
            path = os.path.join(self._config.staging, name)
            write_atomically(path, "".join(f"{line}\n" for line in lines).encode(), durable=True)


def _reject_lines(block: Block) -> tuple[str, list[str]]:
    return REJECTS_FILE, [json.dumps(reject._asdict(), ensure_ascii=False) for reject in unpack_rejects(block)]


def build_graph(pipeline: beam.Pipeline, config: JobConfig) -> None:
    """Adds the whole job to a pipeline; it leaves shards, rejects, duplicates and the plan in the staging directory."""
    inspected = (
        pipeline
        | "Buckets" >> beam.Create(BUCKETS)
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
