"""Tests backbones that users write: what they may return, what is said of those that will not do."""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.command import UsageError
from trainer.models import backbone_info
from trainer.models.backbones import check_size
from trainer.models.classifier import build_classifier
from trainer.models.twin import lean_twin
from trainer.serving.export import inference_model
from trainer.train.model import seed_dropout

BODY = """
import keras
from keras import layers

def tensor(images, *, image_size=24, preprocess="unit"):
    x = layers.Conv2D(4, 3, strides=2, use_bias=False)(images)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.2)(layers.ReLU()(x))
    return layers.Conv2D(6, 1)(x)

def of_images(images):
    return keras.Model(images, tensor(images))

def of_its_own(images):
    entry = keras.Input((None, None, 3))
    return keras.Model(entry, tensor(entry))

def nested(images):
    return layers.Conv2D(5, 1)(of_its_own(images)(images))

def sequential(images):
    return keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(4, 3), layers.ReLU()])

def unbuilt(images):
    return keras.Sequential([layers.Conv2D(4, 3), layers.ReLU()])

def mobilenet(images):
    return keras.applications.MobileNetV2(input_tensor=images, include_top=False, weights=None, alpha=0.35)
"""
KINDS = ("tensor", "of_images", "of_its_own", "nested", "sequential", "unbuilt", "mobilenet")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "nets.py"
    file.write_text(BODY)
    return file


def build(name, side=32, **more):
    settings = {"weights": "none", "num_classes": 3, "height": side, "width": side, "seed": 1, **more}
    return build_classifier(backbone=str(name), **settings)


def images(side=32):
    return np.random.default_rng(0).uniform(0, 1, (2, side, side, 3)).astype(np.float32)


def test_what_it_wants_is_read_off_its_defaults(file):
    info = backbone_info(f"{file}:tensor")
    assert (info.name, info.image_size, info.preprocess) == (f"{file}:tensor", 24, "unit")
    info = backbone_info(f"{file}:of_images")
    assert (info.image_size, info.preprocess) == (224, "identity")
    check_size(f"{file}:tensor", 5, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_result_trains_is_folded_and_exported(file, kind):
    classifier = build(f"{file}:{kind}")
    seed_dropout(classifier.backbone)
    backbone, head = classifier.backbone, classifier.head
    assert len(backbone.output.shape) == 2
    assert backbone.trainable_variables
    assert {v.path.partition("/")[0] for v in backbone.variables} == {"backbone"}
    for layer in backbone.variables:  # statistics and weights that folding has something to do with
        if layer.path.endswith(("moving_variance", "gamma")):
            layer.assign(layer + 0.5)
    features = backbone(images(), training=False)
    expected = np.asarray(head(features, training=False))
    np.testing.assert_allclose(lean_twin(backbone)(images(), training=False), features, rtol=1e-4, atol=1e-5)
    exported = inference_model(classifier, height=32, width=32, preprocess="unit")
    probabilities = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    np.testing.assert_allclose(exported(images() * 255, training=False), probabilities, rtol=1e-4, atol=1e-5)


def test_a_models_own_weights_are_kept(tmp_path):
    file = tmp_path / "loaded.py"
    file.write_text(
        "import keras\n"
        "def ones(images):\n"
        "    entry = keras.Input((8, 8, 3))\n"
        "    return keras.Model(entry, keras.layers.Conv2D(2, 1, kernel_initializer='ones')(entry))\n"
    )
    (kernel, _) = build(f"{file}:ones").backbone.get_weights()
    assert (kernel == 1).all()


def test_weights_of_a_file_are_read(file, tmp_path):
    first, second = build(f"{file}:tensor", seed=1), build(f"{file}:tensor", seed=2)
    first.backbone.save_weights(tmp_path / "mine.weights.h5")
    again = build(f"{file}:tensor", seed=2, weights=str(tmp_path / "mine.weights.h5"))
    assert not np.array_equal(first.backbone.get_weights()[0], second.backbone.get_weights()[0])
    np.testing.assert_array_equal(again.backbone.get_weights()[0], first.backbone.get_weights()[0])
    with pytest.raises(UsageError, match="is your own, with the weights that it gives its layers"):
        build(f"{file}:tensor", weights="imagenet")


@pytest.mark.slow
def test_paths_and_first_values_are_those_of_any_other_process(file):
    build(f"{file}:mobilenet")  # after which unnamed layers would be numbered on
    program = (
        "from trainer.models.classifier import build_classifier\n"
        "sizes = {'num_classes': 3, 'height': 32, 'width': 32}\n"
        f"c = build_classifier(backbone={f'{file}:tensor'!r}, weights='none', seed=1, **sizes)\n"
        "for v in c.backbone.variables: print(v.path, float(v.numpy().sum()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    here = [f"{v.path} {float(v.numpy().sum())}" for v in build(f"{file}:tensor").backbone.variables]
    assert done.stdout.splitlines() == here


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return None", "f: returns NoneType, not a feature map"),
        (
            "return keras.layers.Flatten()(images)",
            r"f: returns KerasTensor of the shape \(None, 768\), not a feature map",
        ),
        ("class M(keras.Model): pass\n    return M()", "a model of a class of its own has no layers to be seen"),
        ("return keras.Input((4, 4, 3))", "its feature map is not made from the images"),
        ("return keras.layers.Conv2D(2, 99)(images)", r"bad\.py:3: "),
        ("return images.no_such", r"bad\.py:3: AttributeError: "),
        ("raise RuntimeError('why')", r"bad\.py:3: RuntimeError: why"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(tmp_path, body, says):
    file = tmp_path / "bad.py"
    file.write_text(f"import keras\ndef f(images):\n    {body}\n")
    with pytest.raises(UsageError, match=says) as raised:
        build(f"{file}:f", side=16)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("default", "says"),
    [
        ("image_size='large'", "f: its default image_size='large' is no number of pixels"),
        (
            "preprocess='caffee'",
            'f: its default preprocess=\'caffee\': no preprocessing "caffee".* Did you mean "caffe"',
        ),
    ],
)
def test_wrong_defaults_are_named(tmp_path, default, says):
    file = tmp_path / "bad.py"
    file.write_text(f"def f(images, *, {default}):\n    return images\n")
    with pytest.raises(UsageError, match=says):
        backbone_info(f"{file}:f")
