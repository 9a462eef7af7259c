"""Trains from Python, as `python -m trainer.main` does, in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from pipeline.command import TryAgainError
from pipeline.format import storage
from trainer.api.asked import read_own_code_anew, request_of
from trainer.api.building import Dataset, build_dataset
from trainer.api.inputs import InMemory, is_in_memory, place_of
from trainer.api.model import Model, load_model
from trainer.api.notebook import guest, in_a_cell
from trainer.devices.stopping import Wishes, handled
from trainer.request import Request
from trainer.training import Job, carry_out, check_recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Describes a finished run.

    Attributes:
      path: its folder.
      metrics: split → figures of the weights that are kept: accuracy, loss, examples and more, as result.json has them.
      diagnosis: what is to be said of the learning curves, in a line.
      report: the page that shows it.
    """

    path: str
    metrics: Mapping[str, Mapping[str, Any]]
    diagnosis: str
    report: str

    def model(self) -> Model:
        """Loads the model that the run has exported."""
        return load_model(self.path)

    def _repr_html_(self) -> str:
        return in_a_cell(self.report)


def train(
    data: str | os.PathLike[str] | Dataset | InMemory,
    run: str | os.PathLike[str],
    *,
    recipe: str | os.PathLike[str] = "photos",
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    init: str | os.PathLike[str] | None = None,
    extend: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
    label_names: Sequence[str] | None = None,
    tpu: str = "",
    strategy: str = "auto",
    cache: str = "auto",
    time_budget: str | None = None,
    skip_bad_records: bool = False,
    profile: bool = False,
) -> Run:
    """Trains a recipe on a dataset, evaluates, exports and reports; goes on where it was stopped: `trainer.main`.

    On the same machine it ends with the weights of the command, to the bit.

    Args:
      data: the dataset, or its root; or images in memory, as `build_dataset` takes them, of which a dataset is built
        in RUN-data, de-duplicated and split as any other.
      run: the run's folder.
      recipe: a name, a file of one's own, or the config.json of an earlier run.
      backbone: another one than the recipe's; one of one's own as FILE.py:function or MODULE:function; or auto.
      weights: imagenet, none, or a file.
      init: a finished run, or an export, to start from.
      extend: trains on, a finished run too, so long: ["5ep"].
      settings: values of the recipe, by their paths: {"phases.1.lr_max": 1e-4}; an augmentation of one's own is
        {"augment.policy": "MODULE:function"}.
      seed: of all that is drawn at random.
      label_names: of in-memory labels that are numbers, from 0.
      tpu, strategy, cache, time_budget, skip_bad_records, profile: as the command's flags.

    Raises:
      UsageError, DataError, TryAgainError: as the command ends, with its text.
      KeyboardInterrupt: interrupted; the state is saved, and called again it goes on. A second one does not wait.
    """
    folder = os.fspath(run)
    request = request_of(
        _place(data, folder, label_names),
        recipe=recipe,
        backbone=backbone,
        weights=weights,
        settings=settings,
        seed=seed,
        init=init,
        extend=extend,
        skip_bad_records=skip_bad_records,
    )
    job = Job(
        request=request,
        workdir=folder,
        tpu=tpu,
        strategy=strategy,
        cache=cache,
        time_budget=time_budget,
        profile=profile,
    )
    if is_in_memory(data):
        job = dataclasses.replace(job, request=_built(request, cast(InMemory, data), label_names))
    with guest(), _stoppable() as wishes:
        read_own_code_anew(job.request)
        carry_out(job, wishes)
    return read_run(folder)


def _place(data: str | os.PathLike[str] | Dataset | InMemory, run: str, label_names: Sequence[str] | None) -> str:
    if is_in_memory(data):
        return f"{run.rstrip('/')}-data"
    return data.path if isinstance(data, Dataset) else place_of(data, label_names)


def _built(request: Request, images: InMemory, label_names: Sequence[str] | None) -> Request:
    """Builds a dataset of images in memory, once nothing else is known to be wrong; returns the request for it."""
    check_recipe(request)
    return dataclasses.replace(request, data=build_dataset(images, request.data, label_names=label_names).path)


def read_run(path: str) -> Run:
    """Describes a finished run."""
    result = json.loads(storage.read_text(storage.join(path, "result.json")))
    return Run(
        path=path,
        metrics=result["splits"],
        diagnosis=result["diagnosis"],
        report=storage.join(path, "report.html"),
    )


class _Interruptible(Wishes):
    """Stops a run and never the process, which is the user's; notes whether it was Ctrl-C."""

    def __init__(self) -> None:
        super().__init__(grace=threading.TIMEOUT_MAX)
        self.interrupted = False

    def on_signal(self, number: int, frame: object) -> None:
        self.interrupted = self.interrupted or number == signal.SIGINT
        super().on_signal(number, frame)


@contextlib.contextmanager
def _stoppable() -> Iterator[Wishes]:
    """Has Ctrl-C and SIGTERM stop the run in order while the block runs; afterwards they mean what they did before."""
    wishes = _Interruptible()
    try:
        with handled(wishes):
            yield wishes
    except TryAgainError as error:
        if wishes.interrupted:
            raise KeyboardInterrupt(str(error)) from error
        raise
    finally:
        wishes.forget()
