"""Tests croissant.json by mlcroissant, which reads the tables through it, against the records themselves."""

import hashlib
import json
import os

import mlcroissant
import pytest
from PIL import Image

from pipeline.format.manifest import open_dataset
from tests.beam_jobs.image_folders import make_folder, run_build


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("croissant")
    make_folder(folder / "photos", images=8)
    (folder / "photos" / "cat" / "broken.jpg").write_bytes(b"no image")
    (folder / "photos" / "cat").rename(folder / "photos" / "猫 “tom”")
    return folder, open_dataset(run_build(folder / "photos", folder / "data").directory)


def test_mlcroissant_reads_every_image_that_was_kept(built):
    folder, data = built
    described = mlcroissant.Dataset(jsonld=os.path.join(data.path, "croissant.json"))
    assert not described.metadata.issues.errors
    assert not [
        one for one in described.metadata.issues.warnings if "recommended" not in one
    ]  # licence, date, citation
    rows = {row["images/uri"].decode(): row for row in described.records("images")}
    records = {record.source: (record, split) for split in data.manifest.splits for record in data.read(split)}
    assert rows.keys() == records.keys()
    for source, (record, split) in records.items():
        row = rows[source]
        assert row["images/label"].decode() == data.manifest.labels[record.label]
        assert row["images/split"].decode() == split
        assert row["images/sha256"] == hashlib.sha256((folder / "photos" / source).read_bytes()).digest()
        with Image.open(folder / "photos" / source) as image:
            assert (row["images/width"], row["images/height"]) == image.size


def test_labels_and_splits_are_in_it(built):
    _, data = built
    described = mlcroissant.Dataset(jsonld=os.path.join(data.path, "croissant.json"))
    numbered = {row["labels/number"]: row["labels/name"] for row in described.records("labels")}
    assert [numbered[number] for number in range(len(numbered))] == list(data.manifest.labels)
    sizes = {row["splits/name"]: row["splits/images"] for row in described.records("splits")}
    assert sizes == {split: data.manifest.num_examples(split) for split in data.manifest.splits}


def test_no_path_of_the_machine_is_in_it(built):
    folder, data = built
    text = (folder / os.path.relpath(data.path, folder) / "croissant.json").read_text(encoding="utf-8")
    assert str(folder) not in text
    assert set(json.loads(text)) <= {"@context", "@type", "conformsTo", "name", "version", "description",
                                     "distribution", "recordSet"}  # fmt: skip
