"""Reads files of the oldest version that docs/reference/formats.md promises to read: 0.1.0, by today's commands.

tests/data/written_by_0.1.0.tar.xz holds what one pass of `retrain.main` left of 48 coloured squares, at commit 2cea218
(the first CHANGELOG.md): dataset, run, export and registry, but pages, event files and what a killed run goes on with.
Its backbone is cifar10_cnn with sparse weights, which compress well.
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

from pipeline.format.manifest import open_dataset
from pipeline.format.verify import log_problems
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


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests" / "data" / "written_by_0.1.0.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return World(folder)


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
