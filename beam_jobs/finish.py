"""Makes a complete version directory of the job's results: adds all that is not a shard, the manifest last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from beam_jobs import publish
from beam_jobs.build_config import BuildConfig
from beam_jobs.card import dataset_card, tfds_metadata
from beam_jobs.inspection import Listing
from beam_jobs.report import dataset_report
from beam_jobs.shards import ShardReport
from beam_jobs.sources import Source
from beam_jobs.splits import split_order
from beam_jobs.statistics import merged, statistics_json
from pipeline.format.manifest import MANIFEST_FILE, Manifest
from pipeline.format.storage import write_atomically


def _read_reports(directory: str, plan: Mapping[str, Any]) -> dict[str, list[ShardReport]]:
    """Reads the reports of each split's shards, in order; shards that got no rows have none."""
    by_name = {}
    for entry in sorted(os.listdir(directory)):
        with open(os.path.join(directory, entry), encoding="utf-8") as file:
            report = ShardReport.from_json(file.read().split("\n", 1)[1])
        by_name[report.shard.name] = report
    splits: dict[str, list[ShardReport]] = {}
    for split in split_order(list(plan["shards"])):
        part = [report for name, report in sorted(by_name.items()) if f"-{split}.tfrecord-" in name]
        splits[split] = part
        if sum(report.shard.examples for report in part) != sum(plan["examples"][split].values()):
            raise AssertionError(f"split {split}: the shards do not hold the planned number of examples")
    return splits


def finish(
    work: str,
    source: Source,
    listing: Listing,
    labels: Sequence[str],
    config: BuildConfig,
    plan: Mapping[str, Any],
    *,
    cache: str,
) -> Manifest:
    """Writes all that is not a shard into the staging directory.

    Args:
      work: the build's work directory.
      source: reads the images that the report shows.
      listing: what was listed.
      labels: class names, in order.
      config: of the build.
      plan: the job's.
      cache: directory with the inspection cache.
    """
    staging = os.path.join(work, "version")
    reports = _read_reports(os.path.join(work, "reports"), plan)
    tallies = {split: merged(report.tally for report in part) for split, part in reports.items()}
    manifest = Manifest(
        name=config.name,
        version=publish.next_version(config.output),
        labels=tuple(labels),
        splits={split: tuple(report.shard for report in part) for split, part in reports.items()},
        source_fingerprint=listing.fingerprint,
        build=config.content(),
        code_version=metadata.version("tpu-retraining"),
        max_height=max(tally.max_height for tally in tallies.values()),
        max_width=max(tally.max_width for tally in tallies.values()),
    )
    examples = {split: tally.labels for split, tally in tallies.items()}
    texts = {
        "statistics.json": statistics_json(tallies, plan["rejects"]),
        "README.md": dataset_card(manifest, examples, plan["rejects"]),
        **tfds_metadata(manifest),
    }
    for name in ("rejects.jsonl", "duplicates.jsonl"):
        if not os.path.exists(os.path.join(staging, name)):
            texts[name] = ""
    for name, text in texts.items():
        write_atomically(os.path.join(staging, name), text, shared=True, durable=True)
    page = dataset_report(
        manifest=manifest,
        statistics=json.loads(texts["statistics.json"]),
        directory=staging,
        listing=listing.directory,
        cache=cache,
        source=source,
    )
    write_atomically(os.path.join(staging, "report.html"), page, shared=True, durable=True)
    write_atomically(os.path.join(staging, MANIFEST_FILE), manifest.to_json(), shared=True, durable=True)
    return manifest
