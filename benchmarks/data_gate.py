"""Measures how often the data gate cries wolf, and how often it sees a wolf.

    python -m benchmarks.data_gate --photos=PHOTOS --work=WORK --output=figures.json

PHOTOS holds a folder a class. They are built four times: as they are, as JPEGs of quality 10, blurred (radius 2) and
dark (a third of the light). Then, again and again, some photos are drawn to be new (30, 80 or 150) and the rest is what
was there before: the new ones as they are (every alarm is a false one), or 20 and 50 % more of one class, or damaged in
one of these ways, or with 5, 10 or 50 % of their labels changed.
"""

from __future__ import annotations

import collections
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
from absl import flags
from PIL import Image

from benchmarks.damages import damaged
from benchmarks.frozen import read
from pipeline.command import UsageError, run_command
from pipeline.format.manifest import open_dataset
from pipeline.format.rows import FACTS, KnownImages, changes_between, known_images
from pipeline.linear.probe import deal_folds, out_of_fold
from pipeline.linear.regression import cross_validate
from retrain.data.gate import Outcome, judge_against
from retrain.limits import DataGateConfig
from trainer.check.arrivals import compare_arrivals
from trainer.report.label_issues import find_label_issues

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of class folders.")
_WORK = flags.DEFINE_string("work", None, "Folder for what is built; used again when it is there.")
_OUTPUT = flags.DEFINE_string("output", "data_gate.json", "Where the figures go.")
_NULL = flags.DEFINE_integer("null", 100, "How often photos are drawn where nothing is wrong.")
_POWER = flags.DEFINE_integer("power", 20, "How often where something is.")
_SCENES = flags.DEFINE_multi_string("scene", [], "Only these (repeatable): plain, jpeg10, …, 'flip 5 %'.")

COUNTS = (30, 80, 150)
DAMAGES = ("plain", "jpeg10", "blur", "dark")
SCENES = (*DAMAGES, "+20 %", "+50 %", "flip 5 %", "flip 10 %", "flip 50 %")


class Photos:
    """Holds what is known of all photos after one kind of damage, in the order of their names."""

    def __init__(self, photos: pathlib.Path, work: pathlib.Path, how: str) -> None:
        source, root = work / how, work / f"{how}-data"
        if not root.exists():
            for path in sorted(photos.glob("*/*")):
                target = source / path.relative_to(photos).with_suffix(".jpg")
                target.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(path) as image:
                    target.write_bytes(damaged(image.convert("RGB"), how))
            flags_of_build = ["--splits=train:0.7,validation:0.1,test:0.2", "--near_duplicates=keep"]
            subprocess.run(
                [
                    *(sys.executable, "-m", "beam_jobs.build_tfrecords", "--source=folder", f"--input={source}"),
                    *(f"--output={root}", *flags_of_build),
                ],
                check=True,
            )
        data = open_dataset(root)
        known = known_images(data)
        features = dict(zip(self._sources(root), np.concatenate([x for x, _ in read(str(root)).values()]), strict=True))
        order = np.argsort(known.sources)
        self.sources = np.array(known.sources)[order]
        self.labels = np.array(known.labels)[order]
        self.facts = {name: known.facts[name][order] for name in FACTS}
        self.features = np.array([features[source] for source in self.sources])

    @staticmethod
    def _sources(root: pathlib.Path) -> list[str]:
        data = open_dataset(root)
        return [record.source for split in ("train", "validation", "test") for record in data.read(split)]


def draw(scene: str, count: int, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws which photos are new, int [count]."""
    weights = np.ones(len(labels))
    if scene.startswith("+"):
        weights[labels == random.choice(np.unique(labels))] *= 1 + int(scene[1:3]) / 100
    return random.choice(len(labels), size=count, replace=False, p=weights / weights.sum())


def outcomes(
    scene: str, count: int, sets: Mapping[str, Photos], strength: float, random: np.random.Generator
) -> dict[str, Outcome]:
    """Lets the gate judge one draw."""
    plain, other = sets["plain"], sets.get(scene, sets["plain"])
    names, labels = np.unique(plain.labels, return_inverse=True)
    new = np.zeros(len(labels), bool)
    new[draw(scene, count, plain.labels, random)] = True
    if scene.startswith("flip"):
        share = int(scene.split()[1]) / 100
        chosen = random.permutation(np.flatnonzero(new))[: round(share * count)]
        labels[chosen] = (labels[chosen] + random.integers(1, len(names), size=len(chosen))) % len(names)
    features = np.where(new[:, np.newaxis], other.features, plain.features)
    facts = {name: np.where(new, other.facts[name], plain.facts[name]) for name in FACTS}
    seed = int(random.integers(2**31))
    groups = np.arange(len(labels))
    folds = deal_folds(labels, groups, seed=seed)
    answers = np.exp(out_of_fold(features, labels, folds, num_classes=len(names), strength=strength))
    doubted = np.zeros(len(labels), bool)
    doubted[find_label_issues(labels, answers).positions] = True
    arrivals = compare_arrivals(
        features, labels, groups, new, asked=folds >= 0, doubted=doubted, strength=strength, seed=seed
    )
    current = _known(plain.sources, names[labels], facts, np.arange(len(labels)))
    before = _known(plain.sources, names[labels], facts, np.flatnonzero(~new))
    told = {
        "pixels": arrivals.pixels and {"p_value": arrivals.pixels.p_value},
        "compared": arrivals.compared,
        "separable": arrivals.separable,
        "doubted": arrivals.doubted,
        "doubted_before": arrivals.doubted_before,
    }
    checks = judge_against(before, current, changes_between(before, current), told, DataGateConfig())
    return {check.name: check.outcome for check in checks}


def _known(sources: np.ndarray, labels: np.ndarray, facts: Mapping[str, np.ndarray], at: np.ndarray) -> KnownImages:
    return KnownImages(
        ids=tuple(sources[at]),
        sources=tuple(sources[at]),
        labels=tuple(labels[at]),
        splits=("train",) * len(at),
        groups=(b"",) * len(at),
        facts={name: values[at] for name, values in facts.items()},
    )


def main(arguments: list[str]) -> None:
    del arguments
    if not _PHOTOS.value or not _WORK.value:
        raise UsageError("--photos and --work are wanted (--help lists the flags)")
    sets = {how: Photos(pathlib.Path(_PHOTOS.value), pathlib.Path(_WORK.value), how) for how in DAMAGES}
    plain = sets["plain"]
    names, labels = np.unique(plain.labels, return_inverse=True)
    strength = cross_validate(plain.features, labels, class_weights=np.ones(len(names), np.float32), seed=0).strength
    rows = []
    for scene in _SCENES.value or SCENES:
        for count in COUNTS:
            random = np.random.default_rng([SCENES.index(scene), count])
            times = _NULL.value if scene == "plain" else _POWER.value
            found: collections.Counter[tuple[str, str]] = collections.Counter()
            for _ in range(times):
                found.update(outcomes(scene, count, sets, strength, random).items())
            alarms = {
                f"{name}: {outcome}": number for (name, outcome), number in found.items() if outcome != Outcome.OK
            }
            rows.append({"scene": scene, "new": count, "times": times, "alarms": alarms})
            print(f"{scene:>10}, {count:>3} new, {times} times: {alarms}", flush=True)
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
