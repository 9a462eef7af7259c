"""Runs one build: what is cheap first, the graph only if there is work; believes only the manifest found afterwards."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from beam_jobs import progress, refusal, root
from beam_jobs.config import BuildConfig
from beam_jobs.decoding import pool_of
from beam_jobs.download.store import is_url
from beam_jobs.settings import WORK_DIR, Settings
from beam_jobs.sources import RemoteSource, Source, everything, nfc
from beam_jobs.sources.left_out import LeftOut
from beam_jobs.summary import Summary, listing_of
from pipeline.command import CommandError, UsageError
from pipeline.format import storage

if TYPE_CHECKING:
    from apache_beam.runners.runner import PipelineRunner

# So long images are listed here, before Beam takes a second to be imported: errors come at once, and so does "nothing
# to do". What takes longer the graph lists, on its workers.
_LIST_SECONDS = 4.0
_LOOK_EVERY = 1_000  # images, at the clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Describes how a build ended.

    Attributes:
      version: the version that holds the dataset.
      directory: where it is.
      built: False where there was nothing to do.
      new_content: whether a version was published.
      examples: split → label → number of examples; empty where there was nothing to do, like `rejects`.
      rejects: reject code → number of images.
      total: images listed.
      left_out: see `Listing`; empty where there was nothing to do, like `notes`.
      notes: what a person should know of the dataset, in sentences.
      seconds: how long it took.
      pruned: old versions removed.
    """

    version: str
    directory: str
    built: bool
    new_content: bool = False
    examples: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    rejects: Mapping[str, int] = dataclasses.field(default_factory=dict)
    total: int = 0
    left_out: Sequence[tuple[str, int, Sequence[str]]] = ()
    notes: Sequence[str] = ()
    seconds: float = 0.0
    pruned: Sequence[str] = ()


def make_settings(source: Source, config: BuildConfig) -> Settings:
    """Makes the settings of a run of its own. Raises what `source.labels` raises."""
    return Settings(
        source=source,
        build=config,
        labels=tuple(map(nfc, source.labels() or ())),
        source_fingerprint=source.fingerprint(),
        run=uuid.uuid4().hex,
    )


def _list_here(source: Source) -> tuple[Summary, bool]:
    """Lists images for a while; returns their sums, and whether these say all about the source."""
    summary, known = Summary(), True
    remote, end = isinstance(source, RemoteSource), time.monotonic() + _LIST_SECONDS
    for number, item in enumerate(everything(source)):
        if number % _LOOK_EVERY == 0 and time.monotonic() > end:
            return summary, False
        summary.add(item)
        if not isinstance(item, LeftOut):
            known = known and not (remote and is_url(item.uri))
    return summary, known


def _prepare(output: str) -> None:
    """Refuses an output that cannot be written, before any image is read. Raises UsageError."""
    try:
        if storage.exists(output) and not storage.is_remote(output):
            storage.list_folder(output)
        storage.make_folder(storage.join(output, WORK_DIR))
        probe = storage.join(output, WORK_DIR, f"probe-{uuid.uuid4().hex}")
        storage.write_atomically(probe, b"")
        storage.delete(probe)
    except NotADirectoryError as error:
        raise UsageError(f"--output={output}: is a file, not a directory") from error
    except FileNotFoundError as error:
        raise UsageError(f"--output={output}: there is no such bucket") from error
    except OSError as error:
        raise UsageError(f"--output={output}: {error.strerror}") from error


def _local_path(settings: Settings) -> str | None:
    """Returns a path that only this machine sees, among those that the workers need; None if there is none."""
    source = settings.source
    paths = [settings.build.output, *(getattr(source, name, "") for name in ("root", "path"))]
    if isinstance(source, RemoteSource):
        paths.append(source.store.root)
    return next((path for path in paths if path and not storage.is_remote(path)), None)


def run_graph(
    settings: Settings, beam_arguments: Sequence[str], *, runner: PipelineRunner | None = None, later: bool = False
) -> None:
    """Runs the graph on the engine that the arguments name, on `runner`, or here.

    Args:
      settings: of the run.
      beam_arguments: Beam's options.
      runner: see `build`.
      later: whether what is handed over here runs at another time, when more may be known.

    Raises:
      CommandError: see `build`.
    """
    from beam_jobs import engine, known
    from beam_jobs.graph import build_graph

    options = engine.parse_options(beam_arguments, own_flags=())
    elsewhere = runner is None and not engine.is_local(options, beam_arguments)
    if elsewhere and not settings.build.workers_share_disk and (path := _local_path(settings)):
        raise UsageError(
            f"--runner={engine.named(options)}: its workers do not see {path}, which lies on this machine's disk; give "
            "gs:// or s3://, leave --runner out, or give --workers_share_disk if they do see it"
        )
    local, decoders = (runner, 1) if runner else engine.choose_runner(options, beam_arguments)
    _prepare(settings.build.output)
    settings = dataclasses.replace(settings, decoders=decoders, recalls=later or known.anything(settings))
    if decoders > 1:  # they are ready when the graph is
        pool_of(settings.build.policy, settings.build.budget).start(decoders)
    with progress.shown(settings):
        engine.run(lambda pipeline: build_graph(pipeline, settings), options, local)


def translate(source: Source, config: BuildConfig, beam_arguments: Sequence[str]) -> None:
    """Hands the graph to an engine that keeps it as a template, to be run later. Raises what `build` raises."""
    _list_here(source)
    run_graph(make_settings(source, config), beam_arguments, later=True)


def _result(settings: Settings) -> dict[str, Any]:
    """Reads how the run ended, and that what it says is true. Raises CommandError."""
    try:
        result: dict[str, Any] = json.loads(storage.read_text(settings.note("result")))
    except FileNotFoundError:
        result = {"version": ""}
    if not result["version"] or root.manifest_of(settings.build.output, result["version"]) is None:
        raise CommandError("the engine reported success, but made no version; nothing was published")
    return result


def _outcome(settings: Settings, result: Mapping[str, Any], *, new_content: bool) -> Outcome:
    """Describes the version that holds the dataset, from what lies there; refuses one that lacks images."""
    version = result["version"]
    directory = root.version_directory(settings.build.output, version)
    statistics = json.loads(storage.read_text(storage.join(directory, "statistics.json")))
    examples = {split: part["labels"] for split, part in statistics["splits"].items()}
    rejects = statistics["rejects"]
    total = sum(sum(labels.values()) for labels in examples.values()) + sum(rejects.values())
    if result["built"] and total != result["total"]:
        raise CommandError(f"{directory}: {total} of {result['total']} images listed are accounted for; do not use it")
    return Outcome(
        version=version,
        directory=directory,
        built=result["built"],
        new_content=new_content,
        examples=examples,
        rejects=rejects,
        total=result["total"],
        left_out=result["left_out"],
        notes=result["notes"],
    )


def build(
    source: Source,
    config: BuildConfig,
    beam_arguments: Sequence[str] = (),
    *,
    runner: PipelineRunner | None = None,
) -> Outcome:
    """Builds the dataset, or finds that it is built.

    Args:
      source: where images come from.
      config: what the user asked for, the output among it.
      beam_arguments: Beam's options.
      runner: runs the graph, instead of what the options say; for tests.

    Raises:
      UsageError, DataError: bad input; nothing was published.
      CommandError: a runner lost images, the disk is full, or the like; nothing was published.
    """
    start = time.monotonic()
    output = config.output
    made = not storage.exists(output)
    summary, known = _list_here(source)
    settings = make_settings(source, config)
    if known:
        listing = listing_of(summary.sums(), settings)
        if version := listing.published:
            root.set_current(output, version)
            directory = root.version_directory(output, version)
            return Outcome(version=version, directory=directory, built=False, total=listing.total)
    before = set(root.versions(output))
    with refusal.explained(settings, made=made):
        run_graph(settings, beam_arguments, runner=runner)
    result = _result(settings)
    new_content = result["built"] and result["version"] not in before
    outcome = _outcome(settings, result, new_content=new_content)
    root.set_current(output, outcome.version)
    storage.delete(settings.notes)
    if not result["built"]:
        return outcome
    if new_content:
        root.forget(output, outcome.version)
        storage.delete(settings.findings)  # the version's tables say the same
    pruned = root.prune(output, keep=config.keep_versions) if config.keep_versions else ()
    root.tidy(output)
    return dataclasses.replace(outcome, pruned=pruned, seconds=time.monotonic() - start)
