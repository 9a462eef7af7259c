"""Tests that what was given for another thing is named, with the command that works; each command is run."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.command import UsageError
from pipeline.format import kinds, storage
from pipeline.format.manifest import open_dataset
from tests import datasets


def photos(folder, *classes, count=4):
    """Writes folders of images that differ, one folder a class, or the images directly."""
    rng = np.random.default_rng(0)
    for name in classes or ("",):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture = datasets.smooth_image(rng, height=40, width=48)
            Image.fromarray(picture).save(folder / name / f"{number}.jpg", quality=95)
    return folder


def run_of(folder, data="/where/the/data/are"):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"data": data}))
    return folder


def export_of(folder):
    (folder / "saved_model").mkdir(parents=True)
    (folder / "saved_model" / "saved_model.pb").touch()
    return folder


def refusal(path):
    with pytest.raises(UsageError) as raised:
        open_dataset(path)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_class_folders_get_the_command_that_builds_them_and_it_works(tmp_path):
    folder = photos(tmp_path / "my photos", "cats", "dogs", count=10)
    said = refusal(folder)
    assert said.startswith(f"{folder}: not a published dataset (no manifest.json); it is a folder of images; ")
    command = said.partition("python -m ")[2].partition(" (then give ")[0]
    assert command == f"beam_jobs.build_tfrecords --input='{folder}' --output='{folder}-dataset'"
    done = subprocess.run([sys.executable, "-m", *shlex.split(command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert open_dataset(f"{folder}-dataset").manifest.labels == ("cats", "dogs")
    assert said.endswith(f"(then give '{folder}-dataset')")


@pytest.mark.parametrize("given", [".", "./", "here/../."])
def test_where_the_folder_has_no_name_the_output_gets_one(tmp_path, monkeypatch, given):
    photos(tmp_path / "photos", "a", "b")
    (tmp_path / "photos" / "here").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    output = refusal(given).partition("--output=")[2].partition(" ")[0]
    assert os.path.abspath(output) == str(tmp_path / "photos-dataset")


def test_official_splits_one_class_and_images_without_classes(tmp_path):
    assert "it is a folder of images; build" in refusal(photos(tmp_path / "official" / "train", "a", "b").parent)
    whole = photos(tmp_path / "whole", "cats", "dogs")
    assert f"it is one class of {whole}; build a dataset: " in (said := refusal(whole / "cats"))
    assert f"--input={whole} --output={whole}-dataset" in said
    flat = photos(tmp_path / "apart" / "flat")
    assert "put those of each class into a folder of its own, and build" in refusal(flat)
    assert "put each class's images into a folder of its own" in refusal(flat / "0.jpg")


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl", "my list.parquet"])
def test_a_table_and_a_folder_that_holds_one(tmp_path, name):
    table = tmp_path / "tables" / name
    table.parent.mkdir()
    table.write_text("uri,label\n")
    root = str(table)[: -len(table.suffix)]
    flags = f"--source=table --input={shlex.quote(str(table))} --output={shlex.quote(f'{root}-dataset')}"
    assert flags in refusal(table)
    assert flags in refusal(table.parent)


def test_a_run_names_its_dataset_and_an_export_is_one(tmp_path):
    assert refusal(run_of(tmp_path / "run")).endswith("a training run, whose dataset is /where/the/data/are")
    assert refusal(export_of(tmp_path / "export")).endswith("; it is an exported model")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "decisions.jsonl").touch()
    assert refusal(tmp_path / "models").endswith("; it is a registry of models")


def test_what_tfds_has_prepared_and_archives(tmp_path):
    version = tmp_path / "mnist" / "3.0.1"
    version.mkdir(parents=True)
    (version / "dataset_info.json").touch()
    for given in (version, version.parent):
        said = refusal(given)
        assert "TFDS has prepared it; build a dataset: python -m beam_jobs.build_tfrecords --source=tfds " in said
        assert f"--input={version} " in said
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").touch()
    assert "it is cifar10; build a dataset: " in refusal(tmp_path / "cifar-10-batches-py")
    (tmp_path / "photos.zip").touch()
    assert "it is an archive; unpack it" in refusal(tmp_path / "photos.zip")


def test_parts_of_a_dataset_and_a_build_that_never_ended(tmp_path, tiny):
    for file in ("manifest.json", os.path.basename(tiny.shard_paths("train")[0])):
        assert refusal(os.path.join(tiny.path, file)).endswith(f"it is a file of the dataset {tiny.path}")
    assert refusal(os.path.dirname(tiny.path)).endswith(f"it belongs to the dataset {tmp_path}/tiny")
    (tmp_path / "began" / ".build").mkdir(parents=True)
    assert "run that build's command again" in refusal(tmp_path / "began")
    (tmp_path / "empty").mkdir()
    assert f"it is empty; build one there: python -m beam_jobs.build_tfrecords --input=PHOTOS --output={tmp_path}" in (
        refusal(tmp_path / "empty")
    )


@pytest.fixture
def tiny(tmp_path):
    records = datasets.coloured_records(6, classes=2)
    return datasets.write_dataset(tmp_path / "tiny", {"train": records}, ["a", "b"])


def test_a_name_that_is_not_there_gets_the_nearest(tiny, tmp_path):
    assert refusal(tmp_path / "tini").endswith(
        'build it with python -m beam_jobs.build_tfrecords. Did you mean "tiny"?'
    )
    assert refusal("memory://nowhere/data").endswith("beam_jobs.build_tfrecords.")


def test_a_run_and_a_model_are_told_from_all_else(tiny, tmp_path):
    run = run_of(tmp_path / "run")
    model = export_of(run / "export")
    root = str(tmp_path / "tiny")
    assert kinds.no_run(root) == f"it is a dataset; python -m trainer.main --data={root} --run=RUN trains on it"
    assert kinds.no_run(str(model)) == kinds.no_run(str(run / "checkpoints")) == f"the run is {run}"
    assert kinds.no_run(str(export_of(tmp_path / "alone"))).startswith(
        "it is an exported model; give the folder of a run"
    )
    assert kinds.no_model(str(run)) == f"it is the run whose model is {model}"
    assert kinds.no_model(root).startswith("it is a dataset; python -m trainer.main")
    assert "trainer.export --run=" in kinds.no_model(str(run_of(tmp_path / "unfinished")))


def test_a_store_is_looked_at_as_a_disk_is():
    storage.write_atomically("memory://kinds/photos/cats/1.jpg", b"")
    said = refusal("memory://kinds/photos")
    assert "it is a folder of images; " in said
    assert "--input=memory://kinds/photos --output=memory://kinds/photos-dataset" in said


def _of_kinds(folder):
    """Yields folders, each with what it is."""
    yield run_of(folder / "run"), kinds.RUN
    begun = folder / "begun"
    begun.mkdir()
    (begun / "config.json").write_text('{"recipe": {}}')
    yield begun, kinds.RUN
    data = datasets.write_dataset(folder / "data", {"train": datasets.coloured_records(4, classes=2)}, ["a", "b"])
    yield data.path, kinds.VERSION
    (folder / "root").mkdir()
    (folder / "root" / "CURRENT").touch()
    yield folder / "root", kinds.DATASET
    (folder / "models").mkdir()
    (folder / "models" / "decisions.jsonl").touch()
    yield folder / "models", kinds.REGISTRY
    yield export_of(folder / "export"), kinds.MODEL
    photos(folder / "export", "golden", count=1)
    yield folder / "export", kinds.MODEL
    (folder / "check").mkdir()
    (folder / "check" / "check.json").touch()
    yield folder / "check", kinds.CHECK
    yield photos(folder / "photos", "a", "b", count=1), kinds.PHOTOS
    yield folder / "photos" / "a", kinds.PHOTOS
    (folder / "photos-model").mkdir()
    (folder / "photos-model" / "quickstart.json").touch()
    yield folder / "photos-model", kinds.QUICKSTART
    (folder / "logs").mkdir()
    (folder / "logs" / "slurm-1.out").touch()
    yield folder / "logs", None
    yield folder / "nothing", None


def test_each_kind_of_folder_is_known(tmp_path):
    for path, kind in _of_kinds(tmp_path):
        assert kinds.kind_of(str(path)) == kind, path


def test_what_a_quickstart_has_made_is_named_with_the_part_that_is_meant(tmp_path):
    made = tmp_path / "photos-model"
    photos(made / "data" / "versions" / "1.0.0")
    (made / "quickstart.json").write_text("{}")
    assert f"what a quickstart has made, whose dataset is {made}/data" in refusal(made)
    assert kinds.no_run(str(made)) == f"it is what a quickstart has made; its runs lie in {made}/runs"
    assert kinds.no_model(str(made)) == f"it is what a quickstart has made, whose model is {made}/model"
