"""Tests that a version says where its images tell where they were taken, and can be built without."""

import pathlib

import pytest

from pipeline.format import records
from pipeline.format.manifest import open_dataset
from pipeline.images.metadata import has_position
from pipeline.images.policy import PixelPolicy
from tests.beam_jobs.image_folders import run_build


@pytest.fixture
def folder(shared_data) -> pathlib.Path:
    return shared_data / "field_cases" / "data" / "gps_in_records"


def images_of(directory: str) -> dict[str, records.Record]:
    data = open_dataset(directory)
    found = {}
    for split in data.manifest.splits:
        for path in data.shard_paths(split):
            with open(path, "rb") as file:
                found |= {record.id: record for record in map(records.decode_example, records.read_frames(file))}
    return found


def test_the_card_says_that_positions_are_in_the_records_or_they_are_not(folder, tmp_path):
    options = {"near_duplicates": "keep"}
    plain = run_build(folder, tmp_path / "plain", **options)
    stripped = run_build(folder, tmp_path / "stripped", policy=PixelPolicy(strip_metadata=True), **options)
    with_position = [record for record in images_of(plain.directory).values() if has_position(record.image)]
    assert with_position
    card = pathlib.Path(plain.directory, "README.md").read_text(encoding="utf-8")
    assert f"{len(with_position)} images hold in their EXIF or XMP where they were taken (GPS)" in card
    without = images_of(stripped.directory)
    assert without.keys() == images_of(plain.directory).keys()  # ids are of the source files
    assert not any(has_position(record.image) or b"Exif" in record.image for record in without.values())
    assert "GPS" not in pathlib.Path(stripped.directory, "README.md").read_text(encoding="utf-8")
