"""Runs one pass: builds, judges the data, trains, judges the model, publishes.

A pass may be killed at any moment: run again, it ends in the same place. Each command that it calls is idempotent, and
what it has done itself is found again: scores in the run, a published model by its pass id.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from pipeline.command import ExitCode, UsageError
from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion, open_dataset
from retrain import curate, gate, registry
from retrain.card import write_card
from retrain.challenge import EXPORT_DIR, HANDOVER_FILE, Challenge, starts_from
from retrain.config import RetrainConfig
from retrain.data.gate import DataCheck, worst
from retrain.data.gate import Outcome as DataOutcome
from retrain.data.page import PAGE, RESULT, write_data_gate
from retrain.data.step import CHECK, judge_data
from retrain.identity import content_id, digest, golden_files, shape_of
from retrain.index import COMPARISON
from retrain.ledger import append_decision
from retrain.outcome import Outcome, PassResult
from retrain.steps import Steps

STEPS = ("build", "check", "train", "decide")
HELD = "held"
_WAITING = {"decision": "waiting for approval"}
_REFUSED = {
    gate.Decision.NOT_PROMOTED: Outcome.NOT_PROMOTED,
    gate.Decision.INCONCLUSIVE: Outcome.INCONCLUSIVE,
}
# Beside the exported model, where the run has them: what a reader of MODELS/<n>/ asks first.
_DOCUMENTS = ("config.json", "provenance.json", "report.html", "result.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """Says which steps a pass takes.

    Attributes:
      first: that is taken: what comes before is taken as it is.
      until: the last one; a later pass goes on from there.
      forced: what this step and later ones have made before is thrown away; None: nothing is.
    """

    first: str = STEPS[0]
    until: str = STEPS[-1]
    forced: str | None = None

    def __post_init__(self) -> None:
        if STEPS.index(self.first) > STEPS.index(self.until):
            raise ValueError(f"the first step, {self.first}, comes after the last one, {self.until}")
        if self.forced and not self.takes(self.forced):
            raise ValueError(
                f"step {self.forced} is to be forced, and is not among those from {self.first} to {self.until}"
            )

    def takes(self, step: str) -> bool:
        """Says whether a step is among those."""
        return STEPS.index(self.first) <= STEPS.index(step) <= STEPS.index(self.until)

    def forces(self, step: str) -> bool:
        """Says whether what a step has made before is thrown away."""
        return self.forced is not None and STEPS.index(step) >= STEPS.index(self.forced)


def unchanged(key: str, last: Mapping[str, Any], champion: registry.Model | None) -> bool:
    """Says whether the last pass decided about these very inputs.

    A champion moved by hand (a roll-back) is no change: the next pass must not undo it. A champion removed by hand is.
    """
    if last["key"] != key:
        return False
    return champion is not None or last["champion_after"] is None


def run_pass(steps: Steps, wanted: Wanted) -> PassResult:
    """Runs one pass.

    Raises:
      CommandError: a step has failed, or the champion is damaged.
      UsageError: a step is to be left out that has never been taken.
    """
    config = steps.config
    registry.clean(config.models)
    if wanted.takes("build"):
        steps.build()
    data = open_dataset(config.data)
    inputs = inputs_of(config, data)
    key = digest(inputs)
    passes = registry.passes(config.models)
    last = passes[-1] if passes else None
    champion = registry.champion(config.models)
    if champion:
        registry.require_whole(champion)
    if last and not wanted.forced and unchanged(key, last, champion):
        return _again(last, champion)
    if wanted.until == "build":
        return _unfinished(wanted.until, data, champion)
    pass_id = f"{len(passes)}-{key}"
    model = registry.find(config.models, pass_id)  # published by this pass before it was killed
    if model is None:
        challenge = next_challenge(steps, data, champion)
        record: dict[str, Any] = {
            "time": curate.now(),
            "who": curate.who(),
            "name": data.manifest.name,
            "run": challenge.runs[0],
            "pages": challenge.pages,
            "dataset": str(data.path),
            "champion_before": champion.number if champion else None,
            "key": key,
            "inputs": inputs,
            "pass_id": pass_id,
        }
        if ended := _make(challenge, record, wanted):
            return ended
        model = _publish(challenge, record)
    return _enthrone(steps, model)


def inputs_of(config: RetrainConfig, data: DatasetVersion) -> dict[str, str]:
    """Names all that a pass decides by: the images, what shapes the model, and the limits of the gates."""
    gates = [dataclasses.asdict(config.gate), dataclasses.asdict(config.data_gate), config.check, golden_files(config)]
    training = [*shape_of(config), config.seeds, config.init, config.init_share]
    return {"data": content_id(data.manifest), "training": digest(training), "gates": digest(gates)}


def next_challenge(steps: Steps, data: DatasetVersion, champion: registry.Model | None) -> Challenge:
    """Returns what the next pass trains on this dataset."""
    config = steps.config
    start = None
    if config.init == "champion":
        trained = [record for record in registry.passes(config.models) if "started_from" in record]
        start = starts_from(champion, trained, cold_every=config.cold_every)
    return Challenge(steps=steps, data=data, champion=champion, start=start)


def _make(challenge: Challenge, record: dict[str, Any], wanted: Wanted) -> PassResult | None:
    """Makes a challenger and notes its judgement in the record; returns how the pass ends if it is not promoted."""
    data, champion, config = challenge.data, challenge.champion, challenge.steps.config
    _throw_away(challenge, wanted)
    if wanted.takes("check") and (held := _held(challenge, record)):
        return held
    if wanted.until == "check":
        return _unfinished(wanted.until, data, champion)
    record["started_from"] = challenge.start.number if challenge.start else None
    if wanted.takes("train"):
        challenge.train()
    elif missing := [run for run in challenge.runs if not storage.exists(storage.join(run, EXPORT_DIR))]:
        raise UsageError(
            f"--from={wanted.first} leaves training out, and {missing[0]} has never been trained to its end"
        )
    if wanted.until == "train":
        return _unfinished(wanted.until, data, champion)
    verdict = challenge.judge()
    record |= {
        "run": challenge.published,
        "decision": verdict.decision,
        "reasons": verdict.reasons,
        "figures": verdict.figures,
        "gate": dataclasses.asdict(config.gate),
    }
    if verdict.promote:
        return None
    _note(challenge.steps, record | {"champion_after": record["champion_before"]})
    told = f"{verdict.decision}: {'; '.join(verdict.reasons)}"
    return _result(_REFUSED[verdict.decision], ExitCode.SKIPPED, record, told)


def _note(steps: Steps, record: Mapping[str, Any]) -> None:
    steps.lock.check()
    append_decision(steps.config.models, record)


def _throw_away(challenge: Challenge, wanted: Wanted) -> None:
    """Removes what forced steps have made before."""
    for run in challenge.runs:
        if wanted.forces("check"):
            storage.delete(storage.join(challenge.pages, CHECK))
        if wanted.forces("train"):
            storage.delete(run)
        for name in _gate_files(run) if wanted.forces("decide") else ():
            storage.delete(storage.join(run, name))


def _gate_files(run: str) -> list[str]:
    """Names what judging a run has left in it."""
    try:
        return [entry.name for entry in storage.list_folder(run) if entry.name.startswith("gate-")]
    except FileNotFoundError:
        return []


def _enthrone(steps: Steps, model: registry.Model) -> PassResult:
    """Makes a published model the champion, or lets it wait for a person."""
    config = steps.config
    record = model.promotion()
    if config.approval == "manual":
        _note(steps, record | _WAITING | {"champion_after": record["champion_before"]})
        told = (
            f"{model.path} waits for approval: python -m retrain.models promote {model.number} "
            f"--models={config.models} --why=…; {'; '.join(record['reasons'])}"
        )
        return _result(Outcome.WAITING, ExitCode.SKIPPED, record, told)
    steps.lock.check()
    registry.set_champion(config.models, model)
    _note(steps, record | {"champion_after": model.number})
    told = f"promoted to {model.path}: {'; '.join(record['reasons'])}"
    return _result(Outcome.PROMOTED, ExitCode.DONE, record, told, champion_after=model.number)


def _publish(challenge: Challenge, record: dict[str, Any]) -> registry.Model:
    """Publishes the challenger with all that a reader of MODELS/<n>/ asks for."""
    run, models = challenge.published, challenge.steps.config.models
    seen = "".join(f"{key}\n" for key in challenge.seen())
    storage.write_atomically(storage.join(run, registry.TRAINED_ON_FILE), seen)
    export = storage.join(run, EXPORT_DIR)
    contents = {entry.name: storage.join(export, entry.name) for entry in storage.list_folder(export)}
    number = registry.next_number(models)
    contents |= write_card(run, name=record["name"], number=number, registry=models, verdict=record["reasons"][-1])
    files = [storage.join(run, name) for name in (*_DOCUMENTS, registry.TRAINED_ON_FILE)]
    files += [storage.join(challenge.pages, name) for name in (RESULT, PAGE, CHECK, COMPARISON)]
    files += [storage.join(run, name) for name in _gate_files(run) if name.startswith(HANDOVER_FILE)]
    contents |= {os.path.basename(file): file for file in files if storage.exists(file)}
    challenge.steps.lock.check()
    return registry.publish(models, contents, record, number=number)


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


def _held(challenge: Challenge, record: dict[str, Any]) -> PassResult | None:
    """Judges the dataset; where it is held, notes that like any decision and returns how the pass ends."""
    config, data = challenge.steps.config, challenge.data
    content = content_id(data.manifest)
    folder = challenge.pages
    checks, reference = judge_data(challenge.steps, data, challenge.known, challenge.champion, folder)
    accepted = content in config.data_gate.accept
    page = f"{CHECK}/report.html" if storage.exists(storage.join(folder, CHECK, "report.html")) else None
    write_data_gate(folder, checks, content=content, accepted=accepted, data=data, reference=reference, check=page)
    record["data"] = {check.name: check.outcome for check in checks}
    for check in checks:
        if check.outcome is not DataOutcome.OK:
            print(f"data gate, {check.outcome}: {_told(check)}")
    if accepted or worst(checks) is not DataOutcome.HOLD:
        return None
    reasons = [_told(check) for check in checks if check.outcome is DataOutcome.HOLD]
    decided = record | {"decision": HELD, "reasons": reasons, "champion_after": record["champion_before"]}
    _note(challenge.steps, decided)
    told = (
        f"held: {'; '.join(reasons)}. Nothing is trained, the champion stays; see {storage.join(folder, PAGE)}. If it "
        f"is meant: data_gate: {{accept: [{content}]}} in the configuration"
    )
    return _result(Outcome.HELD, ExitCode.DATA, decided, told)


def _told(check: DataCheck) -> str:
    return f"{check.name}: {check.text}"
