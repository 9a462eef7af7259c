"""Tests that what other tools' users stumbled over ends as it should: their inputs, the command as they type it."""

import contextlib
import csv
import io
import json
import socket
import subprocess
import sys
import time
import unicodedata

import numpy as np
import pytest
from PIL import Image

from pipeline.format.manifest import DatasetVersion, open_dataset


class Built:
    """Holds how the command ended."""

    def __init__(self, done: subprocess.CompletedProcess[str], root) -> None:
        self.code, self.out, self.err, self.root = done.returncode, done.stdout, done.stderr, root

    @property
    def data(self) -> DatasetVersion:
        assert self.code == 0, self.err
        return open_dataset(self.root)

    def counts(self) -> dict[str, int]:
        manifest = self.data.manifest
        return {split: manifest.num_examples(split) for split in manifest.splits}


@pytest.fixture
def run(shared_data, tmp_path):
    """Runs the command on a case: `run(path of the case, further flags…)`."""
    folder = shared_data / "field_cases/data"
    if not folder.exists():
        pytest.skip("the field cases are not there")

    def build(case: str, *flags: str) -> Built:
        root = tmp_path / "data"
        command = [sys.executable, "-m", "beam_jobs.build_tfrecords", f"--input={folder / case}", f"--output={root}"]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=300, check=False)
        assert "Traceback" not in done.stderr
        return Built(done, root)

    return build


def rejects_of(built: Built) -> dict[str, str]:
    """Reads the rejects that a refused build left beside its root: name of the file → code."""
    (file,) = built.root.parent.glob("data-rejected-*.jsonl")
    assert str(file) in built.err
    return {row["uri"].rpartition("/")[2]: row["code"] for row in map(json.loads, file.read_text().splitlines())}


@pytest.mark.slow
def test_training_and_testing_are_splits(run):
    built = run("split_folders_training_testing")
    assert built.data.manifest.labels == ("healthy", "lesion")
    assert built.counts() == {"train": 8, "validation": 2, "test": 10}
    assert "10% of train is held out" in built.out


@pytest.mark.slow
def test_composed_and_decomposed_names_are_one_class(run):
    built = run("nfc_nfd_splits", "--validation_fraction=0")
    labels = built.data.manifest.labels
    assert len(labels) == 2
    assert all(unicodedata.is_normalized("NFC", label) for label in labels)
    for split in ("train", "test"):
        assert {record.label for record in built.data.read(split)} == {0, 1}


@pytest.mark.slow
def test_sidecars_are_ignored_and_counted(run):
    built = run("sidecar_files")
    assert sum(built.counts().values()) == 12
    assert "24 sidecar files" in built.out


@pytest.mark.slow
def test_files_beside_the_classes_are_said(run):
    built = run("images_in_root")
    assert sum(built.counts().values()) == 12
    assert built.data.manifest.labels == ("cat", "dog")
    assert "5 files lie in no class folder" in built.out


@pytest.mark.slow
def test_a_fixed_camera_is_no_duplicate(run):
    built = run("same_scene_two_classes")
    assert sum(built.counts().values()) == 24
    assert "look alike under different labels" in built.out


def test_classes_of_one_image_have_a_way(run):
    refused = run("classes_with_one_image")
    assert refused.code == 65
    assert "5 of the 6 classes" in refused.err
    assert "--small_classes=train" in refused.err
    built = run("classes_with_one_image", "--small_classes=train")
    assert "5 classes are too small" in built.out
    assert built.counts()["test"] > 0


@pytest.mark.slow
def test_lfs_pointers_are_named(run):
    built = run("git_lfs_pointers")
    assert built.code == 65
    assert "a/0.jpg: a Git LFS pointer, not the image; git lfs pull fetches it" in built.err
    assert set(rejects_of(built).values()) == {"unreadable"}
    assert not built.root.exists()


@pytest.mark.slow
def test_jpegs_cut_but_ended_are_found(run):
    refused = run("jpeg_cut_but_ended")
    assert refused.code == 65
    damaged = {"cut_half_eoi.jpg", "cut_90_eoi.jpg", "sector_zero_middle.jpg"}
    found = rejects_of(refused)
    assert found.keys() == damaged
    assert set(found.values()) <= {"truncated", "corrupt"}
    built = run("jpeg_cut_but_ended", "--max_reject_fraction=1", "--splits=train:1")
    assert built.counts() == {"train": 12}


@pytest.mark.slow
def test_a_screenshot_without_alpha_is_no_white_sheet(run, shared_data):
    built = run("bmp32_alpha_zero", "--splits=train:1")
    assert built.counts() == {"train": 12}
    (screen,) = (record for record in built.data.read("train") if record.source == "screens/screen.bmp")
    file = (shared_data / "field_cases/data/bmp32_alpha_zero/screens/screen.bmp").read_bytes()
    pixels = np.frombuffer(file[int.from_bytes(file[10:14], "little") :], np.uint8).reshape(
        -1, 4
    )  # blue, green, red, 0
    shown = np.asarray(Image.open(io.BytesIO(screen.image)).convert("RGB"))
    assert not pixels[:, 3].any()
    assert abs(shown.mean() - pixels[:, :3].mean()) < 2


@pytest.mark.slow
def test_what_is_not_supported_is_not_called_corrupt(run):
    built = run("unsupported_not_corrupt")
    assert built.code == 65
    assert rejects_of(built) == {"five_bands.tif": "unsupported", "int16.tif": "unsupported"}


@pytest.mark.slow
def test_positions_can_be_taken_out_and_are_told_of(run):
    built = run("gps_in_records")
    assert "hold in their EXIF or XMP where they were taken" in (built.root / "versions/1.0.0/README.md").read_text()
    stripped = run("gps_in_records", "--strip_metadata")
    data = stripped.data
    assert data.manifest.version == "2.0.0"
    assert all(b"Exif\0" not in record.image for split in data.manifest.splits for record in data.read(split))


@pytest.mark.slow
@pytest.mark.parametrize("table", ["semicolon", "header_filename", "windows_paths", "split_val"])
def test_tables_of_every_dialect_are_read(run, table):
    built = run(f"csv_dialects/{table}.csv", "--source=csv")
    assert sum(built.counts().values()) == 12
    assert len(built.data.manifest.labels) == 2


@pytest.mark.slow
def test_val_means_validation_in_tfds_too(run):
    built = run("tfds_train_val/train_val_set/1.0.0", "--source=tfds:")
    assert built.counts() == {"train": 12, "validation": 6}


def until_it_answers(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    pytest.fail("the server does not answer")


@pytest.mark.slow
def test_the_body_decides_not_the_content_type(shared_data, tmp_path):
    case = shared_data / "field_cases/data/http_content_type"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, str(case / "serve.py"), str(port), str(tmp_path)]) as server:
        try:
            until_it_answers(port)
            table = tmp_path / "table.csv"
            flags = ["--source=csv", "--allow_private_addresses", "--max_reject_fraction=1", "--splits=train:1"]
            command = [sys.executable, "-m", "beam_jobs.build_tfrecords", f"--input={table}", *flags]
            done = subprocess.run(
                [*command, f"--output={tmp_path / 'data'}"], capture_output=True, text=True, timeout=300, check=False
            )
        finally:
            server.kill()
    assert done.returncode == 0, done.stderr
    with open(table, newline="") as file:
        listed = len(list(csv.DictReader(file)))
    assert open_dataset(tmp_path / "data").manifest.num_examples("train") == listed == 16
