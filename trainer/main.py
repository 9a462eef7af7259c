r"""Trains a recipe on a dataset, evaluates, exports and reports.

    python -m trainer.main DATA --run=RUN
    python -m trainer.main gs://bucket/DATA --run=gs://bucket/RUN --recipe=cifar10_efficientnet --tpu=local

Killed or pre-empted, the same command goes on where it stopped; a finished run is left alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from absl import flags

from pipeline.command import ExitCode, TryAgainError, UsageError, print_next, run_command
from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion, open_dataset
from trainer.auto.choice import AUTO, Candidate, Choice, seconds_of
from trainer.auto.choice import check as check_choice
from trainer.devices.chips import find_chips, spare_metadata_server
from trainer.devices.cluster import read_cluster
from trainer.devices.stopping import Wishes, listening
from trainer.devices.tpu.hosts import TpuPlace, find_place, refuse_own_disks
from trainer.devices.tpu.server import leave_chips_alone, serve
from trainer.instead import set_instead
from trainer.readiness import check_run
from trainer.recipes.load import resolve
from trainer.recipes.own import digests, own_code
from trainer.request import CACHES, STRATEGIES, Request, define_flags

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Folder of the run: checkpoints, metrics, export, report.")
flags.DEFINE_alias("workdir", "run")
define_flags()
flags.DEFINE_string(
    "tpu",
    "",
    "local: the chips of this machine (TPU VM, Colab). The TPU's name: those of all its hosts, each of which runs this "
    "command. grpc://host:port,…: those behind TensorFlow servers that run already. Empty: GPUs, else the CPU.",
)
flags.DEFINE_enum(
    "strategy",
    "auto",
    STRATEGIES,
    "What trains: mirrored: all GPUs of this machine; multiworker: those of all machines in TF_CONFIG; auto: TPU with "
    "--tpu, several machines with TF_CONFIG, else all GPUs, else the CPU.",
)
flags.DEFINE_enum(
    "cache",
    "auto",
    CACHES,
    "Where images lie between epochs; the pixels are the same within rounding. none: read anew; bytes, pixels: in "
    "memory, encoded or decoded; disk: a local copy; device: decoded on every TPU, GPU or CPU that trains, which "
    "renders them; auto: by size, and on the device on TPUs only.",
)
flags.DEFINE_string(
    "time_budget", None, "With --backbone=auto: backbones whose run would take longer (90s, 30m, 2h) are not taken."
)
flags.DEFINE_bool("skip_bad_records", False, "Train without damaged records, which are counted and logged.")
flags.DEFINE_bool("profile", False, "Write a TensorBoard profile of a few steps of every phase.")


def main(arguments: list[str]) -> int | None:
    del arguments
    with listening(on_cloud=find_chips().on_bus > 0) as wishes:
        try:
            return _train(wishes)
        except TryAgainError as error:
            if wishes.stop:
                wishes.end(error)
            raise


def _train(wishes: Wishes) -> ExitCode:
    with wishes.at_once():
        ready = _ready()
        if isinstance(ready, ExitCode):
            return ready
        from trainer.run import train_and_evaluate  # takes seconds: what comes before should not

    request, data, place = ready
    return train_and_evaluate(
        request,
        data,
        FLAGS.run,
        wishes,
        strategy=FLAGS.strategy,
        tpu=place,
        profile=FLAGS.profile,
        cache=FLAGS.cache,
    )


def _ready() -> tuple[Request, DatasetVersion, TpuPlace | None] | ExitCode:
    """Returns what is to be trained, on what and where; an exit code where there is nothing to train."""
    place = find_place(FLAGS.tpu, os.environ) if FLAGS.tpu else None
    if place and place.addresses:
        refuse_own_disks({"data": FLAGS.data, "run": FLAGS.run})
        if place.trains:
            leave_chips_alone()
    spare_metadata_server()  # before any code of the user's own, which may import TensorFlow
    data = open_dataset(FLAGS.data)
    workdir = FLAGS.run
    request = _with_backbone(Request.from_flags(FLAGS), data, place)

    def is_done() -> bool:
        return request.is_done(workdir, data, lambda: digests(own_code(request.recipe, resolve(request, data))))

    if is_done():
        print(f"nothing to do: {workdir} is finished (results: {storage.join(workdir, 'result.json')})")
        print_next("ask it:", "python -m trainer.predict", f"--run={workdir}", "PHOTO.jpg")
        return ExitCode.DONE

    check_run(
        request,
        data,
        workdir,
        strategy=FLAGS.strategy,
        tpu=place,
        cache=FLAGS.cache,
        environment=os.environ,
    )
    if place and not place.trains:
        return _serve(place, is_done)
    return request, data, place


def _with_backbone(request: Request, data: DatasetVersion, place: TpuPlace | None) -> Request:
    """Returns the request with what --backbone=auto comes to."""
    if request.backbone != AUTO:
        if FLAGS.time_budget:
            raise UsageError(f"--time_budget={FLAGS.time_budget} limits what --backbone=auto picks; give that, too")
        return request
    if place or read_cluster(os.environ):
        raise UsageError(
            "--backbone=auto looks for a backbone on one machine without a TPU; let it choose there, then name what it "
            "has taken here"
        )
    check_choice(request)
    budget = seconds_of(FLAGS.time_budget, flag="time_budget") if FLAGS.time_budget else None
    choice = Choice(request=request, data=data, run=FLAGS.run, budget=budget)
    if recorded := choice.recorded():
        return recorded
    check_run(
        dataclasses.replace(request, backbone=None),
        data,
        FLAGS.run,
        strategy=FLAGS.strategy,
        tpu=None,
        cache=FLAGS.cache,
        environment=os.environ,
    )

    def measure(backbone: str) -> Candidate:
        from trainer.auto import probe  # takes seconds: TensorFlow

        return probe.measure(request, data, backbone)

    return choice.made(measure)


def _serve(place: TpuPlace, is_done: Callable[[], bool]) -> ExitCode:
    """Serves this host's chips to the first host of the slice, until that one has gone."""
    print(
        f"host {place.serves} of {len(place.addresses)} serves its chips to {place.addresses[0]}, which trains",
        flush=True,
    )
    serve(place.serves or 0, place.addresses)
    if not is_done():
        raise TryAgainError(f"{place.addresses[0]} has stopped; run the same command again on all hosts to go on")
    print(f"{FLAGS.run} is finished")
    return ExitCode.DONE


if __name__ == "__main__":
    run_command(main, argument="data", needs=("data", "run"), instead=set_instead, is_native=True)
