"""Makes of arguments what the flags of the same names say, with users' own code as it lies on disk now."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence

from pipeline.command import UsageError
from pipeline.format.manifest import open_dataset
from pipeline.own_code import FORM, find
from trainer.api.building import Dataset
from trainer.auto.choice import AUTO
from trainer.devices.chips import spare_metadata_server
from trainer.recipes.load import resolve
from trainer.recipes.own import own_code
from trainer.request import Request


def request_of(
    data: str | os.PathLike[str] | Dataset,
    *,
    recipe: str | os.PathLike[str],
    backbone: str | None,
    weights: str | os.PathLike[str] | None,
    settings: Mapping[str, object] | None,
    seed: int,
    init: str | os.PathLike[str] | None = None,
    extend: Sequence[str] = (),
    skip_bad_records: bool = False,
) -> Request:
    """Returns what a command's flags would ask for.

    Raises:
      UsageError: a value that no flag takes.
    """
    if callable(backbone):
        raise UsageError(f"a backbone is named by where it is written, so that a run can keep its source: {FORM}")
    if seed < 0:
        raise UsageError(f"--seed={seed}: must not be negative")
    return Request(
        data=data.path if isinstance(data, Dataset) else os.fspath(data),
        recipe=os.fspath(recipe),
        backbone=backbone,
        weights=None if weights is None else os.fspath(weights),
        init=None if init is None else os.fspath(init),
        settings=tuple(f"{name}={_text(value)}" for name, value in (settings or {}).items()),
        seed=seed,
        extend=(extend,) if isinstance(extend, str) else tuple(extend),
        skip_bad_records=skip_bad_records,
    )


def _text(value: object) -> str:
    """Spells a value for --set, which reads JSON and takes for text what is none."""
    return value if isinstance(value, str) else json.dumps(value)


def read_own_code_anew(request: Request) -> None:
    """Forgets what this process has read and run of the user's code that a request rests on.

    In a notebook files are edited between two calls; a command reads them once, and so has what lies there.

    Raises:
      UsageError, DataError: what is wrong with the request, as its run would say.
    """
    spare_metadata_server()  # before the code, which may import TensorFlow
    find.cache_clear()
    if policies := sys.modules.get("pipeline.augment.own_policy"):
        policies.own_policy.cache_clear()
    asked = dataclasses.replace(request, backbone=None) if request.backbone == AUTO else request
    code = own_code(asked.recipe, resolve(asked, open_dataset(asked.data)))
    files = {one.file for one in code.values()} | {more.file for one in code.values() for more in one.imports}
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) in files:
            del sys.modules[name]
