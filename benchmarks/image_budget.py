"""Measures what the budget of every image costs: decoding in a child under limits, beside the same in this process.

    python -m benchmarks.image_budget --photos=DIR

The photos are inspected batch by batch, in turn in three ways: here, without limits; here, under a timer for each image
and a limit on memory for each batch; in a child, which the photos' bytes and the facts go to and from. Processor time,
because one batch after the other waits for nothing, and machines are noisy; the ratios are of the sums over all
batches, with the range over tenths of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags

from pipeline.command import UsageError, run_command
from pipeline.images import heap
from pipeline.images.area import Area
from pipeline.images.decoder_child import Child
from pipeline.images.guarded import INSPECT, TOGETHER, Decoder, ImageBudget
from pipeline.images.look import Look, look, make_facts
from pipeline.images.policy import PixelPolicy

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of photos.", required=True)
_TENTHS = 10

Batch = Sequence[bytes]


def _processor_seconds(work: Callable[[Batch], object], batch: Batch, *, child: int | None = None) -> float:
    """Runs the work; returns what it took of this process and, if any, of a child."""
    before = time.process_time() + _spent_by(child)
    work(batch)
    return time.process_time() + _spent_by(child) - before


def _spent_by(child: int | None) -> float:
    if child is None:
        return 0.0
    threads = pathlib.Path(f"/proc/{child}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def _inspect_here(batch: Batch) -> None:
    make_facts([seen for data in batch if isinstance(seen := look(data, PixelPolicy()), Look)])


def _decoding() -> int:
    """Returns the decoder of this process: the child of its only child."""
    (zygote,) = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (decoder,) = pathlib.Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
    return int(decoder)


def main(_: list[str]) -> None:
    files = sorted(path for path in pathlib.Path(_PHOTOS.value).rglob("*") if path.is_file())
    if len(files) < _TENTHS * TOGETHER:
        raise UsageError(f"--photos={_PHOTOS.value}: {len(files)} files, at least {_TENTHS * TOGETHER} are needed")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    heap.give_back()
    budget = ImageBudget()
    costs: dict[str, list[float]] = {"here": [], "under limits": [], "in a child": []}
    with contextlib.closing(Area()) as area, contextlib.closing(Decoder(PixelPolicy(), budget)) as decoder:
        child = Child(PixelPolicy(), budget, area)
        decoder.inspect([files[0].read_bytes()])
        pid = _decoding()

        def under_limits(batch: Batch) -> None:
            with heap.limited_memory(budget.memory):
                child.answer(INSPECT, batch)

        ways: list[tuple[str, Callable[[Batch], object], int | None]] = [
            ("here", _inspect_here, None),
            ("under limits", under_limits, None),
            ("in a child", decoder.inspect, pid),
        ]
        for at in range(0, len(files), TOGETHER):
            batch = [file.read_bytes() for file in files[at : at + TOGETHER]]
            turn = at // TOGETHER % len(ways)
            for name, work, process in ways[turn:] + ways[:turn]:
                costs[name].append(_processor_seconds(work, batch, child=process))
    here = np.array(costs["here"])
    print(json.dumps({"photos": len(files), "microseconds here": round(here.sum() / len(files) * 1e6)}))
    for name in ("under limits", "in a child"):
        other = np.array(costs[name])
        tenths = zip(np.array_split(other, _TENTHS), np.array_split(here, _TENTHS), strict=True)
        parts = [theirs.sum() / ours.sum() for theirs, ours in tenths]
        print(f"{name}: {other.sum() / here.sum():.3f} of that ({min(parts):.3f} to {max(parts):.3f})")


if __name__ == "__main__":
    run_command(main)
