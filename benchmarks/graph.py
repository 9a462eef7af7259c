"""Measures the one graph beside the builder that it replaces and a bare loop, on the same photos in turn.

    python -m benchmarks.graph --photos=DIR --images=16000 [--repeats=2] [--ready=DIR]

Photos are multiplied as in benchmarks/build.py; --ready takes a folder where they are already. Wall-clock time and the
processor time of all processes from a process's start to its end, the best of the repeats; then, in runs of their own,
the peak of all processes' resident memory, which counts shared pages several times.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

from absl import flags

from benchmarks import build
from benchmarks.process_tree import peak_bytes
from pipeline.command import run_command

_READY = flags.DEFINE_string("ready", None, "A folder of photos to build from as it is.")

_GRAPH = """
import os, sys
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import logging
from pipeline.images import heap
heap.give_back()
logging.disable(logging.WARNING)
from beam_jobs.config import BuildConfig
from beam_jobs.graph_build import build_with_graph
from beam_jobs.sources.folder import FolderSource
from beam_jobs.splits import SplitFractions
from pipeline.images.policy import PixelPolicy
config = BuildConfig(
    source_name="folder", name="photos", fractions=SplitFractions.parse("train:0.8,validation:0.1,test:0.1"),
    split_by="rank", near_duplicates="group", validation_fraction=0.0, seed=0, policy=PixelPolicy(),
    max_reject_fraction=0.1, output=sys.argv[2],
)
build_with_graph(FolderSource(sys.argv[1]), config, sys.argv[3:])
"""


def _shards(output: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("versions/1.0.0/*.tfrecord-*")}


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        folder = pathlib.Path(_READY.value) if _READY.value else build._multiplied(scratch / "in", build._IMAGES.value)
        graph = [sys.executable, "-c", _GRAPH, str(folder)]
        old = [sys.executable, "-m", "beam_jobs.build_tfrecords", f"--input={folder}", "--name=photos"]
        runs: dict[str, Callable[[pathlib.Path], list[str]]] = {
            "beam_jobs": lambda out: [*old, f"--output={out}"],
            "graph": lambda out: [*graph, str(out)],
        }
        timed: dict[str, Callable[[pathlib.Path], None]] = {
            name: lambda out, make=make: subprocess.run(make(out), check=True, stdout=subprocess.DEVNULL)  # type: ignore[misc]
            for name, make in runs.items()
        }
        timed["bare loop, hashes files"] = lambda out: build._bare_loop(folder, pixels=False)
        print(f"load average before: {os.getloadavg()[0]:.1f}")
        build._measure(timed, folder=folder, scratch=scratch)
        print(f"load average after: {os.getloadavg()[0]:.1f}")
        for name, make in runs.items():
            output = scratch / f"peak-{name}"
            print(f"{name:28}{peak_bytes(make(output)) / 1e6:7.0f} MB at the peak")
        assert _shards(scratch / "peak-graph") == _shards(scratch / "peak-beam_jobs")
        print("equal shards")


if __name__ == "__main__":
    run_command(main)
