"""Tests what is known of a version's images, and what two versions differ in, against the records themselves."""

import dataclasses
import os

import numpy as np
import pytest

from pipeline.command import DataError
from pipeline.format.manifest import open_dataset
from pipeline.format.rows import FACTS, changes_between, checks_folder, known_images, version_before
from pipeline.images.facts import ImageFacts, comparable_of
from pipeline.images.look import inspect
from pipeline.images.policy import PixelPolicy
from tests import datasets
from tests.beam_jobs.image_folders import make_folder, run_build, save_image


@pytest.fixture
def built(tmp_path):
    make_folder(tmp_path / "photos", images=8)
    save_image(tmp_path / "photos" / "cat" / "broken.jpg", 5)
    (tmp_path / "photos" / "cat" / "broken.jpg").write_bytes(b"no image")
    outcome = run_build(tmp_path / "photos", tmp_path / "data")
    return open_dataset(outcome.directory)


def _records(data):
    return {(r.id, r.source, data.manifest.labels[r.label], split) for split in data.manifest.splits
            for r in data.read(split)}  # fmt: skip


def test_tables_say_what_the_records_say(built, tmp_path):
    folder = tmp_path / "photos"
    known = known_images(built)
    assert set(zip(known.ids, known.sources, known.labels, known.splits, strict=True)) == _records(built)
    assert len(known.ids) == 16
    for name in FACTS:
        assert (known.facts[name] > 0).all()
    sizes = {source: os.path.getsize(folder / source) for source in known.sources}
    of_file = [sizes[source] for source in known.sources]
    np.testing.assert_allclose(known.facts["bytes_per_pixel"] * known.facts["area"], of_file)
    assert len(set(known.groups)) == 16


def test_an_image_that_is_asked_about_is_compared_by_what_the_tables_say(built, tmp_path):
    known = known_images(built)
    for at, source in enumerate(known.sources):
        data = (tmp_path / "photos" / source).read_bytes()
        facts = inspect(data, PixelPolicy())
        assert isinstance(facts, ImageFacts)
        assert comparable_of(facts, data) == pytest.approx({name: known.facts[name][at] for name in FACTS})


def test_without_tables_the_records_are_read(tmp_path):
    data = datasets.write_dataset(
        tmp_path, {"train": datasets.coloured_records(7, classes=2), "test": datasets.coloured_records(3, classes=2)},
        ["a", "b"],
    )  # fmt: skip
    known = known_images(data)
    assert set(zip(known.ids, known.sources, known.labels, known.splits, strict=True)) == _records(data)
    assert np.isnan(known.facts["brightness"]).all()
    shapes = {record.id: (record.height, record.width) for split in data.manifest.splits for record in data.read(split)}
    height, width = np.array([shapes[image] for image in known.ids], float).T
    np.testing.assert_array_equal(known.facts["area"], height * width)
    np.testing.assert_array_equal(known.facts["aspect"], width / height)


def test_a_damaged_table_is_named(built):
    (table, *_) = sorted(name for name in os.listdir(built.path) if name.startswith("rows-train"))
    with open(os.path.join(built.path, table), "r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match=rf"{table}: damaged .*--repair"):
        known_images(built)


def test_versions_are_compared_by_content(built, tmp_path):
    photos = tmp_path / "photos"
    before = known_images(built)
    assert version_before(built) is None
    gone, other = sorted(os.listdir(photos / "dog"))[:2]
    (photos / "dog" / gone).unlink()
    (photos / "dog" / other).rename(photos / "cat" / "renamed.png")
    save_image(photos / "dog" / "new.jpg", 77)
    later = open_dataset(run_build(photos, tmp_path / "data").directory)
    earlier = version_before(later)
    assert earlier.manifest.version == built.manifest.version
    changes = changes_between(before, known_images(later))
    ids = {source: image for image, source in zip(before.ids, before.sources, strict=True)}
    new = {source: image for image, source, *_ in _records(later)}
    assert changes.removed == (ids[f"dog/{gone}"],)
    assert changes.relabelled == (ids[f"dog/{other}"],)
    assert changes.added == (new["dog/new.jpg"],)
    splits = {image: split for image, _, _, split in _records(built)}
    later_splits = {image: split for image, _, _, split in _records(later)}
    assert set(changes.moved) == {i for i in splits.keys() & later_splits.keys() if splits[i] != later_splits[i]}


@pytest.mark.slow
def test_a_damaged_version_before_is_none(built, tmp_path, caplog):
    save_image(tmp_path / "photos" / "dog" / "new.jpg", 77)
    later = open_dataset(run_build(tmp_path / "photos", tmp_path / "data").directory)
    os.unlink(os.path.join(built.path, "manifest.json"))
    assert version_before(later) is None
    assert "1.0.0 is not compared: " in caplog.text


def test_checks_lie_beside_the_versions(tmp_path):
    data = datasets.write_dataset(tmp_path, {"train": datasets.coloured_records(4, classes=2)}, ["a", "b"])
    assert checks_folder(data) == str(tmp_path / "checks" / "1.0.0")
    alone = dataclasses.replace(data, path=tmp_path / "copy")
    assert checks_folder(alone) == str(tmp_path / "copy" / "checks")
    assert version_before(alone) is None
