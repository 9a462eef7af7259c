"""Writes what was found of a model's answers in service: a page for people, and JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.format import storage
from pipeline.format.answer_log import Answers
from pipeline.format.reference import Reference
from pipeline.pages.environment import environment
from retrain.data.gate import DataCheck, Outcome, worst
from retrain.drift.compare import moment, words
from retrain.drift.confidence import Confidence, confidence, days

_LEVELS = {Outcome.OK: "green", Outcome.WARN: "amber", Outcome.HOLD: "red"}
_LABELS = 30  # that are shown
_DAYS = 60
_WIDTH, _HEIGHT = 300, 110  # of a curve
_POINTS = 60  # of a curve
_EDGE = 0.01  # share of the values left out at each end


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Label:
    name: str
    before: float
    now: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fact:
    name: str
    before: str  # points of a polyline
    now: str
    told: str  # beneath it


def write_drift(
    page: str,
    checks: Sequence[DataCheck],
    *,
    reference: Reference,
    answers: Answers,
    at: np.ndarray,
    log: str,
    model: str,
    result: dict[str, Any],
) -> None:
    """Writes `page` and the JSON beside it.

    Args:
      page: file that ends in .html.
      checks: what was found.
      reference: of the model.
      answers: in service.
      at: int [M], positions of those about different images.
      log: where the answers are from, for people.
      model: where the model lies, for people.
      result: what the JSON holds besides.
    """
    sure = confidence(reference, answers.probabilities[at]) if len(at) else None
    by_day = days(answers, sure.below) if sure else []
    content = result | {
        "confidence": sure and dataclasses.asdict(sure),
        "days": [dataclasses.asdict(day) for day in by_day],
    }
    beside = f"{os.path.splitext(page)[0]}.json"
    storage.write_atomically(beside, json.dumps(content, indent=2, ensure_ascii=False) + "\n", shared=True)
    text = (
        environment(__package__)
        .get_template("page.html.j2")
        .render(
            checks=checks,
            outcome=worst(checks),
            levels=_LEVELS,
            reference=reference,
            answers=answers,
            period=[moment(answers.seconds[0]), moment(answers.seconds[-1])] if len(answers.seconds) else None,
            log=log,
            model=model,
            sure=sure,
            days=by_day[-_DAYS:],
            most=max((day.answers for day in by_day), default=1),
            labels=_labels(reference, answers.probabilities[at])[:_LABELS] if len(at) else [],
            facts=_facts(checks, reference, answers, at),
            size=(_WIDTH, _HEIGHT),
        )
    )
    storage.write_atomically(page, text, shared=True)


def _labels(reference: Reference, probabilities: np.ndarray) -> list[_Label]:
    """Returns the share of each predicted label, the most different first."""
    before, now = (
        np.bincount(of.argmax(axis=1), minlength=len(reference.labels)) / len(of)
        for of in (reference.probabilities, probabilities)
    )
    order = np.argsort(-np.abs(now - before), kind="stable")
    return [_Label(name=reference.labels[at], before=float(before[at]), now=float(now[at])) for at in order]


def _facts(checks: Sequence[DataCheck], reference: Reference, answers: Answers, at: np.ndarray) -> list[_Fact]:
    """Draws the facts that were tested."""
    tested = next((check.figures for check in checks if check.name == "facts"), {})
    found = []
    for name, values in reference.facts.items():
        if not isinstance(tested.get(name), dict):
            continue
        now = answers.facts[name][at]
        now = now[np.isfinite(now)]
        low, high = np.quantile(np.concatenate([values, now]), [_EDGE, 1 - _EDGE])
        found.append(
            _Fact(
                name=words(name),
                before=_curve(values, float(low), float(high)),
                now=_curve(now, float(low), float(high)),
                told=f"median {_short(np.median(now))}, reference {_short(np.median(values))}; distance "
                f"{tested[name]['distance']:.2f}, p = {tested[name]['p_value']:.2g}",
            )
        )
    return found


def _short(value: np.floating) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def _curve(values: np.ndarray, low: float, high: float) -> str:
    """Returns the distribution function as points: how many of the values are at most so large."""
    grid = np.linspace(low, high, _POINTS)
    shares = np.searchsorted(np.sort(values), grid, side="right") / len(values)
    across = np.linspace(0, _WIDTH, _POINTS)
    return " ".join(f"{x:.1f},{_HEIGHT * (1 - y):.1f}" for x, y in zip(across, shares, strict=True))


def lines(checks: Sequence[DataCheck], sure: Confidence | None) -> list[str]:
    """Returns what is said of all this in a terminal."""
    told = [f"{check.outcome:<5} {check.name}: {check.text}" for check in checks]
    if sure:
        told.append(
            f"      confidence {sure.mean:.3f}, {sure.mean_before:.3f} of the reference; unsure {sure.unsure:.0%}, "
            f"{sure.unsure_before:.0%} of the reference"
        )
    if sure and sure.accuracy is not None and sure.interval:
        told.append(
            f"      accuracy, as the confidence lets guess: {sure.accuracy:.1%} ({sure.interval[0]:.1%} to "
            f"{sure.interval[1]:.1%}); {sure.accuracy_before:.1%} of the reference"
        )
    return told
