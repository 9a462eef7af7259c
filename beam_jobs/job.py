"""The Beam graph: buckets of the listing → rows → without copies → splits → shards.

Rows (metadata) are shuffled, image bytes never: the shard writer reads each image again. What a step leaves behind is
a file written atomically under a name that follows from its content, so bundles may run twice or be killed.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from beam_jobs import exact, splits
from beam_jobs.duplicates import Distinct, near_duplicates
from beam_jobs.errors import BuildError, storage_errors
from beam_jobs.images import PixelPolicy, RejectCode
from beam_jobs.inspection import BUCKETS, inspect_items, read_bucket, write_atomically
from beam_jobs.previous import PreviousVersion
from beam_jobs.progress import Counter
from beam_jobs.rows import Row, pack, split_group, split_stratum, unpack, unpack_rejects
from beam_jobs.shards import SourceChanged, make_record, num_shards, record_bytes, shard_name, shard_of, write_shard
from beam_jobs.sources import ReadError, Source
from beam_jobs.spool import Block, Spool
from pipeline.cli import DataError, ExitCode

PLAN_FILE = "plan.json"
REJECTS_FILE = "rejects.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
STAGES = ("inspecting", "writing")

# A copy is no fault of the input: nothing is lost by leaving it out.
_NO_FAULT = frozenset(
    code.value for code in (RejectCode.DUPLICATE, RejectCode.NEAR_DUPLICATE, RejectCode.TRAIN_COPY_OF_TEST)
)
_ROWS_PER_PARTITION = 4_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobConfig:
    """Everything that the workers need to know; picklable.

    Attributes:
      source: where images come from.
      policy: what is accepted and what a record looks like.
      name: of the dataset.
      labels: class names, in order.
      total: number of images listed.
      fractions: of the splits that the build chooses.
      split_by: "rank" or "hash".
      near_duplicates: "keep", "drop" or "group"; see duplicates.py.
      validation_fraction: part of the official training images that becomes validation where the source has none.
      official: the official splits that the source names.
      seed: of the split.
      max_reject_fraction: above this part of refused images nothing is written.
      listing: directory with the bucket files.
      cache: directory with the inspection cache.
      staging: directory in which the dataset version is put together.
      reports: directory for the shards' reports.
      progress: directory for the workers' counters.
      spool: directory for blocks of rows on their way from step to step.
      previous: the version whose encoded images can be taken over, or None.
    """

    source: Source
    policy: PixelPolicy
    name: str
    labels: tuple[str, ...]
    total: int
    fractions: splits.SplitFractions
    split_by: str
    near_duplicates: str
    validation_fraction: float
    official: tuple[str, ...]
    seed: int
    max_reject_fraction: float
    listing: str
    cache: str
    staging: str
    reports: str
    progress: str
    spool: str
    previous: PreviousVersion | None

    @property
    def partitions(self) -> int:
        return -(-self.total // _ROWS_PER_PARTITION)


class _Spooling(beam.DoFn):
    """A step that hands on blocks of rows."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config

    def setup(self) -> None:
        self._spool = Spool(self._config.spool)

    def _put(self, rows: Iterable[tuple]) -> Block:
        return self._spool.put(pack(rows))


class Inspect(_Spooling):
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
            yield partition, self._put(members)
        if rejects:
            yield beam.pvalue.TaggedOutput("rejects", self._put(rejects))

    def finish_bundle(self) -> None:
        self._progress.flush()


class DropCopies(_Spooling):
    """(partition, blocks) → block of distinct images; tagged `rejects`: blocks, `groups`: lines of duplicates.jsonl."""

    def process(self, element: tuple[int, Iterable[Block]]) -> Iterator[Any]:
        resolved = exact.resolve(row for block in element[1] for row in unpack(block))
        if resolved.kept:
            yield self._put(resolved.kept)
        if resolved.rejects:
            yield beam.pvalue.TaggedOutput("rejects", self._put(resolved.rejects))
        for line in resolved.groups:
            yield beam.pvalue.TaggedOutput("groups", line)


class Positions(beam.DoFn):
    """Block → (label, positions of its images), for the classes' cuts; only images whose split the build chooses."""

    def __init__(self, config: JobConfig) -> None:
        self._seed = config.seed

    def process(self, block: Block) -> Iterator[tuple[str, bytes]]:
        labels: dict[str, array.array[int]] = collections.defaultdict(lambda: array.array("Q"))
        for row in unpack(block):
            if row.official is None:
                labels[split_stratum(row)].append(splits.position(split_group(row), seed=self._seed))
        for label, positions in labels.items():
            yield label, positions.tobytes()


def cut_class(element: tuple[str, Iterable[bytes]], config: JobConfig) -> tuple[str, splits.Cuts | str]:
    """(label, blocks of positions) → (label, where the class is cut, or why it cannot be)."""
    label, blocks = element
    if config.split_by == "hash":
        return label, splits.cuts_by_hash(config.fractions)
    sizes: collections.Counter[int] = collections.Counter()
    for block in blocks:
        sizes.update(array.array("Q", block))
    try:
        return label, splits.cuts_by_rank(sizes.items(), config.fractions)
    except DataError as error:
        return label, f'class "{label}": {error}'


class Assign(_Spooling):
    """Block → block with the split of every row decided; tagged `counts`: [(split, label, examples, bytes)]."""

    def _split(self, row: Row, cuts: Mapping[str, splits.Cuts | str]) -> str:
        config = self._config
        if row.official is None:
            cut = cuts[split_stratum(row)]
            return config.fractions.names[0] if isinstance(cut, str) else cut.split(self._position(row))
        if row.official == "train" and "validation" not in config.official:
            held_out = config.validation_fraction * splits.POSITIONS
            return "validation" if self._position(row) < held_out else "train"
        return row.official

    def _position(self, row: Row) -> int:
        return splits.position(split_group(row), seed=self._config.seed)

    def process(self, block: Block, cuts: Mapping[str, splits.Cuts | str]) -> Iterator[Any]:
        # What only the steps before this one needed need not travel on.
        rows = [row._replace(split=self._split(row, cuts), perceptual_hash=b"") for row in unpack(block)]
        counts: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
        for row in rows:
            count = counts[row.split or "", row.label]
            count[0] += 1
            count[1] += record_bytes(row)
        yield self._put(rows)
        yield beam.pvalue.TaggedOutput("counts", [(*key, *value) for key, value in counts.items()])


def _reject_counts(block: Block) -> list[tuple[str, str, int, int]]:
    counts = collections.Counter(reject.code for reject in unpack_rejects(block))
    return [("", code, count, 0) for code, count in counts.items()]


def add_counts(several: Iterable[Iterable[tuple[str, str, int, int]]]) -> list[tuple[str, str, int, int]]:
    """Adds up (split, label, examples, bytes); rejects stand under the split "" with their code as label."""
    sums: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    for counts in several:
        for split, label, examples, size in counts:
            sums[split, label][0] += examples
            sums[split, label][1] += size
    return sorted((split, label, examples, size) for (split, label), (examples, size) in sums.items())


def decide(
    counts: list[tuple[str, str, int, int]], cuts: Mapping[str, splits.Cuts | str], config: JobConfig
) -> dict[str, Any]:
    """The plan: shards of each split, counts, and `error` (text or None): why nothing may be written."""
    examples: dict[str, dict[str, int]] = {}
    sizes: collections.Counter[str] = collections.Counter()
    for split, label, count, size in counts:
        examples.setdefault(split, {})[label] = count
        sizes[split] += size
    rejects = examples.pop("", {})
    accounted = sum(count for _, _, count, _ in counts)
    if accounted != config.total:
        raise BuildError(
            ExitCode.INTERNAL,
            f"the Beam runner lost images: {accounted} of {config.total} arrived; nothing was published",
        )
    refused = sum(count for code, count in rejects.items() if code not in _NO_FAULT)
    labels_left = {label for by_label in examples.values() for label in by_label}
    lost = [label for label in config.labels if label not in labels_left]
    uncut = sorted(cut for cut in cuts.values() if isinstance(cut, str))
    error = None
    if refused > config.max_reject_fraction * config.total:
        error = (
            f"{refused} of {config.total} images refused ({refused / config.total:.1%}), more than "
            f"--max_reject_fraction={config.max_reject_fraction:g} allows"
        )
    elif lost:
        error = f'class "{lost[0]}": none of its images is usable'
    elif uncut:
        error = f"{uncut[0]}; add images, or give fewer --splits"
    elif "train" not in examples and config.official:
        error = "no image is left for the train split"
    return {
        "error": error,
        "shards": {
            split: num_shards(examples=sum(labels.values()), size=sizes[split]) for split, labels in examples.items()
        },
        "examples": examples,
        "rejects": rejects,
    }


class ToShards(_Spooling):
    """Block of rows → ((split, shard), block); nothing where the plan says that nothing may be written."""

    def process(self, block: Block, plan: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int], Block]]:
        if plan["error"]:
            return
        shards: dict[tuple[str, int], list[Row]] = collections.defaultdict(list)
        for row in unpack(block):
            split = row.split or ""
            shards[split, shard_of(row, plan["shards"][split])].append(row)
        for key, rows in shards.items():
            yield key, self._put(rows)


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
        (assigned.counts, rejects | "CountRejects" >> beam.Map(_reject_counts))
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
