"""Stands in for the builder, the check and the trainer: the same flags, files and exit codes, without TensorFlow.

A quickstart that is killed at dozens of moments cannot wait for TensorFlow each time. `$QUICK_SPEC`, a JSON file, says
what the world is like: "head" and "tuned" (shares of the images that they get right), "epoch_seconds", "red" (whether
the check says stop), "export_seconds" (of a run that was stopped), "seconds" (of each other step).
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import time

import numpy as np

from pipeline.command import ExitCode
from pipeline.format import storage
from pipeline.format.manifest import TEST, TRAIN, VALIDATION, open_dataset
from pipeline.format.rows import checks_folder, known_images
from pipeline.predictions import Predictions, predictions_file
from tests import datasets
from trainer.request import FINISHED

SPEC = json.loads(pathlib.Path(os.environ["QUICK_SPEC"]).read_text())
EPOCHS = 15  # as the recipe photos has for so few images
SHARES = {TRAIN: 0.4, VALIDATION: 0.3, TEST: 0.3}


def replace(path: str, text: str | bytes) -> None:
    storage.make_folder(os.path.dirname(path))
    storage.write_atomically(path, text)


def wait() -> None:
    time.sleep(SPEC.get("seconds", 0.02))


def build(flags: dict[str, str]) -> int:
    photos, root = pathlib.Path(flags["input"]), pathlib.Path(flags["output"])
    found = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    key = hashlib.sha256("\n".join(found).encode()).hexdigest()
    versions = sorted((root / "versions").iterdir()) if (root / "versions").is_dir() else []
    if versions and (versions[-1] / "key").read_text() == key:
        return 0
    wait()
    labels = sorted({name.split("/")[0] for name in found})
    records = [
        datasets.record(datasets.jpeg(np.zeros((8, 8, 3), np.uint8)), labels.index(name.split("/")[0]), name=name)
        for name in found
    ]
    rng = np.random.default_rng(0)
    draws = {record.id: draw for record, draw in zip(records, rng.random(len(records)), strict=True)}
    edges = np.cumsum([0, *SHARES.values()])
    splits = {
        split: [record for record in records if low <= draws[record.id] < high]
        for split, low, high in zip(SHARES, edges, edges[1:], strict=False)
    }
    version, staging = f"1.0.{len(versions)}", root / f".staging-{os.getpid()}"
    written = pathlib.Path(datasets.write_dataset(staging, splits, labels, version=version).path)
    (written / "key").write_text(key)
    (written / "statistics.json").write_text(json.dumps({"rejects": {}}))
    (root / "versions").mkdir(exist_ok=True)
    written.rename(root / "versions" / version)
    shutil.rmtree(staging)
    replace(str(root / "CURRENT"), version + "\n")
    return 0


def check(flags: dict[str, str]) -> int:
    wait()
    level, verdict = ("red", "Not ready to train.") if SPEC.get("red") else ("green", "Ready to train.")
    finding = {"level": level, "subject": "ceiling", "text": "so it is", "short": "that"}
    folder = checks_folder(open_dataset(flags["data"]))
    replace(storage.join(folder, "check.json"), json.dumps({"verdict": verdict, "findings": [finding]}))
    return 0


def train(flags: dict[str, str]) -> int:
    run = flags["run"]
    if storage.exists(storage.join(run, FINISHED)):
        return 0
    wait()
    setting = re.search(r"phases\.1\.duration=(\d+)ep", " ".join(sys.argv))
    epochs = int(setting[1]) if setting else EPOCHS
    replace(storage.join(run, "starts.log"), f"{os.getpid()}\n")
    storage.make_folder(storage.join(run, "checkpoints"))
    rows = [{"phase": "head", "split": "train"}]
    file = storage.join(run, "metrics.jsonl")
    if storage.exists(file):
        rows = [json.loads(line) for line in storage.read_text(file).splitlines()]
    for _ in range(len(rows) - 1, epochs):
        time.sleep(SPEC.get("epoch_seconds", 0.01))
        rows.append({"phase": "upper", "split": "train"})
        replace(file, "".join(json.dumps(row) + "\n" for row in rows))
    replace(file, "".join(json.dumps(row) + "\n" for row in rows))
    data = open_dataset(flags["data"])
    share = SPEC["tuned" if epochs else "head"]
    replace(storage.join(run, "result.json"), "{}")
    export(storage.join(run, "export"), data.manifest.labels, share)
    for split in (VALIDATION, TEST):
        replace(predictions_file(run, split), answers(data, split, share, data.manifest.labels).to_bytes())
    replace(storage.join(run, FINISHED), "{}")
    return 0


def export(folder: str, labels: tuple[str, ...], share: float) -> None:
    wait()
    replace(storage.join(folder, "labels.txt"), "".join(f"{label}\n" for label in labels))
    replace(storage.join(folder, "share.json"), json.dumps(share))
    replace(storage.join(folder, "SHA256SUMS"), "")


def export_unfinished(flags: dict[str, str]) -> int:
    version = pathlib.Path(flags["run"]).parent.name
    data = open_dataset(pathlib.Path(flags["run"]).parents[2] / "data" / "versions" / version)
    time.sleep(SPEC.get("export_seconds", 0))
    export(flags["output"], data.manifest.labels, SPEC["tuned"])
    return 0


def answers(data, split: str, share: float, names: tuple[str, ...]) -> Predictions:
    """Gets the first `share` of the images right, in the order of their ids."""
    known = known_images(data, split=split)
    order = np.argsort(np.array(known.ids))
    right = np.zeros(len(order), bool)
    right[order[: round(share * len(order))]] = True
    labels = np.array([names.index(label) if label in names else -1 for label in known.labels])
    told = np.where(right & (labels >= 0), labels, (labels + 1) % len(names))
    rows = np.where(np.arange(len(names)) == told[:, None], 0.9, 0.1 / (len(names) - 1))
    return Predictions(ids=known.ids, labels=labels, names=names, log_probabilities=np.log(rows).astype(np.float32))


def evaluate(flags: dict[str, str]) -> int:
    wait()
    names = tuple(storage.read_text(storage.join(flags["model"], "labels.txt")).splitlines())
    share = json.loads(storage.read_text(storage.join(flags["model"], "share.json")))
    replace(flags["output"], answers(open_dataset(flags["data"]), flags["split"], share, names).to_bytes())
    return 0


def compare(flags: dict[str, str]) -> int:
    replace(flags["output"], "<title>a comparison</title>")
    return 0


def main() -> int:
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:] if argument.startswith("--"))
    if SPEC.get("fail") and "input" in flags:
        print("error: --input=x: so it is", file=sys.stderr)
        return int(SPEC["fail"])
    if any(not argument.startswith("--") for argument in sys.argv[1:]):
        return compare(flags)
    roles = {"input": build, "unfinished": export_unfinished, "run": train, "model": evaluate, "data": check}
    return next(roles[flag] for flag in roles if flag in flags)(flags)


if __name__ == "__main__":
    sys.exit(main() or ExitCode.DONE)
