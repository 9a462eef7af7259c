"""Stands in for the builder, the trainer and the evaluator: the same flags, files and exit codes, in milliseconds.

A pass that is killed at hundreds of moments cannot wait for TensorFlow each time. `input/spec.json` says what the world
is like: "labels", "images" (id → label), "right" (the ids that a model trained now gets right), "fail" (exit code
of the build, where it is to fail, "times": how often), "arrivals" (what the check finds of images that were added),
"handover" (what is found when the exported model is asked), "splits" (id → split, test if not given), "right_of_seed".
"""

import hashlib
import json
import os
import pathlib
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.format import storage
from pipeline.format.manifest import Manifest, Shard, open_dataset
from pipeline.format.rows import RAW_PIXELS
from pipeline.predictions import Predictions

STEP_SECONDS = 0.03


def replace(path, text: str) -> None:
    storage.make_folder(os.path.dirname(path))
    storage.write_atomically(path, text)


def build(flags: dict[str, str]) -> int:
    spec = json.loads(pathlib.Path(flags["input"], "spec.json").read_text())
    tried = pathlib.Path(flags["input"], "tried")
    if "fail" in spec and ("times" not in spec or len(tried.read_text() if tried.exists() else "") < spec["times"]):
        with tried.open("a") as file:
            file.write("x")
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
    write_table(staging / "rows-test-00000-of-00001.parquet", spec)
    sha256 = hashlib.sha256((staging / "spec.json").read_bytes()).hexdigest()
    (staging / "none.tfrecord").touch()  # nobody looks at the pictures
    shards = {
        split: (Shard(name="none.tfrecord", examples=len(images_of(spec, split)), bytes=0, sha256=sha256),)
        for split in ("validation", "test")
        if images_of(spec, split)
    }
    manifest = Manifest(
        name="stand-in",
        version=version,
        labels=tuple(spec["labels"]),
        splits=shards,
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


def images_of(spec: dict, split: str) -> dict[str, str]:
    return {
        image: label for image, label in spec["images"].items() if spec.get("splits", {}).get(image, "test") == split
    }


def write_table(path: pathlib.Path, spec: dict) -> None:
    images, count = spec["images"], len(spec["images"])
    splits = [spec.get("splits", {}).get(image, "test") for image in images]
    columns = {
        "uri": list(images), "label": list(images.values()), "split": splits, "group": [b"x"] * count,
        "stamp": [f"{RAW_PIXELS}{image}" for image in images], "sha256": [b""] * count,
        "brightness": [0.5] * count, "sharpness": [0.5] * count, "height": [9] * count, "width": [9] * count,
        "bytes": [100] * count,
    }  # fmt: skip
    pq.write_table(pa.table(columns), path)


def check(flags: dict[str, str]) -> int:
    spec = json.loads((pathlib.Path(open_dataset(flags["data"]).path) / "spec.json").read_text())
    append(storage.join(flags["output"], "checks.log"), f"{' '.join(sys.argv[1:])}\n")
    replace(storage.join(flags["output"], "check.json"), json.dumps({"arrivals": spec.get("arrivals")}))
    return 0


def append(path: str, text: str) -> None:
    replace(path, (storage.read_text(path) if storage.exists(path) else "") + text)


def compare(flags: dict[str, str]) -> int:
    if not all(storage.exists(argument) for argument in sys.argv[1:] if argument.endswith(".npz")):
        return 64
    replace(flags["output"], "<title>a comparison</title>")
    return 0


def train(flags: dict[str, str]) -> int:
    run = flags["run"]
    append(storage.join(run, "starts.log"), f"{os.getpid()}\n")
    if storage.exists(storage.join(run, "export", "saved_model", "saved_model.pb")):
        return 0
    time.sleep(float(os.environ.get("TRAIN_SECONDS", STEP_SECONDS)))
    data = open_dataset(flags["data"])
    spec = json.loads((pathlib.Path(data.path) / "spec.json").read_text())
    right = spec.get("right_of_seed", {}).get(flags["seed"], spec["right"])
    loss = 1 - len(right) / len(spec["images"])
    files = {
        "result.json": json.dumps({"splits": {"validation": {"loss": loss}}}),
        "flags.json": json.dumps(sys.argv[1:]),
        "model_card.md": "# A model\n",
        "export/right.json": json.dumps(right),
        "export/handover.json": json.dumps(spec.get("handover", {})),
        **({} if spec.get("no_golden") else {"export/golden/golden.json": "[]"}),
        "export/labels.txt": "".join(f"{label}\n" for label in spec["labels"]),
        "export/saved_model/saved_model.pb": "graph",  # last: the export is whole
    }
    for name, text in files.items():
        replace(storage.join(run, name), text)
    return 0


def evaluate(flags: dict[str, str]) -> int:
    right = set(json.loads(storage.read_text(storage.join(flags["model"], "right.json"))))
    labels = storage.read_text(storage.join(flags["model"], "labels.txt")).splitlines()
    spec = json.loads((pathlib.Path(open_dataset(flags["data"]).path) / "spec.json").read_text())
    labels = [*labels, "?"]
    rows, images = [], images_of(spec, flags["split"])
    for image, label in images.items():
        wrong = next(name for name in labels if name != label)
        answer = labels.index(label if image in right and label in labels else wrong)
        rows.append(np.where(np.arange(len(labels)) == answer, 0.9, 0.1 / (len(labels) - 1)))
    known = [labels.index(label) if label in labels else -1 for label in images.values()]
    found = Predictions(
        ids=list(images), labels=np.array(known), names=labels, log_probabilities=np.log(np.array(rows))
    )
    time.sleep(STEP_SECONDS)
    storage.write_atomically(flags["output"], found.to_bytes())
    return 0


def verify(flags: dict[str, str]) -> int:
    """Finds what the spec of the model's dataset says: "handover"."""
    found = {"forms": [], **json.loads(storage.read_text(storage.join(sys.argv[-1], "handover.json")))}
    if "beside" in flags:
        found = {"milliseconds": [5.0, 5.0], "bytes": [10, 10]} | found
    replace(flags["output"], json.dumps(found))
    return 65 if any(form["problem"] for form in found["forms"]) else 0


def main() -> int:
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:] if argument.startswith("--"))
    positional = len([argument for argument in sys.argv[1:] if not argument.startswith("--")])
    if positional:
        return (verify if positional == 1 else compare)(flags)
    roles = {"source": build, "run": train, "model": evaluate, "seed": check}
    return next(roles[flag] for flag in roles if flag in flags)(flags)


if __name__ == "__main__":
    sys.exit(main())
