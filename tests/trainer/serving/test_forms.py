"""Tests the forms that trainer.export makes on demand: 8-bit integers and ONNX, each by its own runtime."""

import re

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from pipeline.command import UsageError
from tests import datasets
from trainer.models import HeadConfig
from trainer.models.classifier import build_classifier
from trainer.serving import quantize as module
from trainer.serving.export import export_classifier, run_tflite
from trainer.serving.forms import check_forms
from trainer.serving.quantize import quantize
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
    return quantize(str(export), data)


def test_integers_take_the_place_of_floats(export, quantized):
    whole = (export / "model.tflite").read_bytes()
    assert len(quantized.content) < 0.4 * len(whole)
    interpreter = tf.lite.Interpreter(model_content=quantized.content)
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (entry["dtype"], result["dtype"]) == (np.float32, np.float32)
    kinds = [tensor["dtype"] for tensor in interpreter.get_tensor_details()]
    assert kinds.count(np.int8) > 0.5 * len(kinds)
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(run_tflite(quantized.content, images), run_tflite(whole, images), atol=0.05)


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
    session = onnxruntime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
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
