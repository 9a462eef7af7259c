"""Compares what a served model is asked with the images that it was evaluated on, for cron.

    python -m retrain.drift --log=LOG --model=MODELS/champion [--since=7d] [--output=FILE.html] [--result=FILE.json]
    python -m retrain.drift --log=LOG --config=retrain.yaml       # the champion of its registry, and its limits

    23 6 * * *  cd /srv/photos && .venv/bin/python -m retrain.drift --log=log --config=retrain.yaml >> drift.log 2>&1

LOG is the folder in which a server logs what it answers, and a model's reference.npz what it answered when it was
evaluated. Shares of the labels, facts of the images (brightness, sharpness, area, aspect, bytes a pixel) and features
are tested, each by the data gate's levels and limits (`data_gate` of the configuration: level, label_shift, fact_shift,
separable); every check ends as ok, warn or hold. The page, and JSON beside it, say what is behind them.

Exit codes: 0 all right, to be looked at (warn), or too few answers to tell · 65 the images are of another kind (hold),
or the model's reference is damaged · 64 there is no such log or model, or none of the answers is of this model.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
import time
from typing import Any

from absl import flags

from pipeline.command import CommandError, DataError, ExitCode, UsageError, first_line, print_next, run_command
from pipeline.format import kinds, storage
from pipeline.format.answer_log import Answers, read_answers, served_name
from pipeline.format.places import check_file
from pipeline.format.reference import REFERENCE_FILE, Reference, read_reference
from retrain import registry
from retrain.config import RetrainConfig, load_config
from retrain.data.gate import DataCheck, Outcome, worst
from retrain.drift.compare import compare, different
from retrain.drift.confidence import confidence
from retrain.drift.page import lines, write_drift
from retrain.ledger import CHAMPION
from retrain.limits import DataGateConfig

_LOG = flags.DEFINE_string("log", None, "Folder in which a server logs its answers.")
_MODEL = flags.DEFINE_string("model", None, "An export: of a run, or of a registry (MODELS/champion, MODELS/3).")
_CONFIG = flags.DEFINE_string("config", None, "Configuration of a pass, which names a registry and limits.")
_SINCE = flags.DEFINE_string("since", "7d", "From when on: 30m, 12h, 7d, 4w ago, a date (2026-11-27), or all.")
_OUTPUT = flags.DEFINE_string("output", None, "Page to write, FILE.html; drift.html in the log's folder if not given.")
_RESULT = flags.DEFINE_string("result", None, "JSON file to write at the end, whatever it is: outcome and reasons.")

_UNITS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}  # seconds


def start_of(since: str, now: float) -> float | None:
    """Returns the Unix time that --since means, None for all times.

    Raises:
      UsageError: it means none.
    """
    if since == "all":
        return None
    if (found := re.fullmatch(r"(\d{1,6})([mhdw])", since)) and int(found[1]):
        return now - int(found[1]) * _UNITS[found[2]]
    try:
        return datetime.datetime.combine(
            datetime.date.fromisoformat(since), datetime.time(), tzinfo=datetime.UTC
        ).timestamp()
    except ValueError as error:
        raise UsageError(f"--since={since}: give 30m, 12h, 7d or 4w, a date (2026-11-27), or all") from error


def find_export(model: str | None, config: RetrainConfig | None) -> str:
    """Returns the folder of the model that is meant.

    Raises:
      UsageError: there is none.
      DataError: a registry's pointer leads nowhere.
    """
    if model is None and config is None:
        raise UsageError("which model is missing: --model=MODELS/champion, or --config=FILE.yaml that names a registry")
    path = (model or storage.join(config.models if config else "", CHAMPION)).rstrip("/")
    root, name = os.path.split(path)
    if name != CHAMPION:
        if not storage.exists(path):
            raise UsageError(f"--model={path}: no such folder.{kinds.nearest_sibling(path)}")
        return path
    champion = registry.champion(root)
    if champion is None:
        raise UsageError(f"{path}: the registry has no champion yet; name a model, for instance {root}/1")
    return champion.path


def reference_of(export: str) -> Reference:
    """Reads the reference of a model; UsageError where it has none, DataError where it is damaged."""
    reference = read_reference(export)
    if reference is None:
        if not storage.exists(storage.join(export, registry.LABELS_FILE)):
            raise UsageError(f"{export}: no exported model there; {kinds.no_model(export)}")
        raise UsageError(
            f"{storage.join(export, REFERENCE_FILE)}: no such file; an earlier version made this export, or its "
            "dataset had neither validation nor test images: python -m trainer.export --run=RUN makes one anew"
        )
    return reference


def answers_of(log: str, export: str, since: float | None, reference: Reference) -> Answers:
    """Reads what a model answered. UsageError where the log holds answers of others only."""
    name = served_name(export)
    answers = read_answers(log, model=name, since=since)
    if not len(answers.seconds) and answers.others:
        others = ", ".join(f"{count:,} of {other}" for other, count in sorted(answers.others.items()))
        raise UsageError(
            f"{log}: no answers of {name} ({export}), but {others}; give the --model that is served, or serve this one"
        )
    if len(answers.seconds) and answers.labels != tuple(reference.labels):
        raise UsageError(f"{log}: the answers of {name} have other labels than {storage.join(export, REFERENCE_FILE)}")
    return answers


def result_of(checks: list[DataCheck], model: str) -> dict[str, Any]:
    """Returns what the JSON says of checks."""
    outcome = worst(checks)
    return {
        "outcome": outcome,
        "exit_code": int(ExitCode.DATA if outcome == Outcome.HOLD else ExitCode.DONE),
        "reasons": [f"{check.name}: {check.text}" for check in checks if check.outcome != Outcome.OK],
        "model": model,
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def perform(log: str, output: str, since: float | None) -> dict[str, Any]:
    """Compares, prints and writes the page; returns what the result file is to say."""
    config = load_config(_CONFIG.value) if _CONFIG.value else None
    export = find_export(_MODEL.value, config)
    reference = reference_of(export)
    answers = answers_of(log, export, since, reference)
    check_file(output, flag="output")
    checks = compare(reference, answers, config.data_gate if config else DataGateConfig())
    at = different(answers)
    sure = confidence(reference, answers.probabilities[at]) if len(at) else None
    result = result_of(checks, served_name(export))
    write_drift(output, checks, reference=reference, answers=answers, at=at, log=log, model=export, result=result)
    print("\n".join([*lines(checks, sure), f"report: {output}"]))
    return result


def main(arguments: list[str]) -> int:
    """Compares what the flags name."""
    del arguments
    if not _LOG.value:
        raise UsageError("--log=DIR is missing: the folder in which a server logs its answers")
    output = _OUTPUT.value or storage.join(_LOG.value, "drift.html")
    if not output.endswith(".html"):
        raise UsageError(f"--output={output}: give the name of a page, FILE.html; FILE.json goes beside it")
    if _RESULT.value:
        check_file(_RESULT.value, flag="result")
    try:
        result = perform(_LOG.value, output, start_of(_SINCE.value, time.time()))
    except CommandError as error:
        _tell({"outcome": "failed", "exit_code": int(error.exit_code), "reasons": [first_line(error)]})
        raise
    except Exception as error:
        _tell({"outcome": "failed", "exit_code": int(ExitCode.INTERNAL), "reasons": [first_line(error)]})
        raise
    _tell(result)
    if result["outcome"] == Outcome.HOLD:
        raise DataError(f"{'; '.join(result['reasons'])}. {output} shows it")
    print_next("retrain when there are new photos:", "python -m retrain.main", _CONFIG.value or "retrain.yaml")
    return ExitCode.DONE


def _tell(result: dict[str, Any]) -> None:
    if _RESULT.value:
        storage.write_atomically(_RESULT.value, json.dumps(result, indent=2, ensure_ascii=False) + "\n", shared=True)


if __name__ == "__main__":
    run_command(main, argument="log")
