"""Runs one build from the listing to the published version: what is cheap first, the pipeline only if there is work."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs import crew, lean_beam, progress, publish, stopping
from beam_jobs.build_config import BuildConfig
from beam_jobs.download.store import pending
from beam_jobs.inspection import Listing, cache_key, write_listing
from beam_jobs.job_config import JobConfig
from beam_jobs.previous import PreviousVersion
from beam_jobs.sources import RemoteSource, Source
from beam_jobs.tasks import STAGES
from pipeline.command import DataError, UsageError
from pipeline.format.manifest import MANIFEST_FILE, VERSIONS_DIR, Manifest, current_version


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Describes how a build ended.

    Attributes:
      version: the current version.
      directory: where it is.
      built: False where there was nothing to do.
      new_content: whether a version was published.
      examples: split → label → number of examples.
      rejects: reject code → number of images.
      total: images listed.
      seconds: how long it took; 0 where there was nothing to do.
      pruned: old versions removed.
    """

    version: str
    directory: str
    built: bool
    new_content: bool = False
    examples: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    rejects: Mapping[str, int] = dataclasses.field(default_factory=dict)
    total: int = 0
    seconds: float = 0.0
    pruned: Sequence[str] = ()


def check_listing(listing: Listing, labels: Sequence[str], config: BuildConfig) -> None:
    """Refuses what cannot become a dataset, before any image is read.

    Raises:
      DataError: a single class, a class with fewer images than splits, or a label that is none of `labels`.
    """
    if len(labels) < 2:
        raise DataError(
            f'only one class, "{labels[0]}": a classifier needs two or more. If its sub-folders are the classes, '
            f"give --input one level deeper"
        )
    sizes: collections.Counter[str] = collections.Counter()
    for (split, label), count in listing.counts.items():
        if split is None:
            sizes[label] += count
    splits = len(config.fractions.names)
    for label, size in sorted(sizes.items()):
        if size < splits:
            raise DataError(
                f'class "{label}" has {size} images for {splits} splits ({config.fractions}); '
                "add images, or give fewer --splits"
            )
    if unknown := sorted(set(listing.labels()) - set(labels)):
        raise DataError(f'label "{unknown[0]}" is not one of the source\'s {len(labels)} classes')


def _reject_table(rejects: Mapping[str, int], total: int) -> str:
    return "\n".join(f"  {count:8d}  {count / total:6.1%}  {code}" for code, count in sorted(rejects.items()))


def _same_content(root: str, version: str, manifest: Manifest) -> bool:
    with open(os.path.join(root, VERSIONS_DIR, version, MANIFEST_FILE), encoding="utf-8") as file:
        other = Manifest.from_json(file.read())
    return (other.name, other.labels, other.splits) == (manifest.name, manifest.labels, manifest.splits)


def _previous(config: BuildConfig) -> PreviousVersion | None:
    """Finds the newest version, if its images were encoded as this build would encode them; else None."""
    for version in publish.versions(config.output)[-1:]:
        directory = os.path.join(config.output, VERSIONS_DIR, version)
        with open(os.path.join(directory, MANIFEST_FILE), encoding="utf-8") as file:
            manifest = Manifest.from_json(file.read())
        if all(manifest.build.get(key) == value for key, value in config.encoding().items()):
            names = {split: tuple(shard.name for shard in part) for split, part in manifest.splits.items()}
            return PreviousVersion(directory=directory, shards=names)
    return None


def _cache(config: BuildConfig) -> str:
    return os.path.join(config.output, publish.WORK_DIR, "inspected", cache_key(config.policy))


def _run_pipeline(
    work: str,
    source: Source,
    listing: Listing,
    labels: Sequence[str],
    config: BuildConfig,
    beam_arguments: Sequence[str],
) -> dict[str, Any]:
    """Runs the Beam job and returns its plan. Raises CommandError."""
    directories = {name: os.path.join(work, name) for name in ("reports", "progress", "spool")}
    cache = _cache(config)
    staging = os.path.join(work, "version")
    shutil.rmtree(directories["spool"], ignore_errors=True)
    for directory in (*directories.values(), cache, staging):
        os.makedirs(directory, exist_ok=True)
        publish.remove_unfinished(directory)
    job_config = JobConfig(
        source=source,
        policy=config.policy,
        name=config.name,
        labels=tuple(labels),
        total=listing.total,
        fractions=config.fractions,
        split_by=config.split_by,
        near_duplicates=config.near_duplicates,
        validation_fraction=config.validation_fraction,
        official=tuple(sorted({split for split, _ in listing.counts if split})),
        seed=config.seed,
        max_reject_fraction=config.max_reject_fraction,
        listing=listing.directory,
        cache=cache,
        staging=staging,
        previous=_previous(config),
        **directories,
    )
    size = crew.crew_size(beam_arguments, images=listing.total)
    with (
        stopping.at_once(),
        progress.shown(directories["progress"], stages=STAGES, total=listing.total),
        crew.at_work(size, job_config) as helpers,
    ):
        if helpers:
            helpers.begin_inspection(job_config.bucket_groups)
            beam_arguments = [*beam_arguments, "--direct_running_mode=in_memory"]
        # Beam takes a second or more to import; a run that finds nothing to do has ended by now.
        lean_beam.import_beam()
        from beam_jobs import finish, job, runner  # noqa: F401 - `finish` because the crew is at work meanwhile

        options = runner.parse_options(beam_arguments, own_flags=())
        local = runner.choose_runner(options, beam_arguments, images=listing.total)
        runner.run(lambda pipeline: job.build_graph(pipeline, job_config), options, local)
    plan_file = os.path.join(staging, job.PLAN_FILE)
    with open(plan_file, encoding="utf-8") as file:
        plan = json.load(file)
    if plan["error"]:
        table = f"\n{_reject_table(plan['rejects'], listing.total)}" if plan["rejects"] else ""
        raise DataError(f"{plan['error']}; nothing was published{table}")
    os.unlink(plan_file)
    return plan


def _download(source: RemoteSource, config: BuildConfig, beam_arguments: Sequence[str]) -> None:
    """Downloads what the source's URLs lead to into its store, as far as it is not there. Raises CommandError."""
    urls = pending(source.urls(), source.store, config.download)
    if not urls:
        return
    work = os.path.join(config.output, publish.WORK_DIR, "download")
    shutil.rmtree(work, ignore_errors=True)
    if not beam_arguments:
        from beam_jobs.download import here

        here.run(urls, source.store, config.download, counters=work)
        return
    lean_beam.import_beam()
    from beam_jobs import runner  # with Beam, see _run_pipeline
    from beam_jobs.download import stage

    options = runner.parse_options(beam_arguments, own_flags=())
    local = runner.choose_runner(options, beam_arguments, images=len(urls))
    stage.run(
        urls, source.store, config.download, work=work, run_pipeline=lambda steps: runner.run(steps, options, local)
    )


def _prepare_root(config: BuildConfig) -> None:
    if os.path.exists(config.output) and not os.path.isdir(config.output):
        raise UsageError(f"--output={config.output}: is a file, not a directory")
    try:
        os.makedirs(os.path.join(config.output, publish.WORK_DIR), exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output={config.output}: {error.strerror}") from error


def build(source: Source, config: BuildConfig, beam_arguments: Sequence[str]) -> Outcome:
    """Builds the dataset, or finds that it is built.

    Raises:
      UsageError, DataError: bad input; nothing was published.
      TryAgainError: another build into the same root is running.
      CommandError: the disk is full, or the like; nothing was published.
    """
    start = time.monotonic()
    root = config.output
    new_root = not os.path.exists(root)
    _prepare_root(config)
    try:
        return _build_locked(source, config, beam_arguments, start)
    except UsageError:
        if new_root:
            shutil.rmtree(root)  # nothing but the empty work directory
        raise


def _build_locked(source: Source, config: BuildConfig, beam_arguments: Sequence[str], start: float) -> Outcome:
    root = config.output
    with publish.locked(root):
        if isinstance(source, RemoteSource):
            _download(source, config, beam_arguments)
        pending = os.path.join(root, publish.WORK_DIR, "listing")
        shutil.rmtree(pending, ignore_errors=True)
        listing = write_listing(source, pending)
        labels = source.labels() or listing.labels()
        check_listing(listing, labels, config)
        key = publish.build_key(listing.fingerprint, config.content())
        if version := publish.published_as(root, key):
            if version != current_version(root):
                publish.set_current(root, version)
            directory = os.path.join(root, VERSIONS_DIR, version)
            return Outcome(version=version, directory=directory, built=False, total=listing.total)
        publish.clean(root, keep={key, "listing"})
        work = os.path.join(root, publish.WORK_DIR, key)
        plan = _run_pipeline(work, source, listing, labels, config, beam_arguments)
        from beam_jobs.finish import finish  # with the job, see _run_pipeline

        manifest = finish(work, source, listing, labels, config, plan, cache=_cache(config))
        existing = publish.versions(root)
        new_content = not existing or not _same_content(root, existing[-1], manifest)
        version = manifest.version if new_content else existing[-1]
        if new_content:
            publish.publish(root, os.path.join(work, "version"), version)
        else:
            publish.remember(root, key, version)
            publish.set_current(root, version)
        pruned = publish.prune(root, keep=config.keep_versions) if config.keep_versions else []
        publish.clean(root, keep=set())
    return Outcome(
        version=version,
        directory=os.path.join(root, VERSIONS_DIR, version),
        built=True,
        new_content=new_content,
        examples=plan["examples"],
        rejects=plan["rejects"],
        total=listing.total,
        seconds=time.monotonic() - start,
        pruned=pruned,
    )
