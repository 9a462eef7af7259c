"""Measures how often `retrain.drift` cries wolf, and how often it sees a wolf.

    python -m benchmarks.drift --photos=PHOTOS --other=OTHER --export=RUN/export --data=DATA --work=WORK

PHOTOS holds a folder a class; EXPORT is a model of some of them, trained on the train split of DATA, whose other photos
it has never seen. These are asked about as they are, as JPEGs of quality 10, blurred (radius 2) and dark (a third of
the light); and so are the images of OTHER, which are of other things. Then, again and again, `--reference` of the
unseen photos are drawn to be the reference, and of the others 50, 150 or 500 to be sent: as they are (every alarm is a
false one), 50 % more of one class (350 instead of 500, for want of photos), damaged in one of these ways, a fifth of
them of other things, or all.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags
from PIL import Image

from benchmarks.damages import damaged
from pipeline.command import UsageError, run_command
from pipeline.format.answer_log import Answers
from pipeline.format.manifest import open_dataset
from pipeline.format.reference import Reference, half
from pipeline.format.rows import FACTS
from pipeline.images.facts import ImageFacts, comparable_of
from pipeline.images.look import inspect
from pipeline.images.policy import PixelPolicy
from retrain.data.gate import Outcome
from retrain.drift.compare import compare
from retrain.drift.confidence import confidence
from retrain.limits import DataGateConfig
from trainer.serving.litert import FEATURES, PROBABILITIES
from trainer.serving.loading import find_model, load_model

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of class folders.")
_OTHER = flags.DEFINE_string("other", None, "Folder of images of other things.")
_EXPORT = flags.DEFINE_string("export", None, "The model.")
_DATA = flags.DEFINE_string("data", None, "The dataset that it was trained on.")
_WORK = flags.DEFINE_string("work", None, "Folder for what the model answers; used again when it is there.")
_OUTPUT = flags.DEFINE_string("output", "drift.json", "Where the figures go.")
_NULL = flags.DEFINE_integer("null", 100, "How often photos are drawn where nothing is wrong.")
_POWER = flags.DEFINE_integer("power", 20, "How often where something is.")
_SCENES = flags.DEFINE_multi_string("scene", [], "Only these (repeatable): plain, '+50 %', jpeg10, …")
_REFERENCE = flags.DEFINE_integer("reference", 150, "Photos of the reference.")

COUNTS = (50, 150, 500)
MOST_SHIFTED = 350
SCENES = ("plain", "+50 %", "jpeg10", "blur", "dark", "other 20 %", "other")


class Asked:
    """Holds what a model answers to images, in their order."""

    def __init__(self, export: str, images: Sequence[bytes], labels: Sequence[str], file: pathlib.Path) -> None:
        if not file.exists():
            model = load_model(find_model(export))
            found = [model([image]) for image in images]
            facts = []
            for image in images:
                seen = inspect(image, PixelPolicy())
                assert isinstance(seen, ImageFacts), seen
                facts.append([comparable_of(seen, image)[name] for name in FACTS])
            answers = {name: np.concatenate([one[name] for one in found]) for name in (PROBABILITIES, FEATURES)}
            np.savez(file, allow_pickle=False, facts=np.array(facts), labels=np.array(labels), **answers)
        with np.load(file) as arrays:
            self.probabilities, self.facts = arrays[PROBABILITIES], arrays["facts"]
            self.features = half(arrays[FEATURES]).astype(np.float32)
            self.labels = arrays["labels"]


def unseen(photos: pathlib.Path, data: str) -> list[pathlib.Path]:
    """Lists the photos that a model was not trained on, by their content."""
    version = open_dataset(data)
    seen = {record.source for record in version.read("train")}
    return [path for path in sorted(photos.glob("*/*")) if path.relative_to(photos).as_posix() not in seen]


def encoded(paths: Sequence[pathlib.Path], how: str) -> list[bytes]:
    """Encodes images after what was done to them."""
    found = []
    for path in paths:
        with Image.open(path) as image:
            found.append(damaged(image.convert("RGB"), how))
    return found


def draw(
    scene: str, count: int, sets: dict[str, Asked], names: Sequence[str], random: np.random.Generator
) -> tuple[Reference, Answers]:
    """Draws a reference and as many answers beside it."""
    plain = sets["plain"]
    order = random.permutation(len(plain.labels))
    first, rest = order[: _REFERENCE.value], order[_REFERENCE.value :]
    of_other = {"other 20 %": count // 5, "other": count}.get(scene, 0)
    others = random.permutation(len(sets["other"].labels))[:of_other]
    sent = _shifted(rest, count, plain.labels, random) if scene == "+50 %" else rest[: count - of_other]
    now = sets[scene] if scene in ("jpeg10", "blur", "dark") else plain
    columns = [
        np.concatenate([getattr(now, of)[sent], getattr(sets["other"], of)[others]])
        for of in ("probabilities", "features", "facts")
    ]
    reference = Reference(
        dataset="drawn",
        split="test",
        labels=names,
        truth=np.array([names.index(label) for label in plain.labels[first]]),
        probabilities=plain.probabilities[first],
        features=plain.features[first],
        facts=dict(zip(FACTS, plain.facts[first].T, strict=True)),
    )
    answers = Answers(
        model="drawn",
        labels=tuple(names),
        seconds=np.arange(count, dtype=float),
        probabilities=columns[0],
        features=columns[1],
        facts=dict(zip(FACTS, columns[2].T, strict=True)),
        others={},
        damaged=(),
    )
    return reference, answers


def _shifted(rest: np.ndarray, count: int, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws so many photos of which one class has half as many again as it would have."""
    names, counts = np.unique(labels[rest], return_counts=True)
    weights = counts * np.where(names == random.choice(names), 1.5, 1.0)
    wanted = random.multinomial(count, weights / weights.sum())
    return np.concatenate([rest[labels[rest] == name][:some] for name, some in zip(names, wanted, strict=True)])


def main(arguments: list[str]) -> None:
    del arguments
    if not all(flag.value for flag in (_PHOTOS, _OTHER, _EXPORT, _DATA, _WORK)):
        raise UsageError("--photos, --other, --export, --data and --work are wanted (--help lists the flags)")
    photos, work = pathlib.Path(_PHOTOS.value), pathlib.Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    paths = unseen(photos, _DATA.value)
    labels = [path.parent.name for path in paths]
    sets = {
        how: Asked(_EXPORT.value, encoded(paths, how), labels, work / f"{how}.npz")
        for how in ("plain", "jpeg10", "blur", "dark")
    }
    others = [path for path in sorted(pathlib.Path(_OTHER.value).rglob("*")) if path.suffix == ".jpg"]
    sets["other"] = Asked(_EXPORT.value, encoded(others, "plain"), ["other"] * len(others), work / "other.npz")
    names = pathlib.Path(_EXPORT.value, "labels.txt").read_text(encoding="utf-8").splitlines()
    print(f"{len(paths)} unseen photos, {len(others)} of other things", flush=True)
    rows = []
    for scene in _SCENES.value or SCENES:
        for count in (*COUNTS[:-1], MOST_SHIFTED if scene == "+50 %" else COUNTS[-1]):
            if scene == "other" and count > len(others):
                continue
            rows.append(_measured(scene, count, sets, names))
            print(f"{scene:>10}, {count:>3} sent: {rows[-1]}", flush=True)
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(rows, indent=2) + os.linesep, encoding="utf-8")


def _measured(scene: str, count: int, sets: dict[str, Asked], names: Sequence[str]) -> dict[str, object]:
    """Lets many draws of a scene be judged."""
    random = np.random.default_rng([SCENES.index(scene), count])
    times = _NULL.value if scene == "plain" else _POWER.value
    found: collections.Counter[str] = collections.Counter()
    areas, covered, gaps = [], 0, []
    for _ in range(times):
        reference, answers = draw(scene, count, sets, names, random)
        checks = {check.name: check for check in compare(reference, answers, DataGateConfig())}
        found.update(f"{name}: {check.outcome}" for name, check in checks.items() if check.outcome != Outcome.OK)
        low = [name for name in ("label shift", "pixels") if checks[name].figures.get("p_value", 1) < 0.01]
        facts = [of["p_value"] for of in checks["facts"].figures.values() if isinstance(of, dict)]
        found.update(f"{name}: p < 1 %" for name in [*low, *(["facts"] if min(facts, default=1) < 0.01 else [])])
        areas.append(checks["pixels"].figures.get("area", 0.5))
        sure = confidence(reference, answers.probabilities)
        right = _accuracy(scene, answers, sets, names)
        if right is not None and sure.accuracy is not None and sure.interval:
            covered += sure.interval[0] <= right <= sure.interval[1]
            gaps.append(sure.accuracy - right)
    return {
        "scene": scene,
        "sent": count,
        "times": times,
        "alarms": dict(sorted(found.items())),
        "area": [round(float(np.quantile(areas, q)), 3) for q in (0.05, 0.5, 0.95)],
        "accuracy_gap": [round(float(np.quantile(gaps, q)), 3) for q in (0.05, 0.5, 0.95)] if gaps else None,
        "covered": covered,
    }


def _accuracy(scene: str, answers: Answers, sets: dict[str, Asked], names: Sequence[str]) -> float | None:
    """Returns the true accuracy of the answers; None where some have no true label."""
    if scene.startswith("other"):
        return None
    now = sets[scene] if scene in sets else sets["plain"]
    label = {tuple(row): truth for row, truth in zip(now.facts, now.labels, strict=True)}
    truth = [label[row] for row in zip(*answers.facts.values(), strict=True)]
    return float(np.mean(np.array(names)[answers.probabilities.argmax(axis=1)] == truth))


if __name__ == "__main__":
    run_command(main)
