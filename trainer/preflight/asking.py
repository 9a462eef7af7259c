"""Answers a question: from what is kept or shipped, else by the compiler."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from pipeline.own_code import is_own
from trainer.devices.chips import spare_metadata_server
from trainer.preflight.cache import Cache
from trainer.preflight.compiling import Compiler
from trainer.preflight.facts import asked_for
from trainer.preflight.findings import Report
from trainer.preflight.question import Question
from trainer.recipes import overrides
from trainer.recipes.own import digests, own_code


def ask(question: Question, *, jax_python: str, cache: Cache) -> Iterator[Report]:
    """Yields what is known so far, each report beginning with all that the one before it said; the last is whole.

    Args:
      question: about a recipe on a slice.
      jax_python: an interpreter that has jax and libtpu; not asked where the answer is known.
      cache: of answers, and of what the compiler said.

    Raises:
      UsageError: no such recipe, setting or interpreter.
      DataError: nothing to train on.
      CommandError: the step cannot be lowered, or the compiler crashed.
    """
    spare_metadata_server()  # before any code of the user's own, which may import TensorFlow
    key = question.key() | _own_code(question)
    if stored := cache.get(key):
        yield Report.from_dict(stored)
        return
    asked_for(question)  # refuses what is wrong with it
    compiler = Compiler(jax_python, question.target, cache)
    from trainer.preflight.examine import examine  # imports TensorFlow

    for report in examine(question, compiler):
        yield report
    if all(step.compiled.final for step in report.steps):
        cache.put(key, dataclasses.asdict(report))


def _own_code(question: Question) -> dict[str, Any]:
    """Returns what the answer depends on besides, where code of the user's own has a say."""
    names = [question.backbone or "", *overrides.split(question.settings).values()]
    if not question.recipe.endswith(".py") and not any(map(is_own, names)):
        return {}
    recipe, _ = asked_for(question)
    return {"own_code": digests(own_code(question.recipe, recipe))}
