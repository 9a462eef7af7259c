"""Measures how a build grows with the number of images: rows without decoding, and the listing of many files.

    python -m benchmarks.scale --photos=DIR --rows=10000,100000,1000000 [--near_duplicates=keep] [--beam=…]
    python -m benchmarks.scale --objects=1000000
    python -m benchmarks.scale --model --images_per_second=N --row_microseconds=M [--vcpu_hour=… --gb_hour=…]

--rows: everything of a build but reading and decoding: facts of synthetic images are laid down beforehand as those of a
killed build (synthetic.py), with hashes drawn from the photos in DIR. Each build is a process of its own; wall-clock
time and processor time of all its processes, and the peak of their resident memory, which counts shared pages several
times. --objects: empty files in folders of a thousand; the same folder is listed by the launcher and by the graph.
--model: vCPU-hours for 100 million images on Dataflow, from what was measured here: images a second a core
(benchmarks/build.py), processor time a row (--rows); and dollars, at the prices of your region, which change
(https://cloud.google.com/dataflow/pricing, batch). Not counted: disks, the store's requests, the shuffle service.
"""

from __future__ import annotations

import logging
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from absl import flags

from benchmarks.process_tree import peak_bytes
from pipeline.command import UsageError, run_command

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of photos whose hashes are drawn from.")
_ROWS = flags.DEFINE_list("rows", [], "Numbers of images.")
_NEAR = flags.DEFINE_enum("near_duplicates", "group", ["group", "keep"], "As the builder's flag.")
_BEAM = flags.DEFINE_multi_string("beam", [], "Beam option for the builder.")
_OBJECTS = flags.DEFINE_integer("objects", 0, "Number of files to list.")
_MODEL = flags.DEFINE_bool("model", False, "Compute time and cost of 100 million images.")
_RATE = flags.DEFINE_float("images_per_second", 0, "Images a second a core, read, decoded and written.")
_ROW = flags.DEFINE_float("row_microseconds", 0, "Processor time a row.")
_VCPU_HOUR = flags.DEFINE_float("vcpu_hour", 0, "Dollars for a vCPU for an hour.")
_GB_HOUR = flags.DEFINE_float("gb_hour", 0, "Dollars for a GB of memory for an hour.")

_PER_FOLDER = 1_000
_GB_PER_VCPU = 3.75  # of n1-standard machines, Dataflow's default
_MODELLED = 100_000_000

_BUILD = """
import os, sys
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import logging
from pipeline.images import heap
heap.give_back()
logging.disable(logging.WARNING)
from beam_jobs import build
from benchmarks.scale import config
from benchmarks.synthetic import Synthetic
count, output, near, *beam = sys.argv[1:]
outcome = build.build(Synthetic(int(count)), config(output, near), beam)
assert outcome.total == int(count), outcome
"""
_LIST = """
import os, sys
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from beam_jobs import build, coders, listing
from beam_jobs.sources.folder import FolderSource
from benchmarks.scale import config
settings = build.make_settings(FolderSource(sys.argv[1]), config("unused", "keep"))
def check(count):
    assert count == int(sys.argv[2]), count
with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([])) as pipeline:
    _ = listing.listed(pipeline, settings).items | beam.combiners.Count.Globally() | beam.Map(check)
"""
_WALK = """
import sys
from beam_jobs.sources.folder import FolderSource
assert sum(1 for _ in FolderSource(sys.argv[1]).items()) == int(sys.argv[2])
"""


def config(output: str, near_duplicates: str):  # type: ignore[no-untyped-def] # of a module that costs its import
    """Makes the configuration of the command's defaults."""
    from beam_jobs.config import BuildConfig
    from beam_jobs.splits import SplitFractions
    from pipeline.images.policy import PixelPolicy

    return BuildConfig(
        source_name="synthetic",
        name="synthetic",
        fractions=SplitFractions.parse("train:0.8,validation:0.1,test:0.1"),
        split_by="rank",
        near_duplicates=near_duplicates,
        validation_fraction=0.0,
        seed=0,
        policy=PixelPolicy(),
        max_reject_fraction=0.1,
        output=output,
    )


def _photo_hashes(folder: str) -> np.ndarray:
    from pipeline.images.facts import ImageFacts
    from pipeline.images.look import inspect
    from pipeline.images.policy import PixelPolicy

    found = []
    for path in sorted(pathlib.Path(folder).rglob("*.jpg")):
        facts = inspect(path.read_bytes(), PixelPolicy())
        if isinstance(facts, ImageFacts) and facts.perceptual_hash:
            found.append(np.frombuffer(facts.perceptual_hash, np.uint8))
    if not found:
        raise UsageError(f"--photos={folder}: no JPEGs in it")
    return np.stack(found)


def _timed(command: list[str]) -> tuple[float, float, int]:
    """Runs a command; returns seconds, seconds of processor time, and the peak of its memory in bytes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    peak = peak_bytes(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, used, peak


def _rows(scratch: pathlib.Path) -> Iterator[str]:
    from beam_jobs.build import make_settings
    from benchmarks.synthetic import Synthetic, lay_down

    photos = _photo_hashes(_PHOTOS.value)
    previous = None
    for count in map(int, _ROWS.value):
        output = str(scratch / str(count))
        source = Synthetic(count)
        lay_down(source, make_settings(source, config(output, _NEAR.value)).findings, photos)
        command = [sys.executable, "-c", _BUILD, str(count), output, _NEAR.value, *_BEAM.value]
        seconds, used, peak = _timed(command)
        grown = ""
        if previous:
            more = count - previous[0]
            grown = f"; each more {(used - previous[1]) / more * 1e6:.0f} µs, {(peak - previous[2]) / more:.0f} bytes"
        previous = count, used, peak
        yield f"{count:9d} rows: {seconds:7.1f} s, {used:7.1f} s of processor time, {peak / 1e6:6.0f} MB{grown}"
        subprocess.run(["rm", "-rf", output], check=True)


def _objects(scratch: pathlib.Path) -> Iterator[str]:
    count = _OBJECTS.value
    for number in range(count):
        if number % _PER_FOLDER == 0:
            folder = scratch / f"class-{number // _PER_FOLDER:05d}"
            folder.mkdir()
        (folder / f"{number}.jpg").touch()
    for name, code in (("by the launcher", _WALK), ("by the graph", _LIST)):
        seconds, used, peak = _timed([sys.executable, "-c", code, str(scratch), str(count)])
        yield f"{count} files listed {name}: {seconds:.1f} s, {used:.1f} s of processor time, {peak / 1e6:.0f} MB"


def _model() -> Iterator[str]:
    hours = _MODELLED * (1 / _RATE.value + _ROW.value / 1e6) / 3600
    yield f"{_MODELLED} images: {hours:.0f} vCPU-hours"
    yield from (f"  on {vcpus} vCPUs {hours / vcpus:.1f} hours" for vcpus in (64, 512, 2048))
    if dollars := hours * (_VCPU_HOUR.value + _GB_HOUR.value * _GB_PER_VCPU):
        yield f"  ${dollars:.0f}, ${dollars / _MODELLED * 1e6:.2f} a million images"


def main(_: list[str]) -> None:
    logging.disable(logging.WARNING)  # Beam says which connectors it does without
    if _ROWS.value and not _PHOTOS.value:
        raise UsageError("--rows: give --photos, whose hashes are drawn from")
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as directory:
        if _ROWS.value:
            for line in _rows(pathlib.Path(directory)):
                print(line, flush=True)
        if _OBJECTS.value:
            for line in _objects(pathlib.Path(directory)):
                print(line, flush=True)
    if _MODEL.value:
        if _RATE.value <= 0:
            raise UsageError("--model: give --images_per_second, as benchmarks/build.py measures it, a core")
        print("\n".join(_model()))


if __name__ == "__main__":
    run_command(main)
