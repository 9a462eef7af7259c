"""Tests the forms that trainer.export makes on demand: 8-bit integers and ONNX, each by its own runtime."""

import concurrent.futures
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from pipeline.command import DataError, UsageError
from pipeline.predictions import Predictions
from tests import datasets
from trainer.models import HeadConfig
from trainer.models.classifier import build_classifier
from trainer.serving import quantize as module
from trainer.serving.export import export_classifier
from trainer.serving.forms import check_forms
from trainer.serving.litert import open_abreast, open_litert
from trainer.serving.loading import find_model, load_model
from trainer.serving.measure import draw_sample, measure_forms
from trainer.serving.quantize import quantize
from trainer.serving.signature import load_signature
from trainer.serving.to_onnx import to_onnx

LABELS = ["ant", "bee", "cat"]
SIZE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    random = np.random.default_rng(0)

    def split(count):
        images = [datasets.smooth_image(random, height=40, width=40) for _ in range(count)]
        return [datasets.record(datasets.jpeg(image), number % 3) for number, image in enumerate(images)]

    splits = {"train": split(30), "validation": split(20), "test": split(150)}
    return datasets.write_dataset(tmp_path_factory.mktemp("data"), splits, LABELS)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    classifier = build_classifier(
        backbone="cifar10_cnn", weights="none", num_classes=3, head=HeadConfig(hidden=32), seed=1, **SIZE
    )
    folder = tmp_path_factory.mktemp("export") / "export"
    export_classifier(classifier, labels=LABELS, preprocess="unit", directory=folder, **SIZE)
    return folder


@pytest.fixture(scope="module")
def quantized(export, data):
    return quantize(export, data)


def test_integers_take_the_place_of_floats(export, quantized):
    whole = (export / "model.tflite").read_bytes()
    assert len(quantized.content) < 0.4 * len(whole)
    interpreter = tf.lite.Interpreter(model_content=quantized.content)
    runner = interpreter.get_signature_runner()
    sides = (runner.get_input_details(), runner.get_output_details())
    assert [sorted(side) for side in sides] == [["image"], ["features", "probabilities"]]
    assert all(detail["dtype"] == np.float32 for side in sides for detail in side.values())
    kinds = [tensor["dtype"] for tensor in interpreter.get_tensor_details()]
    assert kinds.count(np.int8) > 0.5 * len(kinds)
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    found, expected = (open_litert(model)(images)["probabilities"] for model in (quantized.content, whole))
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_litert_answers_for_many_images_and_several_threads_as_for_each_alone(export):
    """Of 32 pixels a side, 64 are computed together."""
    images = np.random.default_rng(0).uniform(0, 255, (150, 32, 32, 3)).astype(np.float32)
    alone, abreast = open_litert(str(export / "model.tflite")), open_abreast(str(export / "model.tflite"), 2)
    expected = np.concatenate([alone(images[at : at + 1])["probabilities"] for at in range(len(images))])
    np.testing.assert_allclose(alone(images)["probabilities"], expected, atol=1e-6)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        batches = [list(images[at : at + 15]) for at in range(0, len(images), 15)]
        found = [answer["probabilities"] for answer in threads.map(abreast, batches * 3)]
    np.testing.assert_allclose(np.concatenate(found), np.tile(expected, (3, 1)), atol=1e-6)
    assert len(np.unique(expected.argmax(axis=1))) > 1 or np.ptp(expected) > 0.1


def test_litert_answers_with_the_features_that_the_head_is_given(export):
    model = keras.models.load_model(export / "model.keras", compile=False)
    ask = open_litert(str(export / "model.tflite"))
    for count in (3, 1):
        images = np.random.default_rng(count).uniform(0, 255, (count, 32, 32, 3)).astype(np.float32)
        found = ask(images)
        assert sorted(found) == ["features", "probabilities"]
        logits = model.get_layer("head")(found["features"], training=False)
        np.testing.assert_allclose(keras.ops.softmax(logits), model(images, training=False), atol=1e-5)


def test_a_litert_file_holds_labels_and_preprocessing_as_readers_of_its_metadata_expect(export):
    with zipfile.ZipFile(export / "model.tflite") as archive:
        assert archive.read("labels.txt").decode().splitlines() == LABELS
        assert json.loads(archive.read("preprocess.json")) == json.loads((export / "preprocess.json").read_text())
    tf.lite.Interpreter(model_path=str(export / "model.tflite")).allocate_tensors()


def test_litert_of_an_earlier_version_has_one_output(export, tmp_path):
    model = keras.models.load_model(export / "model.keras", compile=False)
    model.export(tmp_path / "one", format="tf_saved_model", verbose=False)
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "one")).convert()
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    found = open_litert(content)(images)
    assert sorted(found) == ["probabilities"]
    np.testing.assert_allclose(found["probabilities"], model(images, training=False), atol=1e-5)


def test_both_are_asked_about_test_and_validation(quantized):
    assert quantized.images == 170
    assert abs(quantized.int8_right - quantized.float_right) <= 5


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "no test or validation image"),
        ([(True, True)] * 100, "of 100 images it loses 0 and wins 0: .* that takes 149 images at least"),
        ([(True, True)] * 190 + [(True, False)] * 10, "of 200 images it loses 10 and wins 0"),
        ([(True, True)] * 200, "^$"),
    ],
)
def test_it_is_used_only_if_it_is_shown_to_be_as_good(answers, message):
    assert re.search(message, module._why_not(answers))


def test_onnx_answers_as_keras_does_for_any_number_of_images(export):
    model = keras.models.load_model(export / "model.keras", compile=False)
    content = to_onnx(model, {"labels.txt": "ant\nbee\ncat\n"})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["labels.txt"].split() == LABELS
    (entry,), (result,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.shape) == ("image", ["images", 32, 32, 3])
    assert (result.name, result.shape) == ("probabilities", ["images", 3])
    for count in (1, 5):
        images = np.random.default_rng(count).uniform(0, 255, (count, 32, 32, 3)).astype(np.float32)
        (found,) = session.run(["probabilities"], {"image": images})
        np.testing.assert_allclose(found, model(images, training=False), atol=1e-5)


def test_unknown_forms_are_refused():
    with pytest.raises(UsageError, match='no such form; known are saved_model, .*Did you mean "onnx"'):
        check_forms(["onxx"])
    check_forms(["saved_model", "litert_int8", "onnx"])


@pytest.mark.parametrize("name", ["model.tflite", "model.keras", "model.onnx", "saved_model", ""])
def test_every_form_is_loaded_by_its_path_and_answers_alike(export, name):
    (export / "model.onnx").write_bytes(to_onnx(keras.models.load_model(export / "model.keras", compile=False), {}))
    photos = [datasets.jpeg(datasets.smooth_image(np.random.default_rng(n), height=90, width=70)) for n in range(3)]
    expected = load_signature(export)(photos)
    ask = load_model(find_model(str(export / name)))
    for batch in (photos, photos[:1], photos):
        found = ask(batch)
        np.testing.assert_array_equal(found["label"], expected["label"][: len(batch)])
        np.testing.assert_allclose(found["probabilities"], expected["probabilities"][: len(batch)], atol=1e-5)
    with pytest.raises(ValueError, match="cannot decode it"):
        ask([photos[0], b"no image"])


def test_the_fastest_form_is_taken_and_needs_no_tensorflow(export, tmp_path):
    assert find_model(str(export)).endswith("model.tflite")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(datasets.jpeg(datasets.smooth_image(np.random.default_rng(0), height=50, width=50)))
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_module('trainer.predict', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "predict", f"--model={export}", photo],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "file,label,probability"
    assert done.stderr == ""


def test_an_export_that_does_not_say_how_it_sees_images_is_asked_by_its_saved_model(export, tmp_path):
    shutil.copytree(export, tmp_path / "old")
    (tmp_path / "old" / "preprocess.json").unlink()
    assert find_model(str(tmp_path / "old")).endswith("saved_model")
    with pytest.raises(UsageError, match=r"preprocess.json: no such file; it lies beside the model in an export"):
        load_model(find_model(str(tmp_path / "old" / "model.tflite")))
    with pytest.raises(UsageError, match=r"none.tflite: no such file"):
        find_model(str(tmp_path / "none.tflite"))


@pytest.mark.parametrize("name", ["model.tflite", "saved_model/saved_model.pb"])
def test_a_damaged_form_is_named_and_the_others_go_on(export, tmp_path, name):
    folder = shutil.copytree(export, tmp_path / "export")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    form = name.split("/")[0]
    with pytest.raises(DataError, match=f"export is damaged: {name} is not what was published; export the model again"):
        find_model(str(folder / form))
    find_model(str(folder / "model.keras"))


def test_forms_are_measured_on_images_whose_answers_are_known(export, data, tmp_path):
    folder = shutil.copytree(export, tmp_path / "export", ignore=shutil.ignore_patterns("*.onnx"))
    ids = [record.id for record in data.read("test")]
    labels = np.array([record.label for record in data.read("test")])
    encoded = [record.image for record in data.read("test")]
    answers = load_signature(folder)(encoded)["probabilities"]
    known = Predictions(ids=ids, labels=labels, names=LABELS, log_probabilities=np.log(answers))
    sample = draw_sample(known, data, "test", most=40)
    places = [ids.index(datasets.record(one, 0).id) for one in sample.encoded]
    assert len(places) == 40
    assert places == sorted(places)
    np.testing.assert_allclose(sample.expected, answers[places], rtol=1e-6)

    other = np.roll(sample.expected, 1, axis=1)  # a model that answers otherwise
    for expected, same in ((sample.expected, 40), (other, 0)):
        found = measure_forms(dataclasses.replace(sample, expected=expected))(folder)
        assert [form.form for form in found] == ["saved_model", "model.keras", "model.tflite"]
        for form in found:
            assert (form.images, form.same) == (40, same)
            assert form.right == (answers[places].argmax(axis=1) == labels[places]).sum()
            assert (form.difference < 1e-4) == bool(same)
            assert min(form.milliseconds, form.milliseconds_of_16) > 0
    assert json.loads((folder / "forms.json").read_text()) == [dataclasses.asdict(form) for form in found]
