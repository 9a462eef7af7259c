"""Runs one retraining pass, for cron, a systemd timer or Airflow: build → judge the data → train → score → promote.

    python -m retrain.main --config=retrain.yaml

    17 3 * * *  cd /srv/photos && .venv/bin/python -m retrain.main --config=retrain.yaml >> retrain.log 2>&1

Exit codes: 0 promoted · 99 nothing has changed since the last pass, or the challenger was not promoted · 75 another
pass is running, or this one was stopped: run again · 64 the configuration is wrong · 65 the data are, or the data gate
holds them: nothing is trained, the champion stays (`data_gate.accept` lets them through).

A pass may be killed at any moment: run again, it ends in the same place. Each command that it calls is idempotent, and
what it has done itself is found again: scores in the run, a published model by its pass id.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import pathlib
from typing import Any

from absl import flags

from pipeline.command import DataError, ExitCode, UsageError, run_command
from pipeline.format.manifest import TEST, DatasetVersion, Manifest, open_dataset
from pipeline.format.rows import known_images
from retrain import gate, registry, steps
from retrain.config import RetrainConfig, load_config
from retrain.data.gate import DataCheck, Outcome, worst
from retrain.data.page import PAGE, RESULT, write_data_gate
from retrain.data.step import judge_data
from retrain.lock import exclusive

_CONFIG = flags.DEFINE_string("config", None, "The pass's configuration, a YAML file; examples/retrain.yaml shows one.")

LOCK_FILE = ".lock"
EXPORT_DIR = "export"
HELD = "held"
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
    shape = [config.recipe, config.seed, dict(config.train), dict(config.settings), *_own_files(config)]
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


def _unchanged(key: str, history: list[dict[str, Any]], champion: registry.Model | None) -> bool:
    """Says whether the last decision was about these very inputs.

    A champion moved by hand (a roll-back) is no change: the next pass must not undo it. A champion removed by hand is.
    """
    if not history or history[-1]["key"] != key:
        return False
    return champion is not None or history[-1]["champion_after"] is None


def _challenge(
    config: RetrainConfig,
    run: pathlib.Path,
    champion: registry.Model | None,
    truth: dict[str, str],
    *,
    commands: steps.Commands,
    lock: int,
) -> gate.Verdict:
    """Trains the challenger and judges it; `truth`: id → label of the dataset's images."""
    steps.train(config, run, commands=commands, lock=lock)
    challenger = registry.Model(0, run / EXPORT_DIR)
    # The export is scored, not the run's own result: what is published is what was judged.
    answers = steps.score(challenger.path, run / "gate-challenger.npz", config, commands=commands, lock=lock)

    def rival(name: str, model: registry.Model) -> gate.Rival:
        output = run / f"gate-model-{model.number}.npz"
        steps.score(model.path, output, config, commands=commands, lock=lock)
        of_model = gate.read_answers(output, truth)
        return gate.Rival(name=name, answers=of_model, labels=model.labels(), trained_on=model.trained_on())

    anchor = registry.numbered(config.models, config.gate.anchor) if config.gate.anchor and champion else None
    return gate.judge(
        gate.read_answers(answers, truth),
        challenger.labels(),
        rival("the champion", champion) if champion else None,
        anchor=rival(f"the anchor, model {anchor.number},", anchor) if anchor and anchor != champion else None,
        removed_labels=config.data_gate.removed_labels,
        config=config.gate,
    )


def run_pass(config: RetrainConfig, *, commands: steps.Commands, lock: int) -> ExitCode:
    """Runs one pass, under the lock whose descriptor is `lock`.

    Raises:
      DataError: the data gate holds the dataset.
    """
    registry.clean(config.models)
    steps.build(config, commands=commands, lock=lock)
    data = open_dataset(config.data)
    name = run_id(config, data)
    key = _digest([name, dataclasses.asdict(config.gate), dataclasses.asdict(config.data_gate), config.check])
    history = registry.decisions(config.models)
    champion = registry.champion(config.models)
    if _unchanged(key, history, champion):
        return _again(history[-1])
    pass_id = f"{len(history)}-{key}"
    model = registry.find(config.models, pass_id)  # published by this pass before it was killed
    if model is None:
        run = config.runs / name
        record: dict[str, Any] = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "run": str(run),
            "dataset": str(data.path),
            "champion_before": champion.number if champion else None,
            "key": key,
            "pass_id": pass_id,
        }
        _pass_data_gate(config, data, champion, record, commands=commands, lock=lock)
        known = known_images(data)
        truth = dict(zip(known.ids, known.labels, strict=True))
        verdict = _challenge(config, run, champion, truth, commands=commands, lock=lock)
        record |= {
            "decision": verdict.decision,
            "reasons": verdict.reasons,
            "figures": verdict.figures,
            "gate": dataclasses.asdict(config.gate),
        }
        if not verdict.promote:
            registry.append_decision(config.models, record | {"champion_after": record["champion_before"]})
            print(f"{verdict.decision}: {'; '.join(verdict.reasons)}")
            return ExitCode.SKIPPED
        exported = {child.name: child for child in sorted((run / EXPORT_DIR).iterdir())}
        _note_training_images(data, run / registry.TRAINED_ON_FILE)
        documents = {file: run / file for file in _DOCUMENTS if (run / file).exists()}
        documents |= {file: data_folder(run) / file for file in (RESULT, PAGE)}
        model = registry.publish(config.models, documents | exported, record)

    record = model.promotion()
    registry.set_champion(config.models, model)
    registry.append_decision(config.models, record | {"champion_after": model.number})
    print(f"promoted to {model.path}: {'; '.join(record['reasons'])}")
    return ExitCode.DONE


def _again(last: dict[str, Any]) -> ExitCode:
    """Ends a pass whose inputs were decided about before."""
    told = f"nothing changed since {last['time']} ({last['decision']}: {last['reasons'][-1]})"
    if last["decision"] == HELD:
        raise DataError(told)
    print(told)
    return ExitCode.SKIPPED


def data_folder(run: pathlib.Path) -> pathlib.Path:
    """Names the folder beside a run for what was found of its dataset; the trainer wants the run for itself."""
    return run.with_name(f"{run.name}.data")


def _pass_data_gate(
    config: RetrainConfig,
    data: DatasetVersion,
    champion: registry.Model | None,
    record: dict[str, Any],
    *,
    commands: steps.Commands,
    lock: int,
) -> None:
    """Judges the dataset; DataError where it is held, which is noted like any decision."""
    content = content_id(data.manifest)
    folder = data_folder(pathlib.Path(record["run"]))
    checks, reference = judge_data(config, data, champion, folder, commands=commands, lock=lock)
    accepted = content in config.data_gate.accept
    write_data_gate(folder, checks, content=content, accepted=accepted, data=data, reference=reference)
    record["data"] = {check.name: check.outcome for check in checks}
    for check in checks:
        if check.outcome is not Outcome.OK:
            print(f"data gate, {check.outcome}: {_told(check)}")
    if accepted or worst(checks) is not Outcome.HOLD:
        return
    reasons = [_told(check) for check in checks if check.outcome is Outcome.HOLD]
    decided = {"decision": HELD, "reasons": reasons, "champion_after": record["champion_before"]}
    registry.append_decision(config.models, record | decided)
    raise DataError(
        f"held: {'; '.join(reasons)}. Nothing is trained, the champion stays; see {folder / PAGE}. If it is meant: "
        f"data_gate: {{accept: [{content}]}} in the configuration"
    )


def _told(check: DataCheck) -> str:
    return f"{check.name}: {check.text}"


def main(arguments: list[str]) -> ExitCode:
    """Runs one pass under the lock of the registry."""
    if not _CONFIG.value:
        raise UsageError("--config=FILE.yaml is missing; examples/retrain.yaml shows one")
    config = load_config(_CONFIG.value)
    with steps.stop_on_sigterm(), exclusive(config.models / LOCK_FILE) as descriptor:
        return run_pass(config, commands=steps.Commands(), lock=descriptor)


if __name__ == "__main__":
    run_command(main)
