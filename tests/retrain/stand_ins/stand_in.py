"""Stands in for the builder, the trainer and the evaluator: the same flags, files and exit codes, in milliseconds.

A pass that is killed at hundreds of moments cannot wait for TensorFlow each time. `input/spec.json` says what the world
is like: "labels", "images" (id → label), "right" (the ids that a model trained now gets right), "fail" (exit code
of the build, where it is to fail).
"""

import hashlib
import json
import os
import pathlib
import sys
import time

from pipeline.format.manifest import Manifest, Shard, open_dataset

STEP_SECONDS = 0.03


def replace(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


def build(flags: dict[str, str]) -> int:
    spec = json.loads(pathlib.Path(flags["input"], "spec.json").read_text())
    if "fail" in spec:
        return int(spec["fail"])
    root = pathlib.Path(flags["output"])
    digest = hashlib.sha256(json.dumps([spec, flags["seed"], flags["split_by"]]).encode()).hexdigest()
    (root / "versions").mkdir(parents=True, exist_ok=True)
    for folder in (root / "versions").iterdir():
        if json.loads((folder / "manifest.json").read_text())["source_fingerprint"] == digest:
            replace(root / "CURRENT", folder.name)
            print("nothing to do")
            return 0
    version = f"1.0.{len(list((root / 'versions').iterdir()))}"
    staging = root / f".staging-{os.getpid()}"
    staging.mkdir()
    (staging / "spec.json").write_text(json.dumps(spec))
    sha256 = hashlib.sha256((staging / "spec.json").read_bytes()).hexdigest()
    shard = Shard(name="spec.json", examples=len(spec["images"]), bytes=1, sha256=sha256)
    manifest = Manifest(
        name="stand-in",
        version=version,
        labels=tuple(spec["labels"]),
        splits={"test": (shard,)},
        source_fingerprint=digest,
        build={},
        code_version="0",
        max_height=1,
        max_width=1,
    )
    (staging / "manifest.json").write_text(manifest.to_json())
    time.sleep(STEP_SECONDS)
    staging.rename(root / "versions" / version)
    replace(root / "CURRENT", version)
    return 0


def train(flags: dict[str, str]) -> int:
    run = pathlib.Path(flags["workdir"])
    run.mkdir(parents=True, exist_ok=True)
    with (run / "starts.log").open("a") as log:
        log.write(f"{os.getpid()}\n")
    if (run / "export").exists():
        return 0
    time.sleep(float(os.environ.get("TRAIN_SECONDS", STEP_SECONDS)))
    data = open_dataset(flags["data"])
    spec = json.loads((pathlib.Path(data.path) / "spec.json").read_text())
    staging = run / f".export-{os.getpid()}"
    (staging / "saved_model").mkdir(parents=True)
    (staging / "saved_model" / "saved_model.pb").write_text("graph")
    (staging / "right.json").write_text(json.dumps(spec["right"]))
    (staging / "labels.txt").write_text("".join(f"{label}\n" for label in spec["labels"]))
    (run / "model_card.md").write_text("# A model\n")
    staging.rename(run / "export")
    return 0


def evaluate(flags: dict[str, str]) -> int:
    model = pathlib.Path(flags["model"])
    right = set(json.loads((model / "right.json").read_text()))
    labels = (model / "labels.txt").read_text().splitlines()
    spec = json.loads((pathlib.Path(open_dataset(flags["data"]).path) / "spec.json").read_text())
    with open(flags["output"], "w") as file:
        for image, label in spec["images"].items():
            wrong = next(name for name in [*labels, "?"] if name != label)
            predicted = label if image in right and label in labels else wrong
            file.write(json.dumps({"id": image, "label": label, "predicted": predicted, "probability": 1.0}) + "\n")
            file.flush()
        time.sleep(STEP_SECONDS)
    return 0


def main() -> int:
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    role = build if "source" in flags else train if "workdir" in flags else evaluate
    return role(flags)


if __name__ == "__main__":
    sys.exit(main())
