"""Writes RUN/report.html and RUN/model_card.md from the files of a finished run. Free of TensorFlow.

The page is one file without scripts and without anything to download.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.format import storage
from pipeline.format.front_matter import front_matter
from pipeline.format.manifest import DatasetVersion
from pipeline.format.records import Record
from pipeline.intervals import wilson_interval
from pipeline.pages.environment import duration, environment
from pipeline.pages.findings import WORDS, Finding, Level, worst
from pipeline.pages.pictures import data_uri, find_records
from pipeline.predictions import Predictions, read_predictions
from trainer.report import charts, scores
from trainer.report.evaluation import figures
from trainer.report.explanations import Explanations, plane, read_explanations
from trainer.report.files import read_forms, read_json, read_lines
from trainer.report.gallery import MISTAKES, Shelf, pick
from trainer.report.judgement import Judged, headline, judge, next_steps, weakest_label
from trainer.report.label_issues import LABEL_ISSUES, LabelIssue, find_label_issues, issues_table
from trainer.report.matrix import drawn_matrix
from trainer.report.measures import LabelMeasures, precision_recall

_LISTED_CONFUSIONS = 15
_MOST_MATRIX_LABELS = 120  # a larger matrix shows nothing that the list of confusions does not
_MOST_COLOURED = 12  # labels with a colour of their own in a chart
_MOST_CURVES = 100


def write_report(run: storage.Path, data: DatasetVersion) -> None:
    """Writes `report.html`, `model_card.md` and, where there is something to measure on, `label_issues.csv` into `run`.

    Args:
      run: holds result.json, metrics.jsonl, config.json, provenance.json and, if the dataset has a test or validation
        split, predictions-<split>.npz.
      data: the dataset that the run was made with; the thumbnails are read from its shards.

    Raises:
      UsageError: a file of the run is absent.
      DataError: a shard is damaged.
    """
    context = _context(run, data)
    if LABEL_ISSUES in context:
        storage.write_atomically(storage.join(run, LABEL_ISSUES), context[LABEL_ISSUES], shared=True)
    context["front_matter"] = front_matter(_card_header(context))
    pages = environment(__package__)
    for template, name in (("report.html.j2", "report.html"), ("model_card.md.j2", "model_card.md")):
        text = pages.get_template(template).render(context)
        storage.write_atomically(storage.join(run, name), text, shared=True)


def _context(run: storage.Path, data: DatasetVersion) -> dict[str, Any]:
    result, settings = read_json(storage.join(run, "result.json")), read_json(storage.join(run, "config.json"))
    rows = read_lines(storage.join(run, "metrics.jsonl"))
    splits: dict[str, dict[str, Any]] = result["splits"]
    split = next((name for name in ("test", "validation") if name in splits), None)
    kept = result["best"] if result["best"] and settings["recipe"]["selection"] == "best" else rows[-1]
    provenance = read_json(storage.join(run, "provenance.json"))
    context: dict[str, Any] = {
        "run": os.fspath(run),
        "result": result,
        "split": split,
        "splits": {name: _summary(result["labels"], metrics) for name, metrics in splits.items()},
        "curves": charts.learning_curves(rows, kept_step=kept["step"]),
        "kept": kept,
        "selected": kept["step"] != rows[-1]["step"],
        "phases": charts.phases(rows),
        "data": settings["data"],
        "seed": settings["seed"],
        "manifest": data.manifest,
        "configuration": flatten(settings["recipe"]),
        "provenance": provenance,
        "duration": _duration(provenance["started"], provenance["finished"]),
        "words": WORDS,
        "forms": read_forms(run),
    }
    measured = _measured(run, data, split, result, rows, context) if split else _unmeasured(context)
    return context | measured


def _card_header(context: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the header of the model card says, with the figures that the hub shows (`model-index`)."""
    result, split = context["result"], context["split"]
    header = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", result["backbone"]],
    }
    if not split:
        return header
    of = context["measures"]
    metrics = [("accuracy", of.accuracy), ("f1", of.macro_f1), ("loss", of.log_loss)]
    name = {"accuracy": "Accuracy", "f1": "Macro-F1", "loss": "Log-loss"}
    dataset = {"type": result["dataset"], "name": f"{result['dataset']} {result['version']}", "split": split}
    outcome = {
        "task": {"type": "image-classification"},
        "dataset": dataset,
        "metrics": [{"type": kind, "name": name[kind], "value": round(float(value), 6)} for kind, value in metrics],
    }
    return header | {
        "metrics": ["accuracy"],
        "model-index": [{"name": f"{result['dataset']}-{result['recipe']}", "results": [outcome]}],
    }


def _unmeasured(context: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the first screen says where there is nothing to measure on."""
    text = "the dataset has neither a test nor a validation split: --splits of the build makes them"
    return {
        "headline": "Not measured.",
        "level": Level.AMBER,
        "findings": [
            Finding(level=Level.AMBER, subject="curves", text=text, short="nothing to measure on"),
            Finding(level=Level.AMBER, subject="curves", text=context["result"]["diagnosis"], short="the curves"),
        ],
        "next": list(next_steps(context["run"], context["data"], None)),
    }


def _measured(
    run: storage.Path,
    data: DatasetVersion,
    split: str,
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    context: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what is shown of the answers to a split."""
    predictions = {name: read_predictions(run, name) for name in result["splits"]}
    found = predictions[split]
    chosen_by = predictions.get("validation") if split == "test" else None
    evaluation = figures(found, split=split, validation=chosen_by, data=data)
    of = evaluation.measures
    confusion = _confusion(result["splits"][split], len(result["labels"]))
    confusions = scores.most_confused(result["labels"], confusion, limit=_LISTED_CONFUSIONS)
    issues, records = _label_issues(data, predictions)
    judged = Judged(
        split=split,
        evaluation=evaluation,
        majority=float(confusion.sum(axis=1).max() / confusion.sum()),
        probe=_probe(rows),
        diagnosis=result["diagnosis"],
        sizes={name: data.manifest.num_examples(name) for name in data.manifest.splits},
        confusions=confusions,
        issues=len(issues),
        held_out=sum(len(one.ids) for one in predictions.values()),
        selected=context["selected"],
    )
    findings = judge(judged)
    explained = read_explanations(run)
    picked = pick(found, confusions)
    shelf = Shelf(data, found, split, explained, picked)
    bins = scores.reliability(found.confidence, found.correct)
    return {
        "headline": headline(judged, findings),
        "level": worst(findings),
        "findings": findings,
        "next": list(next_steps(os.fspath(run), context["data"], judged)),
        "measures": of,
        "evaluation": evaluation,
        "classes": sorted(of.labels, key=lambda one: (one.recall is None, one.recall or 0.0, one.label)),
        "weakest": weakest_label(of),
        "majority": judged.majority,
        "matrix": drawn_matrix(result["labels"], confusion) if len(of.labels) <= _MOST_MATRIX_LABELS else None,
        "confusions": confusions,
        "num_mistakes": int((~found.correct).sum()),
        "mistakes": [shelf.show(at, explained=True) for at in picked.mistakes],
        "unsure": [shelf.show(at) for at in picked.unsure],
        "pairs": [(pair, [shelf.show(at) for at in several]) for pair, several in picked.pairs],
        "issues": [(one, _uri(records.get(one.id))) for one in issues[:MISTAKES]],
        "num_issues": len(issues),
        LABEL_ISSUES: issues_table(issues),
        "precision": _precision(found, of.labels),
        "bins": bins,
        "calibration_error": of.calibration_error,
        "mean_confidence": float(found.confidence.mean()),
        "reliability": charts.reliability_diagram(bins),
        "map": _map(found, explained, split),
    }


def _probe(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Returns how many images heads that had not seen them got right, and of how many, where that is known."""
    found = [row for row in rows if row["split"] == "cross_validation"]
    return (round(found[-1]["accuracy"] * found[-1]["examples"]), found[-1]["examples"]) if found else None


def _label_issues(
    data: DatasetVersion, predictions: Mapping[str, Predictions]
) -> tuple[list[LabelIssue], dict[str, Record]]:
    """Lists the images held out whose label looks wrong, the worst first, and their records by id."""
    rows = []
    for split, found in predictions.items():
        known = found.labels >= 0
        rows.append((np.array(found.ids)[known], found.labels[known], np.exp(found.log_probabilities[known]),
                     np.full(known.sum(), split)))  # fmt: skip
    ids, labels, probabilities, splits = (np.concatenate(column) for column in zip(*rows, strict=True))
    doubted = find_label_issues(labels, probabilities)
    wanted = {split: set(ids[doubted.positions][splits[doubted.positions] == split]) for split in predictions}
    records: dict[str, Record] = {}
    for split, of in wanted.items():
        records |= find_records(data, split, of)
    names = next(iter(predictions.values())).names
    issues = [
        LabelIssue(
            id=str(ids[at]),
            source=records[ids[at]].source if ids[at] in records else "",
            label=names[labels[at]],
            suggested=names[suggested],
            probability=float(own),
            split=str(splits[at]),
        )
        for at, suggested, own in zip(doubted.positions, doubted.suggested, doubted.confidence, strict=True)
    ]
    return issues, records


def _uri(record: Record | None) -> str | None:
    return data_uri(record.image) if record else None


def _precision(found: Predictions, labels: Sequence[LabelMeasures]) -> dict[str, Any]:
    """Returns a chart of precision against recall and its key, the labels with the least average precision first."""
    precisions = {at: one.average_precision for at, one in enumerate(labels) if one.average_precision is not None}
    order = sorted(precisions, key=lambda at: precisions[at])[:_MOST_CURVES]
    curves = [precision_recall(found, at) for at in order]
    chart, colours = charts.precision_recall_curves(curves[:_MOST_COLOURED], curves[_MOST_COLOURED:])
    key = [
        (labels[at].label, colour, precisions[at]) for at, colour in zip(order[:_MOST_COLOURED], colours, strict=True)
    ]
    return {"chart": chart, "key": key, "others": len(precisions) - len(key)}


def _map(found: Predictions, explained: Explanations | None, split: str) -> dict[str, Any] | None:
    """Returns a chart of the images' features and its key; None without features, or of too few images."""
    if explained is None or explained.split != split or len(explained.ids) < 3:
        return None
    place = {image: index for index, image in enumerate(found.ids)}
    at = [place[image] for image in explained.ids if image in place]
    if len(at) != len(explained.ids):
        return None
    commonest = [int(label) for label in np.argsort(-np.bincount(found.labels[at], minlength=len(found.names)))]
    coloured = commonest[:_MOST_COLOURED]
    chart, colours = charts.feature_map(
        plane(explained.features), found.labels[at], wrong=~found.correct[at], coloured=coloured
    )
    return {"chart": chart, "key": list(zip([found.names[label] for label in coloured], colours, strict=True))}


def _summary(labels: Sequence[str], metrics: Mapping[str, Any]) -> dict[str, Any]:
    examples = metrics["examples"]
    classes = scores.class_scores(labels, _confusion(metrics, len(labels)))
    return {
        "examples": examples,
        "accuracy": metrics["accuracy"],
        "loss": metrics["loss"],
        "interval": wilson_interval(round(metrics["accuracy"] * examples), examples),
        "balanced_accuracy": float(np.mean([c.recall for c in classes if c.recall is not None])),
        "macro_f1": float(np.mean([c.f1 for c in classes if c.f1 is not None])),
    }


def _confusion(metrics: Mapping[str, Any], classes: int) -> np.ndarray:
    """Reads the confusion matrix, int64 [C, C], that `Metrics.to_dict` has written."""
    if "confusion" in metrics:
        return np.array(metrics["confusion"], np.int64)
    confusion = np.zeros((classes, classes), np.int64)
    true, predicted, counts = np.array(metrics["confused"], np.int64).T
    confusion[true, predicted] = counts
    return confusion


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flattens nested settings to `a.b.0.c` → value: the keys that `trainer.main --set` takes."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            flat |= flatten({str(index): v for index, v in enumerate(value)}, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _duration(started: str, finished: str) -> str:
    start, end = (datetime.datetime.fromisoformat(t.replace("Z", "+00:00")) for t in (started, finished))
    return duration((end - start).total_seconds())
