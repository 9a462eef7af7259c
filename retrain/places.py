"""Checks that the folders of a configuration are what it takes them for, before a pass writes into them."""

from __future__ import annotations

from pipeline.command import UsageError
from pipeline.format import kinds
from pipeline.pages.index import PAGE, is_foreign
from retrain.config import RetrainConfig
from retrain.index import TITLE

_KINDS = {"data": kinds.DATASET, "runs": None, "models": kinds.REGISTRY}


def check_places(config: RetrainConfig) -> None:
    """Looks at the folders that a pass writes into.

    Raises:
      UsageError: two are the same, one holds something else, or the first page of models is somebody else's.
    """
    places: dict[str, str] = {}
    for key, kind in _KINDS.items():
        place = getattr(config, key)
        if place in places:
            raise UsageError(f"{key}: {place}: {places[place]} is that folder already; name another")
        places[place] = key
        _refuse_others(place, f"{key}: {place}", kind)
    _refuse_page(config.models, f"models: {config.models}")


def check_registry(root: str) -> None:
    """Raises UsageError where a folder holds something else than models, or its first page is somebody else's."""
    _refuse_others(root, root, kinds.REGISTRY)
    _refuse_page(root, root)


def _refuse_others(place: str, given: str, kind: str | None) -> None:
    what = kinds.kind_of(place)
    if what and what != kind:
        raise UsageError(f"{given}: it is {what}; name a folder that is empty, or a new one")


def _refuse_page(place: str, given: str) -> None:
    if is_foreign(place, TITLE):
        raise UsageError(f"{given}: {PAGE} lies there, which would be lost; name another folder")
