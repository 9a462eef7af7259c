"""Makes of arguments what the flags of the same names say, with users' own code as it lies on disk now."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

from pipeline.command import UsageError
from pipeline.own_code import FORM, find, is_own
from trainer.recipes import overrides
from trainer.request import Request


def request_of(
    data: str,
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
        data=data,
        recipe=os.fspath(recipe),
        backbone=backbone,
        weights=None if weights is None else os.fspath(weights),
        init=None if init is None else os.fspath(init),
        settings=tuple(f"{name}={_text(name, value)}" for name, value in (settings or {}).items()),
        seed=seed,
        extend=(extend,) if isinstance(extend, str) else tuple(extend),
        skip_bad_records=skip_bad_records,
    )


def _text(name: str, value: object) -> str:
    """Spells a value for --set, which reads JSON and takes for text what is none."""
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except TypeError as error:
        raise UsageError(
            f"settings: {name} is a {type(value).__name__}; give text, a number, a bool or None"
        ) from error


def read_own_code_anew(request: Request) -> None:
    """Forgets what this process has read and run of the user's code that a request names; runs none of it.

    In a notebook files are edited between two calls; a command reads them once, and so has what lies there.

    Raises:
      UsageError: there is no such file, module or function.
    """
    find.cache_clear()
    if policies := sys.modules.get("pipeline.augment.own_policy"):
        policies.own_policy.cache_clear()
    set_to = overrides.split(request.settings)
    named = [request.backbone, set_to.get("backbone"), set_to.get("augment.policy")]
    code = [find(name) for name in named if name and is_own(name)]
    if request.recipe.endswith(".py"):
        code.append(find(f"{request.recipe}:recipe"))
    files = {one.file for one in code} | {more.file for one in code for more in one.imports}
    for name, module in list(sys.modules.items()):
        if name != "__main__" and getattr(module, "__file__", None) in files:
            del sys.modules[name]
