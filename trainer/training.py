"""Does what a run is asked for, for trainer.main and trainer.api: checks it, picks its backbone, and has it trained.

TensorFlow is not imported before there is something to train and all that can be told without it is in order.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from pipeline.command import TryAgainError, UsageError, nearest, print_next
from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion, open_dataset
from pipeline.own_code import is_own
from trainer.auto.choice import AUTO, Candidate, Choice, seconds_of
from trainer.auto.choice import check as check_choice
from trainer.devices.chips import spare_metadata_server
from trainer.devices.cluster import read_cluster
from trainer.devices.stopping import Wishes
from trainer.devices.tpu.hosts import TpuPlace, find_place, refuse_own_disks
from trainer.devices.tpu.server import leave_chips_alone, serve
from trainer.readiness import check_run
from trainer.recipes.load import asked_for, named_backbone, resolve
from trainer.recipes.own import digests, own_code
from trainer.recipes.recipe import DataFacts
from trainer.request import CACHES, STRATEGIES, Request

_SOME_FACTS = DataFacts(num_train=10_000, num_classes=10, max_side=256)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Holds what is to be trained, where, and on which devices; see the flags of trainer.main for the meaning.

    Attributes:
      request: what decides what the run computes.
      workdir: the run's folder.
      tpu: `local`, a TPU's name, its addresses, or "".
      strategy: one of `request.STRATEGIES`.
      cache: one of `request.CACHES`.
      time_budget: such as `30m`; only with the backbone `auto`.
      profile: whether to write a TensorBoard profile.
    """

    request: Request
    workdir: str
    tpu: str = ""
    strategy: str = "auto"
    cache: str = "auto"
    time_budget: str | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        for name, values in (("strategy", STRATEGIES), ("cache", CACHES)):
            value = getattr(self, name)
            if value not in values:
                raise UsageError(f"--{name}={value}: must be one of {', '.join(values)}.{nearest(str(value), values)}")


def check_recipe(request: Request) -> None:
    """Raises UsageError for a recipe, a backbone or a setting that is wrong whatever the dataset, which is to be built.

    A user's own code may do anything with what it is told of the dataset, so it is not run on what is made up.
    """
    if request.recipe.endswith(".py"):
        return
    named = named_backbone(request.recipe, request.backbone, request.settings)
    ours = named if named and named != AUTO and not is_own(named) else None
    asked_for(request, _SOME_FACTS, backbone=ours)


def carry_out(job: Job, wishes: Wishes) -> None:
    """Trains, evaluates, exports and reports, goes on where that was stopped, or finds that it is done.

    Args:
      job: what to do.
      wishes: whether to stop.

    Raises:
      UsageError: a wrong value, or the run's folder holds another run.
      DataError: the dataset cannot be trained on.
      TryAgainError: stopped, the state is saved; another process trains the run already; another machine is gone.
    """
    with wishes.at_once():
        ready = _ready(job)
        if ready is None:
            return
        from trainer.run import train_and_evaluate  # takes seconds: what comes before should not

    request, data, place = ready
    train_and_evaluate(
        request,
        data,
        job.workdir,
        wishes,
        strategy=job.strategy,
        tpu=place,
        profile=job.profile,
        cache=job.cache,
    )


def _ready(job: Job) -> tuple[Request, DatasetVersion, TpuPlace | None] | None:
    """Returns what is to be trained, on what and where; None where there is nothing to train."""
    workdir = job.workdir
    place = find_place(job.tpu, os.environ) if job.tpu else None
    if place and place.addresses:
        refuse_own_disks({"data": job.request.data, "run": workdir})
        if place.trains:
            leave_chips_alone()
    spare_metadata_server()  # before any code of the user's own, which may import TensorFlow
    data = open_dataset(job.request.data)
    request = _with_backbone(job, data, place)

    def is_done() -> bool:
        return request.is_done(workdir, data, lambda: digests(own_code(request.recipe, resolve(request, data))))

    if is_done():
        print(f"nothing to do: {workdir} is finished (results: {storage.join(workdir, 'result.json')})")
        print_next("ask it:", "python -m trainer.predict", f"--run={workdir}", "PHOTO.jpg")
        return None

    _check(job, request, data, place)
    if place and not place.trains:
        _serve(place, workdir, is_done)
        return None
    return request, data, place


def _check(job: Job, request: Request, data: DatasetVersion, place: TpuPlace | None) -> None:
    check_run(
        request,
        data,
        job.workdir,
        strategy=job.strategy,
        tpu=place,
        cache=job.cache,
        environment=os.environ,
    )


def _with_backbone(job: Job, data: DatasetVersion, place: TpuPlace | None) -> Request:
    """Returns the request with what --backbone=auto comes to."""
    request = job.request
    if request.backbone != AUTO:
        if job.time_budget:
            raise UsageError(f"--time_budget={job.time_budget} limits what --backbone=auto picks; give that, too")
        return request
    if place or read_cluster(os.environ):
        raise UsageError(
            "--backbone=auto looks for a backbone on one machine without a TPU; let it choose there, then name what it "
            "has taken here"
        )
    check_choice(request)
    budget = seconds_of(job.time_budget, flag="time_budget") if job.time_budget else None
    choice = Choice(request=request, data=data, run=job.workdir, budget=budget)
    if recorded := choice.recorded():
        return recorded
    _check(job, dataclasses.replace(request, backbone=None), data, None)

    def measure(backbone: str) -> Candidate:
        from trainer.auto import probe  # takes seconds: TensorFlow

        return probe.measure(request, data, backbone)

    return choice.made(measure)


def _serve(place: TpuPlace, workdir: str, is_done: Callable[[], bool]) -> None:
    """Serves this host's chips to the first host of the slice, until that one has gone."""
    print(
        f"host {place.serves} of {len(place.addresses)} serves its chips to {place.addresses[0]}, which trains",
        flush=True,
    )
    serve(place.serves or 0, place.addresses)
    if not is_done():
        raise TryAgainError(f"{place.addresses[0]} has stopped; run the same command again on all hosts to go on")
    print(f"{workdir} is finished")
