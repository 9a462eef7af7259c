"""Runs one build by the graph: chooses the engine, runs it, and believes only the manifest that it finds afterwards."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner

from beam_jobs import engine, root
from beam_jobs.build import Outcome
from beam_jobs.build_config import BuildConfig
from beam_jobs.graph import build_graph
from beam_jobs.runner import parse_options
from beam_jobs.settings import WORK_DIR, Settings
from beam_jobs.sources import Source
from beam_jobs.sources.folder import FolderSource
from beam_jobs.sources.tree import TreeSource
from pipeline.command import CommandError, UsageError
from pipeline.format import storage


def _settings(source: Source, config: BuildConfig) -> Settings:
    if isinstance(source, FolderSource):
        source = TreeSource(source.root)
    return Settings(
        source=source,
        build=config,
        labels=tuple(source.labels() or ()),
        source_fingerprint=source.fingerprint(),
        run=uuid.uuid4().hex,
    )


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


def _check_visible(settings: Settings, options: PipelineOptions, beam_arguments: Sequence[str]) -> None:
    """Refuses local paths where workers on other machines would look for them. Raises UsageError."""
    paths = [settings.build.output, *(getattr(settings.source, name, "") for name in ("root", "path"))]
    local = [path for path in paths if path and not storage.is_remote(path)]
    if local and not engine.is_local(options, beam_arguments):
        raise UsageError(
            f"{local[0]}: the workers of another engine do not see this machine's disk; give gs:// or s3://, or leave "
            "--runner out"
        )


def _result(settings: Settings) -> dict[str, Any]:
    """Reads how the run ended, and that what it says is true. Raises CommandError."""
    try:
        result: dict[str, Any] = json.loads(storage.read_text(settings.result))
    except FileNotFoundError:
        result = {"version": ""}
    if not result["version"] or root.manifest_of(settings.build.output, result["version"]) is None:
        raise CommandError("the engine reported success, but made no version; nothing was published")
    storage.delete(settings.result)
    return result


def _outcome(settings: Settings, result: Mapping[str, Any], *, new_content: bool) -> Outcome:
    """Describes the version that holds the dataset, from what lies there; refuses one that lacks images."""
    directory = root.version_directory(settings.build.output, result["version"])
    statistics = json.loads(storage.read_text(storage.join(directory, "statistics.json")))
    examples = {split: part["labels"] for split, part in statistics["splits"].items()}
    rejects = statistics["rejects"]
    total = sum(sum(labels.values()) for labels in examples.values()) + sum(rejects.values())
    if total != result["total"]:
        raise CommandError(f"{directory}: {total} of {result['total']} images listed are accounted for; do not use it")
    return Outcome(
        version=result["version"],
        directory=directory,
        built=result["built"],
        new_content=new_content,
        examples=examples,
        rejects=rejects,
        total=total,
    )


def run_graph(settings: Settings, beam_arguments: Sequence[str], *, runner: PipelineRunner | None = None) -> None:
    """Runs the graph on the engine that the arguments name, on `runner`, or here. Raises CommandError."""
    options = parse_options(beam_arguments, own_flags=())
    if runner is None:
        _check_visible(settings, options, beam_arguments)
    # Also refuses a bad --input before an engine is asked, which would answer with a failed job.
    images = sum(1 for _ in itertools.islice(settings.source.items(), engine.MANY))
    local = runner or engine.choose_runner(options, beam_arguments, images=images)
    engine.run(lambda pipeline: build_graph(pipeline, settings), options, local)


def build_with_graph(
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
    settings = _settings(source, config)
    before = set(root.versions(output))
    _prepare(output)
    run_graph(settings, beam_arguments, runner=runner)
    result = _result(settings)
    version = result["version"]
    new_content = result["built"] and version not in before
    outcome = _outcome(settings, result, new_content=new_content)
    root.set_current(output, version)
    if not result["built"]:
        return outcome
    if new_content:
        storage.delete(settings.shard_reports(version))
        storage.delete(settings.findings)  # the version's tables say the same
    pruned = root.prune(output, keep=config.keep_versions) if config.keep_versions else ()
    return dataclasses.replace(outcome, pruned=pruned, seconds=time.monotonic() - start)
