"""Reads files of earlier versions, which docs/reference/formats.md promises, by today's commands.

Each of tests/data/written_*.tar.xz holds what one pass of `retrain.main` left of 48 coloured squares: dataset, run,
export and registry, but pages, event files and what a killed run goes on with. 0.1.0 is the oldest version, at commit
2cea218 (the first CHANGELOG.md); the other was written on 2026-11-28 and has what 0.1.0 had not: all probabilities,
`reference.npz`, golden images, sums. The backbone is cifar10_cnn with sparse weights, which compress well.
"""

import csv
import dataclasses
import io
import json
import pathlib
import subprocess
import sys
import tarfile

import pytest

from pipeline.format import sums
from pipeline.format.manifest import open_dataset
from pipeline.format.reference import read_reference
from pipeline.format.rows import known_images
from pipeline.format.verify import log_problems
from pipeline.predictions import read_predictions
from retrain import registry
from retrain.ledger import decisions
from trainer.recipes.load import load_recipe
from trainer.recipes.recipe import DataFacts

ROOT = pathlib.Path(__file__).resolve().parents[1]
FACTS = DataFacts(num_train=24, num_classes=3, max_side=24)  # which a recipe that is read back does not ask for


@dataclasses.dataclass(frozen=True)
class World:
    folder: pathlib.Path

    @property
    def run(self):
        (run,) = (self.folder / "runs").glob("1.0.0-*")
        return run

    def photos(self):
        """Writes the test split as files in folders of their labels."""
        data, folder = open_dataset(self.folder / "data"), self.folder / "photos"
        for record in data.read("test"):
            label = folder / data.manifest.labels[record.label]
            label.mkdir(parents=True, exist_ok=True)
            (label / f"{record.id}.jpg").write_bytes(record.image)
        return folder


def unpacked(name, folder):
    with tarfile.open(ROOT / "tests" / "data" / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return World(folder)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return unpacked("written_by_0.1.0", tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    return unpacked("written_on_2026-11-28", tmp_path_factory.mktemp("newer"))


def run(*command):
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def answers_then(old):
    """Reads the answers of that day: id → (label, probability)."""
    lines = (old.run / "predictions-test.jsonl").read_text().splitlines()
    return {row["id"]: (row["predicted"], row["probability"]) for row in map(json.loads, lines)}


def test_its_dataset_is_whole_and_has_what_it_had(old):
    data = open_dataset(old.folder / "data")
    problems = log_problems(data, lambda record: "")
    counts = {split: data.manifest.num_examples(split) for split in data.manifest.splits}
    assert not problems
    assert counts == {"train": 24, "validation": 14, "test": 10}
    assert {record.id for record in data.read("test")} == answers_then(old).keys()


@pytest.mark.slow
def test_its_export_answers_as_it_did(old):
    """By its SavedModel. JPEGs were decoded less exactly then, so that pixels differ a little."""
    done = run("trainer.predict", f"--run={old.run}", old.photos())
    answers = list(csv.DictReader(io.StringIO(done.stdout)))
    then = answers_then(old)
    assert (done.returncode, len(answers)) == (0, 10), done.stderr
    for row in answers:
        label, probability = then[pathlib.Path(row["file"]).stem]
        assert (row["label"], float(row["probability"])) == (label, pytest.approx(probability, abs=0.01))


def test_its_run_is_listed_and_its_recipe_trains_again(old):
    done = run("trainer.runs", old.folder / "runs")
    recipe = load_recipe(str(old.run / "config.json"), FACTS)
    assert "finished  quick   photos 1.0.0  1.0000" in done.stdout, done.stderr
    assert (recipe.backbone, recipe.image_size, recipe.batch_size) == ("cifar10_cnn", 16, 8)
    assert recipe.selection_metric == "accuracy"  # newer than the file: the default


def test_what_its_run_lacks_is_told_with_what_to_do(old):
    done = run("trainer.evaluate", f"--run={old.run}")
    assert done.returncode == 64
    assert "one of an earlier version of this package" in done.stderr


def test_its_registry_has_its_champion_and_decisions(old):
    root = str(old.folder / "models")
    champion = registry.champion(root)
    assert champion.number == 1
    assert champion.labels() == ["blue", "green", "red"]
    assert len(champion.trained_on()) == 38  # training and validation
    assert [record["decision"] for record in decisions(root)] == ["promoted"]
    assert run("retrain.models", "list", f"--models={root}").returncode == 0


def test_a_form_that_cannot_be_asked_alone_says_so(old):
    """Nothing beside the LiteRT file of 0.1.0 says how it sees an image."""
    done = run("trainer.predict", f"--model={old.run / 'export' / 'model.tflite'}", old.folder)
    assert done.returncode == 64
    assert "preprocess.json: no such file" in done.stderr


def test_every_image_that_was_listed_is_known(newer):
    data = open_dataset(newer.folder / "data")
    known = known_images(data)
    assert not log_problems(data, lambda record: "")
    assert {record.id for record in data.read("train")} <= set(known.ids)


def test_predictions_are_measured(newer):
    done = run("trainer.evaluate", f"--run={newer.run}")
    assert "accuracy            0.8000" in done.stdout, done.stderr


def test_an_export_answers_as_it_did_without_tensorflow(newer):
    done = run("trainer.predict", f"--run={newer.run}", newer.photos())
    then = read_predictions(newer.run, "test")
    expected = {image: then.names[at] for image, at in zip(then.ids, then.predicted, strict=True)}
    answers = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {pathlib.Path(row["file"]).stem: row["label"] for row in answers} == expected, done.stderr
    for row in answers:
        at = then.ids.index(pathlib.Path(row["file"]).stem)
        assert float(row["probability"]) == pytest.approx(then.confidence[at], abs=1e-3)


def test_the_answers_that_drift_is_measured_by_are_read(newer):
    reference = read_reference(newer.run / "export")
    assert reference.labels == ("blue", "green", "red")
    assert reference.features.shape == (len(reference.truth), 64)


def test_a_model_of_a_registry_is_whole(newer):
    champion = registry.champion(str(newer.folder / "models"))
    assert sums.damage(champion.path) == []
    done = run("trainer.predict", f"--model={champion.path}", pathlib.Path(champion.path, "golden"))
    golden = json.loads(pathlib.Path(champion.file("golden/golden.json")).read_text())
    answers = {pathlib.Path(row["file"]).name: row for row in csv.DictReader(io.StringIO(done.stdout))}
    assert len(golden) == 8
    for image in golden:
        assert float(answers[image["file"]]["probability"]) == pytest.approx(max(image["probabilities"]), abs=1e-3)
