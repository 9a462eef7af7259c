"""Makes a version of what the graph has written: adds all that is neither shard nor table, the manifest last."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata

import apache_beam as beam

from beam_jobs import root
from beam_jobs.decoding import pool_of
from beam_jobs.elements import Copies, Listing, Plan, Reject
from beam_jobs.errors import BuildError, crossing
from beam_jobs.outlook import scenes
from beam_jobs.plan import lost
from beam_jobs.refusal import reject_line, sorted_lines
from beam_jobs.settings import Settings
from beam_jobs.shards import ShardReport
from beam_jobs.splits import split_order
from beam_jobs.statistics import Tally, merged, statistics_json
from beam_jobs.version.card import dataset_card, tfds_metadata
from beam_jobs.version.croissant import CROISSANT_FILE, croissant
from beam_jobs.version.gallery import NO_PICTURES, Pictures, survey_of
from beam_jobs.version.gallery import report as report_page
from beam_jobs.version.survey import Survey
from beam_jobs.version.write import put
from pipeline.command import ExitCode
from pipeline.format import storage
from pipeline.format.manifest import MANIFEST_FILE, STATISTICS_FILE, Manifest


def by_split(reports: Iterable[ShardReport], plan: Plan) -> dict[str, list[ShardReport]]:
    """Sorts the reports into splits, in order; shards that got no rows have none.

    Raises:
      BuildError: the shards do not hold what was planned.
    """
    by_name = {report.shard.name: report for report in reports}
    found: dict[str, list[ShardReport]] = {}
    for split in split_order(list(plan.shards)):
        found[split] = [report for name, report in sorted(by_name.items()) if f"-{split}.tfrecord-" in name]
        images, expected = sum(r.shard.examples for r in found[split]), sum(plan.examples[split].values())
        if images != expected:
            raise BuildError(
                ExitCode.INTERNAL,
                f"the Beam runner lost images: {images} of {expected} of the split {split} are in its shards; "
                "nothing was published",
            )
    return found


def _manifest(plan: Plan, reports: Mapping[str, Sequence[ShardReport]], tally: Tally, settings: Settings) -> Manifest:
    return Manifest(
        name=settings.build.name,
        version=plan.version,
        labels=plan.labels,
        label_order=plan.label_order,
        splits={split: tuple(report.shard for report in part) for split, part in reports.items()},
        source_fingerprint=plan.fingerprint,
        build=settings.build.content(),
        code_version=metadata.version("tpu-retraining"),
        max_height=tally.max_height,
        max_width=tally.max_width,
    )


def _equal_version(manifest: Manifest, output: str) -> str | None:
    """Finds the newest version, if it holds the same and is whole; else None."""
    for version in root.versions(output)[-1:]:
        other = root.sound_manifest(output, version)
        content = manifest.name, manifest.labels, manifest.splits
        if other and version != manifest.version and (other.name, other.labels, other.splits) == content:
            return version
    return None


def conclude(
    _: bytes,
    listing: Listing | None,
    plan: Plan | None,
    reports: Sequence[ShardReport],
    rejects: Sequence[Reject],
    copies: Sequence[Copies],
    tabled: Sequence[int],
    pictures: Pictures,
    settings: Settings,
) -> str:
    """Makes the version, and tells the launcher. Nothing → version that holds the dataset.

    Raises:
      BuildError: something is missing; then there is no manifest, so no version.
    """
    if listing is None:
        raise BuildError(
            ExitCode.USAGE, "the workers found no images: is the input visible where they run? nothing was published"
        )
    version = listing.published
    if not version and plan is None:
        raise lost(0, listing.total)
    with crossing(settings.build.output):
        if plan:
            plan = dataclasses.replace(plan, notes=(*plan.notes, *scenes(copies)))
        if not version and plan:
            version = finish(plan, reports, rejects, copies, sum(tabled), pictures, settings)
        result = {"version": version, "built": plan is not None, "total": listing.total, "left_out": [], "notes": []}
        if plan:
            result |= {"left_out": plan.left_out, "notes": plan.notes}
        storage.write_atomically(settings.note("result"), json.dumps(result), shared=True)
    return version


def finish(
    plan: Plan,
    reports: Sequence[ShardReport],
    rejects: Sequence[Reject],
    copies: Sequence[Copies],
    tabled: int,
    pictures: Pictures,
    settings: Settings,
) -> str:
    """Writes all that is neither shard nor table into the version; returns it, or an earlier one of equal content.

    Raises:
      BuildError: something is missing.
      OSError: the disk is full, or the like.
    """
    counted = collections.Counter(reject.code for reject in rejects)
    if dict(counted) != dict(plan.rejects) or tabled != plan.refused:
        raise BuildError(ExitCode.INTERNAL, "the Beam runner lost rejects; nothing was published")
    output = settings.build.output
    directory = root.version_directory(output, plan.version)
    sorted_reports = by_split(reports, plan)
    tallies = {split: merged(report.tally for report in part) for split, part in sorted_reports.items()}
    total = merged(tallies.values())
    manifest = _manifest(plan, sorted_reports, total, settings)
    if equal := _equal_version(manifest, output):
        root.remember(output, plan.key, equal)
        storage.delete(directory)
        root.forget(output, plan.version)
        return equal
    labels = {split: tally.labels for split, tally in tallies.items()}
    texts = {
        STATISTICS_FILE: statistics_json(tallies, plan),
        "README.md": dataset_card(manifest, labels, plan, with_position=total.with_position),
        **tfds_metadata(manifest),
        CROISSANT_FILE: croissant(manifest),
        "rejects.jsonl": sorted_lines(map(reject_line, rejects)),
        "duplicates.jsonl": sorted_lines(group.line for group in copies),
    }
    texts["report.html"] = _report(manifest, texts, survey_of(pictures, rejects, copies), settings)
    for name, text in texts.items():
        put(storage.join(directory, name), [text.encode()])
    _tidy(directory, manifest)
    put(storage.join(directory, MANIFEST_FILE), [manifest.to_json().encode()])
    return plan.version


def _tidy(directory: str, manifest: Manifest) -> None:
    """Removes what killed runs were writing. Raises BuildError if a shard is missing, or not what its report says."""
    sizes = {entry.name: entry.size for entry in storage.list_folder(directory)}
    for name in sizes:
        if name.endswith(".tmp"):
            storage.delete(storage.join(directory, name))
    for shard in itertools.chain(*manifest.splits.values()):
        if sizes.get(shard.name) != shard.bytes:
            raise BuildError(
                ExitCode.AGAIN, f"{directory}/{shard.name} is gone or cut short; run the same command again"
            )


def _report(manifest: Manifest, texts: Mapping[str, str], found: Survey, settings: Settings) -> str:
    with pool_of(settings.build.policy, settings.build.budget).lent() as decoder:
        return report_page(
            manifest=manifest,
            statistics=json.loads(texts[STATISTICS_FILE]),
            rejects=texts["rejects.jsonl"],
            duplicates=texts["duplicates.jsonl"],
            found=found,
            source=settings.source,
            decoder=decoder,
        )


def finished(
    listing: beam.PCollection[Listing],
    plan: beam.PCollection[Plan],
    reports: beam.PCollection[ShardReport],
    rejects: beam.PCollection[Reject],
    copies: beam.PCollection[Copies],
    tabled: beam.PCollection[int],
    pictures: beam.PCollection[Pictures],
    settings: Settings,
) -> beam.PCollection[str]:
    """Adds the last step, which makes the version."""
    return (
        plan.pipeline
        | "StartVersion" >> beam.Impulse()
        | "Version"
        >> beam.Map(
            conclude,
            beam.pvalue.AsSingleton(listing, default_value=None),
            beam.pvalue.AsSingleton(plan, default_value=None),
            beam.pvalue.AsList(reports),
            beam.pvalue.AsList(rejects),
            beam.pvalue.AsList(copies),
            beam.pvalue.AsList(tabled),
            beam.pvalue.AsSingleton(pictures, default_value=NO_PICTURES),
            settings,
        ).with_output_types(str)
    )
