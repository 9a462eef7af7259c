"""Tests what a model answers from Python against the answers that its run has written, and Pillow's own pixels."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.command import UsageError
from tests.trainer.commands import ROOT, run
from trainer.api import load_model


@pytest.fixture(scope="module")
def model(finished):
    return load_model(finished[0])


@pytest.fixture(scope="module")
def records(tiny_data):
    return list(tiny_data.read("test"))


def probabilities(answers):
    return np.array([[answer.probabilities[name] for name in ("red", "green", "blue")] for answer in answers])


def test_it_answers_as_the_run_did(model, records, finished):
    written = [json.loads(line) for line in (finished[0] / "predictions-test.jsonl").read_text().splitlines()]
    answers = model.predict([record.image for record in records], batch_size=4)
    assert [answer.label for answer in answers] == [row["predicted"] for row in written]
    np.testing.assert_allclose([a.probability for a in answers], [r["probability"] for r in written], atol=1e-3)
    assert model.labels == ("red", "green", "blue")
    for answer in answers:
        assert answer.label == next(iter(answer.probabilities))
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_files_bytes_pictures_and_arrays_are_the_same_image(model, records, tmp_path):
    encoded = [record.image for record in records[:5]]
    pictures = [Image.open(io.BytesIO(one)) for one in encoded]
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    for at, one in enumerate(encoded):
        (tmp_path / f"{at}.jpg").write_bytes(one)
    expected = probabilities(model.predict(encoded))
    for same in (
        pictures,
        arrays,
        list(arrays),
        iter(arrays),
        tmp_path,
        f"{tmp_path}/*.jpg",
        sorted(tmp_path.iterdir()),
    ):
        np.testing.assert_array_equal(probabilities(model.predict(same)), expected)
    (one,) = model.predict(arrays[2])
    assert one.name == "0"
    np.testing.assert_array_equal(probabilities([one]), expected[2:3])
    assert [answer.name for answer in model.predict([tmp_path / "1.jpg", arrays[0]])] == [f"{tmp_path}/1.jpg", "1"]


def test_grey_upright_and_odd_pictures(model):
    chance = np.random.default_rng(0)
    grey = chance.integers(0, 256, (16, 16), np.uint8)
    rgb = np.repeat(grey[..., np.newaxis], 3, axis=2)
    expected = probabilities(model.predict(rgb))
    np.testing.assert_array_equal(probabilities(model.predict(grey)), expected)
    np.testing.assert_array_equal(probabilities(model.predict(grey[..., np.newaxis])), expected)
    np.testing.assert_array_equal(probabilities(model.predict(np.stack([grey] * 4))), np.repeat(expected, 4, axis=0))
    turned = Image.fromarray(np.rot90(rgb).copy())
    turned.getexif()[0x0112] = 6  # turn it clockwise to see it
    np.testing.assert_array_equal(probabilities(model.predict(turned)), expected)
    (palette,) = model.predict(Image.fromarray(grey).convert("P"))
    assert palette.label in model.labels


def test_what_cannot_be_read_has_a_problem_and_its_place(model, records):
    answers = model.predict(["nowhere.jpg", records[0].image, b"no image", np.zeros((9, 9), np.float32)])
    assert [bool(answer.problem) for answer in answers] == [True, False, True, True]
    assert answers[0].name == "nowhere.jpg"
    assert answers[0].label == ""
    assert "uint8" in answers[3].problem
    assert model.predict([]) == []


@pytest.mark.parametrize("images", [{"a": 1}, 3, [3], [[b"x"]], np.zeros((2, 2, 2, 2, 3), np.uint8)])
def test_what_is_no_image_is_refused(model, images):
    with pytest.raises(UsageError, match="give files, encoded bytes, PIL images or uint8 arrays"):
        model.predict(images)


def test_all_that_holds_a_model_is_taken_and_nothing_else(finished, tiny_data, tmp_path):
    workdir, _ = finished
    asked = np.zeros((1, 16, 16, 3), np.uint8)
    expected = probabilities(load_model(workdir).predict(asked))
    for place in (workdir / "export", workdir / "export" / "model.tflite"):
        np.testing.assert_array_equal(probabilities(load_model(place).predict(asked)), expected)
    for place in (tiny_data.path, tmp_path, f"{tmp_path}/none"):
        with pytest.raises(UsageError) as error:
            load_model(place)
        done = run(f"--model={place}", "photo.jpg", module="trainer.predict")
        assert (done.returncode, done.stderr) == (64, f"error: {error.value}\n")


def test_no_tensorflow_is_needed(finished):
    code = (
        "import sys, numpy as np; from trainer.api import load_model\n"
        f"print(load_model({str(finished[0])!r}).predict(np.zeros((16, 16, 3), np.uint8))[0].label)\n"
        "print(sorted({'tensorflow', 'keras', 'apache_beam', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["[]"]
