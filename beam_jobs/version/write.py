"""Writes shards in the graph: reads each image again, makes a shard in memory, writes it whole, once, in its place.

An image that the version before holds encoded under the same settings is taken from there, not decoded again.
Its report beside the version is written after it and bears the digest of its rows: whoever comes again, after a kill or
because a bundle runs twice, finds that the shard is whole. Each shard has a table of its rows; the refused have theirs.
"""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from beam_jobs.bundles import late
from beam_jobs.decoding import pool_of
from beam_jobs.elements import Finding, Plan, Reject, Row
from beam_jobs.errors import BuildError, crossing
from beam_jobs.findings import write_findings
from beam_jobs.reading import Reader
from beam_jobs.root import version_directory
from beam_jobs.settings import Settings
from beam_jobs.shards import ShardReport, shard_name, shard_of
from beam_jobs.statistics import Tally
from beam_jobs.version.previous import previous_version
from beam_jobs.version.table import REFUSED, table_bytes, table_name
from pipeline.command import ExitCode
from pipeline.format import storage
from pipeline.format.manifest import Shard
from pipeline.format.records import Record, encode_example, frame
from pipeline.images.guarded import TOGETHER, Decoder, Decoders
from pipeline.images.metadata import has_position
from pipeline.images.policy import ReadError
from pipeline.images.policy import Reject as Refusal

_REFUSED_PER_TABLE = 50_000
Place = tuple[str, int]  # split and number of a shard


def rows_digest(rows: Sequence[Row]) -> str:
    """Identifies what a shard is made of."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.id, row.item.uri, row.item.label, row.split, row.group.name)).encode())
    return digest.hexdigest()


def to_shard(row: Row, plan: Plan) -> tuple[Place, Row]:
    """Sends a row to its shard. Row → ((split, shard), row)."""
    split = row.split or ""
    return (split, shard_of(row, plan.shards[split])), row


class WriteShard(beam.DoFn):
    """Writes a shard. ((split, shard), rows) → its report."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def setup(self) -> None:
        build = self._settings.build
        self._reader = Reader(self._settings.source)
        self._decoders = Decoders(self._settings.decoders, pool_of(build.policy, build.budget))
        # Where one worker has all cores, it makes a shard while the one before is on its way to the store.
        self._writers = concurrent.futures.ThreadPoolExecutor(min(2, self._settings.decoders))
        with crossing(build.output):
            self._previous = previous_version(build)

    def teardown(self) -> None:
        self._writers.shutdown(cancel_futures=True)
        self._decoders.close()
        self._reader.close()

    def start_bundle(self) -> None:
        self._under_way: collections.deque[concurrent.futures.Future[ShardReport]] = collections.deque()

    def process(self, element: tuple[Place, Iterable[Row]], plan: Plan) -> Iterator[ShardReport]:
        place, found = element
        rows = sorted(found, key=lambda row: row.id)
        self._under_way.append(self._writers.submit(self._write, place, rows, plan))
        if len(self._under_way) > 1:
            yield self._under_way.popleft().result()

    def finish_bundle(self) -> Iterator[Any]:
        while self._under_way:
            yield late(self._under_way.popleft().result())

    def _write(self, place: Place, rows: Sequence[Row], plan: Plan) -> ShardReport:
        """Writes a shard, if it is not whole; in a thread."""
        split, number = place
        build, count = self._settings.build, plan.shards[split]
        name = shard_name(name=build.name, split=split, shard=number, count=count)
        directory = version_directory(build.output, plan.version)
        reports = self._settings.shard_reports(plan.version)
        report_path = storage.join(reports, f"{name}.json")
        digest = rows_digest(rows)
        with crossing(build.output):
            report = _finished(storage.join(directory, name), report_path, digest)
            if report is None:
                report, frames = self._make(name, rows, plan, self._encoded(rows, number))
                put(storage.join(directory, name), frames)
                table = table_bytes(rows, inspection=self._settings.inspection)
                put(storage.join(directory, table_name(split, number, count)), [table])
                storage.make_folder(reports)
                put(report_path, [f"{digest}\n{report.to_json()}".encode()])
        return report

    def _encoded(self, rows: Sequence[Row], number: int) -> dict[bytes, bytes]:
        """Finds the images of the shard that the version before has encoded: id → image."""
        if self._previous is None:
            return {}
        find = self._previous.reader(number).find
        return {row.id: image for row in rows if not row.facts.keeps_bytes and (image := find(row))}

    def _make(
        self, name: str, rows: Sequence[Row], plan: Plan, encoded: dict[bytes, bytes]
    ) -> tuple[ShardReport, list[bytes]]:
        """Makes the frames of a shard's records."""
        numbers = {label: number for number, label in enumerate(plan.labels)}
        frames, tally, digest = [], Tally(), hashlib.sha256()
        missing = [row for row in rows if row.id not in encoded]
        batches = (missing[at : at + TOGETHER] for at in range(0, len(missing), TOGETHER))
        made = itertools.chain.from_iterable(self._decoders.map(self._images, batches))
        for row in rows:
            image = encoded.pop(row.id, None) or next(made)
            facts = row.facts
            record = Record(
                image=image,
                label=numbers[row.item.label],
                id=row.id.hex(),
                source=row.item.uri,
                height=facts.height,
                width=facts.width,
            )
            frames.append(frame(encode_example(record)))
            digest.update(frames[-1])
            decided = self._settings.build.corrections.label(row.item.uri, row.id) is not None
            position = facts.keeps_bytes and has_position(image)
            tally.add(row, image_bytes=len(image), relabelled=decided, position=position)
        shard = Shard(name=name, examples=len(rows), bytes=sum(map(len, frames)), sha256=digest.hexdigest())
        return ShardReport(shard=shard, tally=tally), frames

    def _images(self, decoder: Decoder, rows: Sequence[Row]) -> list[bytes]:
        """Makes the images of records; in a thread. Raises BuildError where one is not any more what was inspected."""
        images = []
        for row, data in zip(rows, self._reader.read([row.item for row in rows]), strict=True):
            if isinstance(data, ReadError):
                raise BuildError(
                    ExitCode.AGAIN,
                    f"an image could be inspected but not read again ({data}); run the same command again",
                )
            if row.item.content_id(data) != row.id:
                raise BuildError(
                    ExitCode.AGAIN, f"{row.item.uri} changed while the build ran; run the same command again"
                )
            as_it_stands = row.facts.keeps_bytes and not self._settings.build.policy.strip_metadata
            images.append(data if as_it_stands else self._encoded_anew(decoder, row, data))
        return images

    def _encoded_anew(self, decoder: Decoder, row: Row, data: bytes) -> bytes:
        """Encodes an image. Raises BuildError where the budget, which sufficed to decode it, does not suffice now."""
        (image,) = decoder.render([data])
        if isinstance(image, Refusal):
            # The next run finds that it is refused, and does not stop here again.
            finding = Finding(uri=row.item.uri, stamp=row.item.stamp, size=len(data), result=image)
            write_findings([finding], self._settings.findings)
            raise BuildError(
                ExitCode.AGAIN,
                f"{row.item.uri} cannot be encoded ({image.detail}); run the same command again to build without it",
            )
        return image


def put(path: str, pieces: Sequence[bytes]) -> None:
    """Writes a file of a version, whole: the pieces one behind the other. Raises OSError."""
    try:
        _write(path, pieces)
    except FileNotFoundError:
        # Another run of the same build has finished the version and tidied it up at this moment.
        storage.make_folder(path.rpartition("/")[0])
        _write(path, pieces)


def _write(path: str, pieces: Sequence[bytes]) -> None:
    with storage.whole_file(path, shared=True, durable=True) as file:
        file.writelines(pieces)


def _finished(path: str, report_path: str, digest: str) -> ShardReport | None:
    """Reads the report of a shard that is whole; None if there is none, or it holds other rows."""
    try:
        stored, text = storage.read_text(report_path).split("\n", 1)
        report = ShardReport.from_json(text)
        # The report is written after its shard, so the size is only a guard against tampering.
        return report if stored == digest and storage.stamp(path)[0] == report.shard.bytes else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def refused_tables(plan: Plan) -> int:
    """Counts the tables of what is left out."""
    return max(1, -(-plan.refused // _REFUSED_PER_TABLE))


def to_table(reject: Reject, plan: Plan) -> tuple[int, Reject]:
    """Sends a reject to its table."""
    digest = hashlib.blake2b(reject.item.uri.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % refused_tables(plan), reject


def write_refused(element: tuple[int, Iterable[Reject]], plan: Plan, settings: Settings) -> int:
    """Writes a table of rejects. (number, rejects) → how many."""
    number, several = element
    rejects = sorted(several, key=lambda reject: (reject.item.uri, reject.code))
    with crossing(settings.build.output):
        name = table_name(REFUSED, number, refused_tables(plan))
        path = storage.join(version_directory(settings.build.output, plan.version), name)
        put(path, [table_bytes(rejects, inspection=settings.inspection)])
    return len(rejects)


def written(
    rows: beam.PCollection[Row], plan: beam.PCollection[Plan], settings: Settings
) -> beam.PCollection[ShardReport]:
    """Adds the steps that write the shards."""
    one = beam.pvalue.AsSingleton(plan)
    return (
        rows
        | "ToShard" >> beam.Map(to_shard, one).with_output_types(tuple[Place, Row])
        | "GroupByShard" >> beam.GroupByKey()
        | "WriteShard" >> beam.ParDo(WriteShard(settings), one).with_output_types(ShardReport)
    )


def tabled(
    rejects: beam.PCollection[Reject], plan: beam.PCollection[Plan], settings: Settings
) -> beam.PCollection[int]:
    """Adds the steps that write the tables of what is left out."""
    one = beam.pvalue.AsSingleton(plan)
    return (
        rejects
        | "ToTable" >> beam.Map(to_table, one).with_output_types(tuple[int, Reject])
        | "GroupByTable" >> beam.GroupByKey()
        | "WriteRefused" >> beam.Map(write_refused, one, settings).with_output_types(int)
    )
