"""Runs one pass: builds, judges the data, trains, judges the model, publishes.

A pass may be killed at any moment: run again, it ends in the same place. Each command that it calls is idempotent, and
what it has done itself is found again: scores in the run, a published model by its pass id.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.command import ExitCode
from pipeline.format.manifest import TEST, DatasetVersion, Manifest, open_dataset
from pipeline.format.rows import known_images
from pipeline.slices import parts_of
from retrain import curate, gate, registry, steps
from retrain.config import RetrainConfig
from retrain.data.gate import DataCheck, worst
from retrain.data.gate import Outcome as DataOutcome
from retrain.data.page import PAGE, RESULT, folder_beside, write_data_gate
from retrain.data.step import CHECK, judge_data
from retrain.index import COMPARISON
from retrain.outcome import Outcome, PassResult

EXPORT_DIR = "export"
STEPS = ("build", "check", "train", "decide")
HELD = "held"
_WAITING = {"decision": "waiting for approval"}
_REFUSED = {
    gate.Decision.NOT_PROMOTED: Outcome.NOT_PROMOTED,
    gate.Decision.INCONCLUSIVE: Outcome.INCONCLUSIVE,
}
# Beside the exported model, where the run has them: what a reader of MODELS/<n>/ asks first.
_DOCUMENTS = ("config.json", "model_card.md", "provenance.json", "report.html", "result.json", registry.TRAINED_ON_FILE)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def content_id(manifest: Manifest) -> str:
    """Names what a dataset version holds: a rebuild that gives the same shards and labels is the same content."""
    shards = {split: [shard.sha256 for shard in manifest.shards(split)] for split in manifest.splits}
    return _digest({"labels": manifest.labels, "shards": shards})


def run_id(config: RetrainConfig, data: DatasetVersion) -> str:
    """Names a training run: the dataset's version, for people, and everything that shapes the trained model."""
    # By its content, not its place: a tree that was moved goes on.
    recipe = os.path.basename(config.recipe) if config.recipe.endswith((".py", ".json")) else config.recipe
    shape = [recipe, config.seed, dict(config.train), dict(config.settings), *_own_files(config)]
    return f"{data.manifest.version}-{_digest([content_id(data.manifest), shape])}"


def _own_files(config: RetrainConfig) -> list[str]:
    """Digests the files of code that the configuration names, `FILE.py` and `FILE.py:function`."""
    values = map(str, (config.recipe, *config.train.values(), *config.settings.values()))
    named = (value.partition(":")[0] for value in values if value.partition(":")[0].endswith(".py"))
    files = (pathlib.Path(name).expanduser() for name in named)
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]


def _note_training_images(data: DatasetVersion, file: pathlib.Path) -> None:
    """Writes the ids of all images that a model of this dataset was trained or selected on, one a line."""
    splits = [split for split in data.manifest.splits if split != TEST]
    ids = sorted(record.id for split in splits for record in data.read(split))
    file.write_text("".join(f"{key}\n" for key in ids), encoding="utf-8")


def _unchanged(key: str, last: Mapping[str, Any], champion: registry.Model | None) -> bool:
    """Says whether the last pass decided about these very inputs.

    A champion moved by hand (a roll-back) is no change: the next pass must not undo it. A champion removed by hand is.
    """
    if last["key"] != key:
        return False
    return champion is not None or last["champion_after"] is None


def _challenge(
    config: RetrainConfig,
    data: DatasetVersion,
    champion: registry.Model | None,
    record: dict[str, Any],
    *,
    commands: steps.Commands,
    lock: int,
) -> gate.Verdict:
    """Judges the challenger, and notes the judgement in the record."""
    run = pathlib.Path(record["run"])
    known = known_images(data)
    truth = dict(zip(known.ids, known.labels, strict=True))
    of_test = np.array([split == TEST for split in known.splits])
    ids = np.array(known.ids)[of_test]
    parts = parts_of({name: values[of_test] for name, values in known.facts.items()})
    challenger = registry.Model(0, run / EXPORT_DIR)
    # The export is scored, not the run's own result: what is published is what was judged.
    answers = steps.score(challenger.path, run / "gate-challenger.npz", config, commands=commands, lock=lock)

    def rival(name: str, model: registry.Model) -> gate.Rival:
        output = scores_of(run, model)
        steps.score(model.path, output, config, commands=commands, lock=lock)
        of_model = gate.read_answers(output, truth)
        return gate.Rival(name=name, answers=of_model, labels=model.labels(), trained_on=model.trained_on())

    of_champion = of_anchor = None
    if champion:
        of_champion = rival("the champion", champion)
        page = folder_beside(run) / COMPARISON
        steps.compare(scores_of(run, champion), answers, page, config, commands=commands, lock=lock)
    if champion and config.gate.anchor not in (None, champion.number):
        anchor = registry.numbered(config.models, config.gate.anchor)
        of_anchor = rival(f"the anchor, model {anchor.number},", anchor)
    verdict = gate.judge(
        gate.read_answers(answers, truth),
        challenger.labels(),
        of_champion,
        anchor=of_anchor,
        removed_labels=config.data_gate.removed_labels,
        parts={name: frozenset(ids[inside].tolist()) for name, inside in parts.items()},
        config=config.gate,
    )
    record |= {
        "decision": verdict.decision,
        "reasons": verdict.reasons,
        "figures": verdict.figures,
        "gate": dataclasses.asdict(config.gate),
    }
    return verdict


def scores_of(run: pathlib.Path, model: registry.Model) -> pathlib.Path:
    """Names the file of what an earlier model answers to the test images of a run's dataset."""
    return run / f"gate-model-{model.number}.npz"


def run_pass(config: RetrainConfig, *, until: str = STEPS[-1], commands: steps.Commands, lock: int) -> PassResult:
    """Runs one pass.

    Args:
      config: of the pass.
      until: the last of `STEPS` that is taken; a later pass goes on from there.
      commands: behind the steps.
      lock: descriptor of the lock of the registry.

    Raises:
      CommandError: a step has failed, or the champion is damaged.
    """
    registry.clean(config.models)
    steps.build(config, commands=commands, lock=lock)
    data = open_dataset(config.data)
    name = run_id(config, data)
    key = _digest([name, dataclasses.asdict(config.gate), dataclasses.asdict(config.data_gate), config.check])
    passes = [record for record in registry.decisions(config.models) if "pass_id" in record]  # not those made by hand
    last = passes[-1] if passes else None
    champion = registry.champion(config.models)
    if champion:
        registry.require_whole(champion)
    if last and _unchanged(key, last, champion):
        return _again(last, champion)
    if until == "build":
        return _unfinished(until, data, champion)
    pass_id = f"{len(passes)}-{key}"
    model = registry.find(config.models, pass_id)  # published by this pass before it was killed
    if model is None:
        record: dict[str, Any] = {
            "time": curate.now(),
            "who": curate.who(),
            "name": data.manifest.name,
            "run": str(config.runs / name),
            "dataset": str(data.path),
            "champion_before": champion.number if champion else None,
            "key": key,
            "pass_id": pass_id,
        }
        if ended := _make(config, data, champion, record, until=until, commands=commands, lock=lock):
            return ended
        model = _publish(config, data, record)
    return _enthrone(config, model)


def _make(
    config: RetrainConfig,
    data: DatasetVersion,
    champion: registry.Model | None,
    record: dict[str, Any],
    *,
    until: str,
    commands: steps.Commands,
    lock: int,
) -> PassResult | None:
    """Makes a challenger and notes its judgement in the record; returns how the pass ends if it is not promoted."""
    if held := _held(config, data, champion, record, commands=commands, lock=lock):
        return held
    if until == "check":
        return _unfinished(until, data, champion)
    steps.train(config, pathlib.Path(record["run"]), commands=commands, lock=lock)
    if until == "train":
        return _unfinished(until, data, champion)
    verdict = _challenge(config, data, champion, record, commands=commands, lock=lock)
    if verdict.promote:
        return None
    registry.append_decision(config.models, record | {"champion_after": record["champion_before"]})
    told = f"{verdict.decision}: {'; '.join(verdict.reasons)}"
    return _result(_REFUSED[verdict.decision], ExitCode.SKIPPED, record, told)


def _enthrone(config: RetrainConfig, model: registry.Model) -> PassResult:
    """Makes a published model the champion, or lets it wait for a person."""
    record = model.promotion()
    if config.approval == "manual":
        registry.append_decision(config.models, record | _WAITING | {"champion_after": record["champion_before"]})
        told = (
            f"{model.path} waits for approval: python -m retrain.models promote {model.number} "
            f"--models={config.models} --why=…; {'; '.join(record['reasons'])}"
        )
        return _result(Outcome.WAITING, ExitCode.SKIPPED, record, told)
    registry.set_champion(config.models, model)
    registry.append_decision(config.models, record | {"champion_after": model.number})
    told = f"promoted to {model.path}: {'; '.join(record['reasons'])}"
    return _result(Outcome.PROMOTED, ExitCode.DONE, record, told, champion_after=model.number)


def _publish(config: RetrainConfig, data: DatasetVersion, record: dict[str, Any]) -> registry.Model:
    """Publishes the challenger with all that a reader of MODELS/<n>/ asks for."""
    run = pathlib.Path(record["run"])
    exported = {child.name: child for child in sorted((run / EXPORT_DIR).iterdir())}
    _note_training_images(data, run / registry.TRAINED_ON_FILE)
    documents = {file: run / file for file in _DOCUMENTS if (run / file).exists()}
    pages = (folder_beside(run) / file for file in (RESULT, PAGE, COMPARISON, CHECK))
    documents |= {file.name: file for file in pages if file.exists()}
    return registry.publish(config.models, documents | exported, record)


def _result(
    outcome: Outcome, code: ExitCode, record: Mapping[str, Any], message: str, **versions: int | None
) -> PassResult:
    before = record["champion_before"]
    noted = {"dataset": record["dataset"], "model": record.get("model"), "champion_before": before}
    return PassResult(
        outcome=outcome,
        exit_code=code,
        reasons=record["reasons"],
        figures=record.get("figures", {}) | {"data": record.get("data", {})},
        versions={**noted, "champion_after": before, **versions},
        message=message,
    )


def _unfinished(step: str, data: DatasetVersion, champion: registry.Model | None) -> PassResult:
    """Ends a pass after a step, as asked."""
    told = f"stopped after {step}, as --until asks"
    record = {"reasons": [told], "champion_before": champion and champion.number, "dataset": str(data.path)}
    return _result(Outcome.UNFINISHED, ExitCode.DONE, record, told)


def _again(last: Mapping[str, Any], champion: registry.Model | None) -> PassResult:
    """Ends a pass whose inputs were decided about before."""
    told = f"nothing changed since {last['time']} ({last['decision']}: {last['reasons'][-1]})"
    record = {"reasons": [told], "champion_before": champion and champion.number, "dataset": last["dataset"]}
    if last["decision"] == HELD:
        return _result(Outcome.HELD, ExitCode.DATA, record, told)
    return _result(Outcome.UNCHANGED, ExitCode.SKIPPED, record, told)


def _held(
    config: RetrainConfig,
    data: DatasetVersion,
    champion: registry.Model | None,
    record: dict[str, Any],
    *,
    commands: steps.Commands,
    lock: int,
) -> PassResult | None:
    """Judges the dataset; where it is held, notes that like any decision and returns how the pass ends."""
    content = content_id(data.manifest)
    folder = folder_beside(pathlib.Path(record["run"]))
    checks, reference = judge_data(config, data, champion, folder, commands=commands, lock=lock)
    accepted = content in config.data_gate.accept
    page = f"{CHECK}/report.html" if (folder / CHECK / "report.html").exists() else None
    write_data_gate(folder, checks, content=content, accepted=accepted, data=data, reference=reference, check=page)
    record["data"] = {check.name: check.outcome for check in checks}
    for check in checks:
        if check.outcome is not DataOutcome.OK:
            print(f"data gate, {check.outcome}: {_told(check)}")
    if accepted or worst(checks) is not DataOutcome.HOLD:
        return None
    reasons = [_told(check) for check in checks if check.outcome is DataOutcome.HOLD]
    decided = record | {"decision": HELD, "reasons": reasons, "champion_after": record["champion_before"]}
    registry.append_decision(config.models, decided)
    told = (
        f"held: {'; '.join(reasons)}. Nothing is trained, the champion stays; see {folder / PAGE}. If it is meant: "
        f"data_gate: {{accept: [{content}]}} in the configuration"
    )
    return _result(Outcome.HELD, ExitCode.DATA, decided, told)


def _told(check: DataCheck) -> str:
    return f"{check.name}: {check.text}"
