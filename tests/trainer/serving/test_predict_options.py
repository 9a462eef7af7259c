"""Tests what `trainer.predict` is asked about, and what it writes: names, tables, folders, right answers."""

import csv
import functools
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.command import UsageError
from tests import datasets
from trainer.models import HeadConfig
from trainer.models.classifier import build_classifier
from trainer.serving.export import export_classifier
from trainer.serving.loading import find_model, load_model
from trainer.serving.photos import find_images, read_source

LABELS = ["ant", "bee/wasp", "cat"]
SIZE = {"height": 24, "width": 24}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    classifier = build_classifier(
        backbone="cifar10_cnn", weights="none", num_classes=3, head=HeadConfig(hidden=8), seed=1, **SIZE
    )
    folder = tmp_path_factory.mktemp("run")
    export_classifier(classifier, labels=LABELS, preprocess="unit", directory=folder / "export", **SIZE)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(12):
        path = folder / ("ant", "cat", "other")[number % 3] / f"photo {number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(datasets.jpeg(datasets.smooth_image(random, height=40, width=50)))
    (folder / "cat" / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def expected(run, photos):
    """Returns file → probabilities, of the model asked by itself."""
    ask = load_model(find_model(str(run / "export")))
    files = [path for path in sorted(photos.rglob("*.jpg")) if path.name != "broken.jpg"]
    return {str(path): ask([path.read_bytes()])["probabilities"][0] for path in files}


def predict(*arguments, given="", code=0):
    done = subprocess.run(
        [sys.executable, "-m", "trainer.predict", *map(str, arguments)],
        input=given, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_names_come_from_folders_patterns_and_standard_input(photos, monkeypatch):
    every = sorted(str(path) for path in photos.rglob("*.jpg"))
    assert list(find_images([str(photos)])) == every
    assert list(find_images([f"{photos}/**/*.jpg"])) == every
    assert list(find_images([f"{photos}/c*", f"{photos}/ant/photo 0.jpg"])) == [
        *(path for path in every if "/cat/" in path), f"{photos}/ant/photo 0.jpg",
    ]  # fmt: skip
    given = b"a.jpg\n\nwith space .jpg\r\ncaf\xe9.jpg\nlast.jpg"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert list(find_images(["-"])) == ["a.jpg", "with space .jpg", os.fsdecode(b"caf\xe9.jpg"), "last.jpg"]
    with pytest.raises(UsageError, match=r"nothing\*\.jpg: matches no file"):
        list(find_images(["nothing*.jpg"]))
    (photos / "other" / "[1].jpg").write_bytes(b"")
    try:
        assert list(find_images([f"{photos}/other/[1].jpg"])) == [f"{photos}/other/[1].jpg"]
    finally:
        (photos / "other" / "[1].jpg").unlink()


@pytest.fixture
def site(photos):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=photos)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_urls_are_read_and_what_goes_wrong_is_said(site, photos):
    assert read_source(f"{site}/ant/photo%200.jpg") == (photos / "ant" / "photo 0.jpg").read_bytes()
    assert read_source(f"{site}/none.jpg") == "the server answers 404 File not found"
    assert read_source("http://127.0.0.1:1/photo.jpg") == "[Errno 111] Connection refused"
    assert "URL can't contain control characters" in read_source(f"{site}/a b.jpg")


def test_the_likeliest_labels_and_doubts_as_csv(run, photos, expected):
    threshold = float(np.median([answer.max() for answer in expected.values()]))
    done = predict(f"--run={run}", "--top=2", f"--threshold={threshold}", photos)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == ["file", "label", "probability", "label_2", "probability_2", "likeliest"]
    assert [row["file"] for row in rows] == list(expected)
    for row in rows:
        probabilities = expected[row["file"]]
        first, second = np.argsort(-probabilities)[:2]
        assert row["likeliest"] == LABELS[first]
        assert row["label"] == (LABELS[first] if probabilities[first] >= threshold else "unsure")
        assert row["label_2"] == LABELS[second]
        assert float(row["probability"]) == pytest.approx(probabilities[first], abs=1e-5)
        assert float(row["probability_2"]) == pytest.approx(probabilities[second], abs=1e-5)
    assert {row["label"] == "unsure" for row in rows} == {True, False}
    assert "broken.jpg: " in done.stderr


def test_the_share_of_right_answers_is_told_where_folders_are_labels(run, photos, expected):
    done = predict(f"--model={run}/export", photos)
    known = {file: answer for file, answer in expected.items() if "/other/" not in file}
    right = sum(LABELS[answer.argmax()] == file.split("/")[-2] for file, answer in known.items())
    assert f"{right} of 8 images are in the folder of the label they get: {right / 8:.1%}" in done.stderr
    assert re.search(r"^  ant: \d of 4$", done.stderr, re.M)
    assert "folder of the label" not in predict(f"--run={run}", photos / "other").stderr


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_features_and_labels_as_rows(run, photos, expected, tmp_path, kind):
    names = "".join(f"{file}\n" for file in expected)
    predict(
        f"--run={run}", f"--output={tmp_path}/out.{kind}", "--features", "--top=3", "--batch_size=5", "-", given=names
    )
    if kind == "jsonl":
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    else:
        rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["file"] for row in rows] == list(expected)
    ask = load_model(find_model(str(run / "export")))
    for row in rows:
        answer = expected[row["file"]]
        assert row["label"] == LABELS[answer.argmax()]
        assert [one["label"] for one in row["top"]] == [LABELS[at] for at in np.argsort(-answer)]
        np.testing.assert_allclose([one["probability"] for one in row["top"]], np.sort(answer)[::-1], atol=1e-5)
        with open(row["file"], "rb") as file:
            features = ask([file.read()])["features"][0]
        np.testing.assert_allclose(row["features"], features, rtol=1e-4, atol=1e-5)


def test_a_page_shows_every_image_below_its_label(run, photos, expected, tmp_path):
    predict(f"--run={run}", f"--output={tmp_path}/out.html", photos)
    page = (tmp_path / "out.html").read_text()
    assert page.count("<figure>") == page.count('src="data:image/') == 12
    for label in LABELS:
        count = sum(LABELS[answer.argmax()] == label for answer in expected.values())
        assert bool(count) == (f"{count} image" in page and f">{label.replace('/', '/<wbr>')}</bdi>" in page)


def test_images_are_sorted_into_folders_of_their_labels(run, photos, expected, tmp_path, site):
    twin = tmp_path / "elsewhere" / "photo 0.jpg"  # another image of the same name
    twin.parent.mkdir()
    shutil.copy(photos / "ant" / "photo 3.jpg", twin)
    for _ in range(2):  # the second time there is nothing to copy
        predict(f"--run={run}", f"--sort_into={tmp_path}/sorted", photos, twin, f"{site}/other/photo%202.jpg")
    found = {path for path in (tmp_path / "sorted").rglob("*") if path.is_file()}
    assert len(found) == 13, "12 photos and the twin; the URL is one of the photos"
    assert {path.parent.name for path in found} <= {"ant", "bee_wasp", "cat"}
    for file, answer in expected.items():
        label = LABELS[answer.argmax()].replace("/", "_")
        with open(file, "rb") as photo:
            content = photo.read()
        assert content in [path.read_bytes() for path in (tmp_path / "sorted" / label).iterdir()]


def test_what_is_sorted_is_the_image_that_was_asked_about(run, photos, tmp_path):
    """The address answers with another photo each time, as those of cameras do."""
    files = sorted((photos / "ant").iterdir())

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = files.pop(0).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    first = files[0].read_bytes()
    with http.server.HTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        predict(f"--run={run}", f"--sort_into={tmp_path}", f"http://127.0.0.1:{server.server_port}/now.jpg")
        server.shutdown()
    assert [path.read_bytes() for path in tmp_path.rglob("*.jpg")] == [first]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=parquet"], "--format=parquet is written to a file: give --output=FILE.parquet"),
        (["--features"], "--features go into jsonl or parquet, not csv: give --format=jsonl or --format=parquet"),
        (["--output=nowhere/out.csv"], "there is no folder"),
        (["--threshold=2"], "--threshold=2"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(run, photos, flags, message):
    done = predict(f"--run={run}", *flags, photos, code=64)
    assert message in done.stderr
    assert done.stdout == ""


def test_where_there_is_no_file_at_all_that_is_said(run, tmp_path):
    (tmp_path / "empty").mkdir()
    done = predict(f"--run={run}", tmp_path / "empty", code=65)
    assert (done.stdout, done.stderr) == ("", f"error: no files in {tmp_path}/empty\n")
    assert predict(f"--run={run}", "-", code=65).stderr == "error: no names on standard input\n"


def test_a_run_without_an_export_says_how_far_it_is(tmp_path, photos):
    (tmp_path / "config.json").write_text(json.dumps({"recipe": {}, "labels": [], "seed": 0}))
    done = predict(f"--run={tmp_path}", photos, code=64)
    assert f"--run={tmp_path}: the run has not ended, so it has exported no model yet" in done.stderr
    assert "trainer.export --unfinished" in done.stderr


def test_nothing_is_written_where_no_image_can_be_read(run, tmp_path):
    (tmp_path / "notes.jpg").write_text("no image")
    done = predict(f"--run={run}", tmp_path, os.devnull, code=65)
    assert done.stdout == "file,label,probability\n"
    assert done.stderr.splitlines()[-1] == "error: none of 2 files could be read as an image"
