"""Puts a server together and runs it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import socket

from absl import logging

from pipeline.images import heap
from trainer.serve.answering import Answering
from trainer.serve.app import make_app
from trainer.serve.limits import Limits
from trainer.serve.metrics import Metrics
from trainer.serve.models import load, locate
from trainer.serve.server import Server, allow_many_files, url_of
from trainer.serve.service import Service
from trainer.serve.watch import follow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Says what is served, and how.

    Attributes:
      model: an export, a form of one, or a registry's link.
      name: of the model, in paths.
      watch: whether what `model` means is followed.
      log: folder for a log of answers; "" for none.
      log_share: of the answers, which is logged.
      limits: for requests.
    """

    model: str
    name: str
    watch: bool
    log: str
    log_share: float
    limits: Limits


def run(settings: Settings, taken: socket.socket, answering: Answering) -> None:
    """Serves on a socket until SIGTERM or Ctrl-C.

    Args:
      settings: what is served, and how.
      taken: a socket that is bound.
      answering: what decodes.

    Raises:
      UsageError: there is no such model, or something that belongs to it is not there.
      DataError: the model is damaged.
    """
    allow_many_files()
    heap.give_back()
    place = locate(settings.model)
    metrics = Metrics()
    load_one = functools.partial(
        load, prepare=answering.prepare, most=settings.limits.batch, observe=metrics.batch, log=settings.log or None
    )
    service = Service(
        name=settings.name, model=load_one(place), answering=answering, limits=settings.limits, metrics=metrics,
        log_share=settings.log_share,
    )  # fmt: skip
    asyncio.run(_serve(settings, service, taken, load_one))
    service.model.retire()


async def _serve(settings: Settings, service: Service, taken: socket.socket, load_one: functools.partial) -> None:
    def draining() -> None:
        if not service.draining:
            logging.info("ending: what is under way is answered")
        service.draining = True

    server = Server(make_app(service), settings.limits, ready=lambda: _greet(service, url_of(taken)), draining=draining)
    following = asyncio.create_task(follow(settings.model, service, load_one)) if settings.watch else None
    await server.serve([taken])
    if following:
        following.cancel()


def _greet(service: Service, url: str) -> None:
    model = service.model
    print(f"model    {service.name}, version {model.version}, {len(model.labels)} labels ({model.place.file})")
    print(f"serving  {url}")
    print(f"try      curl -F image=@photo.jpg {url}/predict", flush=True)
