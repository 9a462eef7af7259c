"""Draws the report's charts as inline SVG. Text stays text, and equal input gives equal bytes."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from trainer.report.scores import ConfidenceBin

GREY = TRAIN_COLOUR = "#8a94a6"
VALIDATION_COLOUR, KEPT_COLOUR = "#1f5fbf", "#d0441c"
INK, GRID = "#39424e", "#e4e8ee"
BAND_COLOUR = "#1f5fbf"
_CURVES = {
    "train": (TRAIN_COLOUR, ":", "while training"),
    "train_sample": (TRAIN_COLOUR, "-", "training sample"),
    "validation": (VALIDATION_COLOUR, "-", "validation"),
}
_PHASE_COLOURS = ("#f5f7fa", "#e9eff8")
# Those that the page's style decides, light or dark.
_OF_PAGE = {
    INK: "currentColor",
    GRID: "var(--line)",
    _PHASE_COLOURS[0]: "var(--paper)",
    _PHASE_COLOURS[1]: "var(--shade)",
}
_MOST_STEPS = 100  # of a curve of precision
_MOST_POINTS = 400  # a curve of more points is averaged: the page stays small and the line readable
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,  # a label may hold "$"
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    for colour, name in _OF_PAGE.items():
        text = text.replace(colour, name)
    return Markup(text[text.index("<svg") :])  # without the XML prologue


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages over equal stretches, at most `_MOST_POINTS` of them."""
    if len(x) <= _MOST_POINTS:
        return x, y
    groups = zip(np.array_split(x, _MOST_POINTS), np.array_split(y, _MOST_POINTS), strict=True)
    xs, ys = zip(*((a.mean(), b.mean()) for a, b in groups), strict=True)
    return np.array(xs), np.array(ys)


def phases(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Lists (phase, first step, last step) in the order of training; a phase begins where the one before it ended."""
    found: list[tuple[str, int, int]] = []
    for phase, group in itertools.groupby(sorted(rows, key=lambda r: r["step"]), key=lambda r: r["phase"]):
        start = found[-1][2] if found else 0
        found.append((phase, start, max(row["step"] for row in group)))
    return found


def learning_curves(rows: Sequence[dict[str, Any]], *, kept_step: int) -> list[Markup]:
    """Draws loss, accuracy and learning rate over the steps; shades phases, marks the step whose weights were kept."""
    charts = []
    with matplotlib.rc_context(_STYLE):
        for key, title in (("loss", "Loss"), ("accuracy", "Accuracy"), ("learning_rate", "Learning rate")):
            figure = Figure(figsize=(3.7, 3.3), layout="constrained")
            axes = figure.subplots()
            _shade_phases(axes, phases(rows))
            for split, (colour, line, label) in _CURVES.items():
                points = [(r["step"], r[key]) for r in rows if r["split"] == split and r.get(key) is not None]
                if points:
                    x, y = _thin(*(np.array(column, float) for column in zip(*points, strict=True)))
                    marker = "o" if len(x) <= 40 else None
                    axes.plot(x, y, line, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3)
                    if split == "validation":
                        _mark_kept(axes, kept_step, float(np.interp(kept_step, x, y)), above=key == "loss")
            axes.set_title(title, loc="left", fontsize=11, color=INK, pad=16)
            axes.set_xlabel("step")
            axes.grid(axis="y", color=GRID)
            axes.set_axisbelow(True)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            if key == "loss":
                axes.legend(frameon=False, loc="best")
            elif key == "accuracy":
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
            else:
                _scale_rates(axes, rows)
            charts.append(_svg(figure))
    return charts


def _mark_kept(axes: Axes, step: int, value: float, *, above: bool) -> None:
    axes.plot([step], [value], "o", color="none", markeredgecolor=KEPT_COLOUR, markersize=9)
    offset = (0, 9 if above else -18)
    axes.annotate(
        "kept", (step, value), xytext=offset, textcoords="offset points", ha="center", color=KEPT_COLOUR
    )  # fmt: skip


def _shade_phases(axes: Axes, spans: Sequence[tuple[str, int, int]]) -> None:
    for index, (name, start, end) in enumerate(spans):
        axes.axvspan(start, end, color=_PHASE_COLOURS[index % 2], linewidth=0, zorder=0)
        axes.annotate(
            name, ((start + end) / 2, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=8, color=INK
        )


def _scale_rates(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Makes the axis logarithmic where the phases' highest rates are far apart: fine-tuning would be a flat zero."""
    highest: dict[str, float] = {}
    for row in rows:
        if row.get("learning_rate"):
            highest[row["phase"]] = max(highest.get(row["phase"], 0.0), row["learning_rate"])
    if highest and max(highest.values()) > 20 * min(highest.values()):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # its own writes TeX
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)


def reliability_diagram(bins: Sequence[ConfidenceBin]) -> Markup:
    """Draws how often the model was right against how sure it was, with 95 % intervals, over the number of examples."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 4.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=TRAIN_COLOUR, linestyle=(0, (4, 3)), linewidth=1)
        confidence, accuracy = [b.confidence for b in bins], [b.accuracy for b in bins]
        below = [max(0.0, b.accuracy - b.interval[0]) for b in bins]
        above = [max(0.0, b.interval[1] - b.accuracy) for b in bins]
        upper.errorbar(
            confidence, accuracy, yerr=(below, above), fmt="o-", color=VALIDATION_COLOUR, elinewidth=1, markersize=5
        )
        upper.set_ylabel("was right")
        lower.bar(
            [b.low for b in bins],
            [b.examples for b in bins],
            width=[b.high - b.low for b in bins],
            align="edge",
            color="#c9d6ea",
            edgecolor="white",
        )
        lower.set_ylabel("images")
        lower.set_xlabel("was sure")
        percent = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")
        upper.yaxis.set_major_formatter(percent)
        lower.xaxis.set_major_formatter(percent)
        lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        upper.set_ylim(-0.02, 1.02)
        lower.set_xlim(0, 1)
        for axes in (upper, lower):
            axes.grid(axis="y", color=GRID)
            axes.set_axisbelow(True)
        return _svg(figure)


def photos_curve(
    counts: np.ndarray,
    accuracies: np.ndarray,
    intervals: np.ndarray,
    *,
    beyond: Sequence[tuple[float, float, float, float]],
) -> Markup:
    """Draws accuracy against the number of photos learnt from: what was measured, and what a law tells beyond.

    Args:
      counts: float [S], photos.
      accuracies: float [S].
      intervals: float [S, 2], their 95 % intervals.
      beyond: (photos, accuracy, lower and upper end of its 95 % interval), by the law.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axes = figure.subplots()
        photos, law, low, high = map(np.array, zip(*beyond, strict=True))
        axes.fill_between(photos, low, high, color=BAND_COLOUR, alpha=0.15, linewidth=0)
        axes.plot(photos, law, color=VALIDATION_COLOUR, linewidth=1.4)
        spread = np.abs(intervals.T - accuracies)
        axes.errorbar(counts, accuracies, yerr=spread, fmt="o", color=KEPT_COLOUR, elinewidth=1, markersize=5)
        axes.set_xlabel("photos learnt from")
        axes.set_ylabel("right, not seen before")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", color=GRID)
        axes.set_axisbelow(True)
        return _svg(figure)


def feature_map(
    points: np.ndarray, labels: np.ndarray, *, wrong: np.ndarray, coloured: Sequence[int]
) -> tuple[Markup, list[str]]:
    """Draws images as points; returns the chart and the colours of `coloured`.

    Args:
      points: float [N, 2].
      labels: int [N].
      wrong: bool [N]; these are ringed.
      coloured: labels that have a colour of their own; the others are grey.
    """
    colours = _colours(len(coloured))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        axes = figure.subplots()
        size = 26 if len(points) <= 400 else 10
        others = ~np.isin(labels, coloured)
        x, y = points.T
        axes.scatter(x[others], y[others], s=size, color=GREY, linewidths=0)
        for label, colour in zip(coloured, colours, strict=True):
            of_label = labels == label
            axes.scatter(x[of_label], y[of_label], s=size, color=colour, linewidths=0)
        axes.scatter(x[wrong], y[wrong], s=3 * size, facecolors="none", edgecolors=KEPT_COLOUR, linewidths=1.2)
        axes.set_xticks([])
        axes.set_yticks([])
        return _svg(figure), colours


def _colours(count: int) -> list[str]:
    """Returns up to 20 colours, the full ones before their pale twins."""
    order = [*range(0, 20, 2), *range(1, 20, 2)][:count]
    return [to_hex(matplotlib.colormaps["tab20"](number)) for number in order]


def precision_recall_curves(
    coloured: Sequence[tuple[np.ndarray, np.ndarray]], others: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[Markup, list[str]]:
    """Draws precision against recall, a curve a label; returns the chart and the colours of the first ones.

    Args:
      coloured: (precision, recall), float [K] each, of labels that have a colour of their own.
      others: of the others, drawn in grey.
    """
    colours = _colours(len(coloured))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 4.0), layout="constrained")
        axes = figure.subplots()
        for curves, drawn in ((others, [GREY] * len(others)), (coloured, colours)):
            for (precision, recall), colour in zip(curves, drawn, strict=True):
                # As it stands in the sum of steps that is the average precision; few points say the same.
                at = np.unique(np.linspace(0, len(recall) - 1, _MOST_STEPS).round().astype(int))
                axes.step(
                    np.append(0, recall[at]), np.append(precision[at[:1]], precision[at]), where="pre", color=colour,
                    linewidth=1.4,
                )  # fmt: skip
        percent = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xlabel("found of the label's images")
        axes.set_ylabel("right of those given the label")
        axes.xaxis.set_major_formatter(percent)
        axes.yaxis.set_major_formatter(percent)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        return _svg(figure), colours
