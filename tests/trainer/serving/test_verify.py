"""Tests that an export is asked by processes that have nothing of ours, and that what answers otherwise is named."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.predictions import Predictions
from pipeline.view import View
from tests import datasets
from trainer.models import HeadConfig
from trainer.models.classifier import build_classifier
from trainer.serving.export import export_classifier
from trainer.serving.golden import choose_golden

LABELS = ["ant", "bee", "cat"]
SIZE = {"height": 16, "width": 20}


def classifier(seed):
    return build_classifier(
        backbone="cifar10_cnn", weights="none", num_classes=3, head=HeadConfig(hidden=8), seed=seed, **SIZE
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    random = np.random.default_rng(0)
    records = [
        datasets.record(datasets.jpeg(datasets.smooth_image(random, height=50 + n, width=70)), n % 3) for n in range(12)
    ]
    return datasets.write_dataset(tmp_path_factory.mktemp("data"), {"test": records}, LABELS)


@pytest.fixture(scope="module")
def answers(data):
    labels = np.array([record.label for record in data.read("test")])
    sure = np.linspace(0.5, 0.9, len(labels))
    rows = [np.where(np.arange(3) == label, p, (1 - p) / 2) for label, p in zip(labels, sure, strict=True)]
    rows[4] = rows[4][::-1] if labels[4] != 1 else np.roll(rows[4], 1)  # one mistake
    ids = [record.id for record in data.read("test")]
    return Predictions(ids=ids, labels=labels, names=LABELS, log_probabilities=np.log(np.array(rows)))


@pytest.fixture(scope="module")
def exports(data, answers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    for name, seed in (("one", 1), ("other", 2)):
        export_classifier(
            classifier(seed), labels=LABELS, preprocess="unit", view=View(resize="crop"), directory=folder / name,
            golden=choose_golden(answers, data, "test"), **SIZE,
        )  # fmt: skip
    return folder


@pytest.fixture
def export(exports, tmp_path):
    shutil.copytree(exports / "one", tmp_path / "export")
    return tmp_path / "export"


def verify(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "trainer.verify", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_surest_right_answers_of_every_label_are_chosen(data, answers):
    chosen = choose_golden(answers, data, "test", most=6)
    place = {key: index for index, key in enumerate(answers.ids)}
    assert sorted(image.label for image in chosen) == sorted(LABELS * 2)
    for label, name in enumerate(LABELS):
        right = [at for at in range(12) if answers.labels[at] == label and answers.correct[at]]
        surest = sorted(right, key=lambda at: -answers.confidence[at])[:2]
        assert [place[image.id] for image in chosen if image.label == name] == surest
    every = choose_golden(answers, data, "test")
    assert len(every) == 11, "all but the mistake"


def test_no_right_answer_no_golden_image(data, answers):
    wrong = Predictions(
        ids=answers.ids,
        labels=(answers.predicted + 1) % 3,
        names=LABELS,
        log_probabilities=answers.log_probabilities,
    )
    assert choose_golden(wrong, data, "test") == []


def test_every_form_answers_as_the_trained_model(exports, tmp_path):
    done = verify(exports / "one", f"--beside={exports / 'other'}", f"--output={tmp_path / 'found.json'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [form["form"] for form in found["forms"]] == ["saved_model", "model.keras", "model.tflite"]
    for form in found["forms"]:
        assert not form["problem"]
        assert form["images"] == 11
        assert form["difference"] < 1e-4
        assert form["bytes"] > 10_000
    assert len(found["golden"]) == 11
    assert min(found["milliseconds"]) > 0
    assert "answers 11 golden images as it should" in done.stdout


@pytest.mark.slow
def test_forms_that_answer_otherwise_are_named(export, exports, tmp_path):
    shutil.copy(exports / "other" / "model.tflite", export / "model.tflite")
    (export / "model.keras").write_bytes(b"PK")
    done = verify(export, f"--output={tmp_path / 'found.json'}")
    assert done.returncode == 65
    assert done.stderr.strip().endswith(
        "model.keras, model.tflite cannot be trusted; see above, and export the model again"
    )
    assert "Traceback" not in done.stderr
    saved_model, keras, tflite = json.loads((tmp_path / "found.json").read_text())["forms"]
    assert not saved_model["problem"]
    assert "cannot be asked by a program that has nothing of this project" in keras["problem"]
    assert "differs from the trained model by" in tflite["problem"]


@pytest.mark.slow
def test_other_pixels_than_in_training_are_found(export):
    spec = json.loads((export / "preprocess.json").read_text())
    (export / "preprocess.json").write_text(json.dumps(spec | {"resize": "stretch"}))
    done = verify(export)
    assert done.returncode == 65
    assert "model.keras, model.tflite cannot be trusted" in done.stderr


@pytest.mark.slow
def test_photos_of_the_user_are_asked_about(export, tmp_path):
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    file = io.BytesIO()
    Image.new("RGB", (30, 30)).save(file, "PNG")
    (tmp_path / "photos" / "ant" / "1.png").write_bytes(file.getvalue())
    (tmp_path / "photos" / "ant" / "2.jpg").write_bytes(b"no image")
    done = verify(export, f"--ask={tmp_path / 'photos'}", f"--output={tmp_path / 'found.json'}")
    assert done.returncode == 0, done.stderr
    first, second = json.loads((tmp_path / "found.json").read_text())["asked"]
    assert first["label"] == second["label"] == "ant"
    assert first["predicted"] in LABELS
    assert second["predicted"] == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda export: shutil.rmtree(export / "golden"),
            "golden.json: no such file, so there is nothing to ask about",
        ),
        (lambda export: (export / "golden" / "golden.json").write_text("[{"), "golden.json: damaged"),
        (lambda export: shutil.rmtree(export / "saved_model"), "no exported model there"),
    ],
)
def test_what_is_no_whole_export_is_said(export, change, message):
    change(export)
    done = verify(export)
    assert done.returncode in (64, 65)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "got 0 models; one is wanted"),
        (("nowhere",), "nowhere: no exported model there"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    done = verify(*arguments)
    assert done.returncode == 64
    assert message in done.stderr


@pytest.mark.slow
def test_a_photo_that_lies_on_its_side_is_seen_upright_by_every_form(export):
    image = Image.fromarray(datasets.smooth_image(np.random.default_rng(5), height=90, width=60))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(export / "upright.png")
    image.transpose(Image.Transpose.ROTATE_90).save(export / "phone.jpg", quality=100, subsampling=0, exif=exif)
    for form in ("saved_model", "model.tflite"):
        command = [sys.executable, export / "ask.py", form, export / "upright.png", export / "phone.jpg"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        upright, phone = (json.loads(line)["probabilities"] for line in done.stdout.splitlines())
        np.testing.assert_allclose(phone, upright, atol=0.005)
        assert len(upright) == 3
