"""Follows a model: when its folder or link comes to mean another one, that one is loaded beside and takes over."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from absl import logging

from pipeline.command import CommandError, first_line
from trainer.serve.models import Model, Place, locate
from trainer.serve.service import Service

_SECONDS = 0.25  # between two looks
_AGAIN = 60.0  # seconds after which what was refused is tried once more: the reason may have been the machine's


async def follow(model: str, service: Service, load: Callable[[Place], Model]) -> None:
    """Has a service answer with what `model` means, for as long as it is not cancelled.

    What cannot be loaded is said, and the model before goes on; it is tried again when it changes, and every minute.

    Args:
      model: as `--model` was given.
      service: that answers.
      load: loads and warms up a model, in a thread.
    """
    known, seen = service.model.place, service.model.place
    again, clock = math.inf, asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(_SECONDS)
        try:
            place = await asyncio.to_thread(locate, model)
        except (CommandError, OSError):  # while it is replaced there may be none
            continue
        # Twice the same, so that what is still being copied is left alone.
        settled, seen = place == seen, place
        if not settled or (place == known and clock() < again):
            continue
        known, again = place, math.inf
        try:
            loaded = await asyncio.to_thread(load, place)
        except Exception as error:  # whatever is wrong with it, the one before answers
            again = clock() + _AGAIN
            service.metrics.changed("refused")
            logging.error("%s; %s goes on", first_line(error), service.model.version)
            continue
        logging.info("version %s answers, after %s", loaded.version, service.model.version)
        service.change(loaded)
        service.metrics.changed("changed")
