"""Tests all backbones: equality with keras.applications, stable variable paths, seeds, weights, what can go wrong."""

import http.server
import random
import re
import subprocess
import sys
import threading

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.command import UsageError
from pipeline.format import storage
from trainer.models import BACKBONES, HeadConfig, backbone_info, pretrained
from trainer.models.classifier import Classifier, build_classifier


def build(backbone: str, **changes) -> Classifier:
    settings = {"weights": "none", "num_classes": 3, "height": 64, "width": 64, "seed": 1}
    return build_classifier(backbone=backbone, **{**settings, **changes})


def paths(classifier: Classifier) -> list[str]:
    return [variable.path for variable in [*classifier.backbone.variables, *classifier.head.variables]]


def images(height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (2, height, width, 3)).astype(np.float32)


def randomise(model: keras.Model) -> None:
    """Gives a model weights as of a trained one: statistics that are not 0 and 1, and gates that do something."""
    generator = np.random.default_rng(1)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "variance")):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("beta", "mean", "bias")):
            variable.assign(generator.normal(0, 0.1, variable.shape))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg16", "resnet34", "resnet50"])
def test_lower_stages_are_those_that_end_in_maps_of_an_eighth_or_larger(name):
    layers = [layer for layer in build(name, height=224, width=224).backbone.layers if layer.weights]
    stages = [re.match(r"[a-z]+\d?", layer.name)[0] for layer in layers]
    ends = {stage: layer.output.shape[1] for stage, layer in zip(stages, layers, strict=True)}
    for stage, layer in zip(stages, layers, strict=True):
        assert bool(re.match(backbone_info(name).lower, layer.name)) == (ends[stage] >= 224 / 8), layer.name


# An odd size too, because "same" padding is where a port goes wrong.
@pytest.mark.parametrize(
    ("name", "size"),
    [("efficientnet_b0", (64, 64)), pytest.param("efficientnet_b2", (75, 97), marks=pytest.mark.slow)],
)
def test_efficientnet_equals_keras_applications(tmp_path, name, size):
    source = pretrained.APPLICATIONS[name](include_top=False, weights=None, input_shape=(*size, 3))
    randomise(source)
    # The published files hold the deviation where the variance belongs; Keras mends it with one more Rescaling that it
    # adds for weights="imagenet" only (tensorflow issue 49930). What it then computes is (x / 255 - mean) / deviation.
    normalization = next(layer for layer in source.layers if isinstance(layer, keras.layers.Normalization))
    values = [np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]) ** 2, np.array(1)]
    normalization.load_own_variables({str(i): value for i, value in enumerate(values)})
    file = tmp_path / "efficientnet_notop.h5"
    _save_legacy(source, file)

    ours = build(name, weights=str(file), height=size[0], width=size[1])
    expected = source(images(*size)).numpy().mean(axis=(1, 2))
    assert expected.std() > 1e-3
    np.testing.assert_allclose(ours.backbone(images(*size)).numpy(), expected, rtol=1e-3, atol=1e-4 * expected.std())


def _save_legacy(model: keras.Model, path) -> None:
    """Writes the layout of the published *_notop.h5 files."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{variable.name}:0".encode() for variable in layer.weights]
            group.attrs["weight_names"] = names
            for name, value in zip(names, layer.get_weights(), strict=True):
                group.create_dataset(name.decode(), data=value)


# Parameters of keras.applications' models without top; its EfficientNets count 7 more, those of Normalization.
PARAMETERS = {"efficientnet_b0": 4_049_571 - 7, "vgg16": 14_714_688, "resnet50": 23_587_712}
# Of the others: torchvision's without its top and with its statistics; by hand; read off the table.
PARAMETERS |= {"resnet34": 21_797_672 - 513_000 + 17_024, "cifar10_cnn": 3 * 9 * 64 + 64 + 3 * (64 * 9 * 64 + 64)}
PARAMETERS |= {f"efficientnet_lite{i}": backbone_info(f"efficientnet_lite{i}").parameters for i in range(3)}
PARAMETERS_OF_LARGE = {
    "efficientnet_b1": 6_575_239 - 7,
    "efficientnet_b2": 7_768_569 - 7,
    "efficientnet_b3": 10_783_535 - 7,
    "efficientnet_b4": 17_673_823 - 7,
    "efficientnet_b5": 28_513_527 - 7,
    "efficientnet_b6": 40_960_143 - 7,
    "efficientnet_b7": 64_097_687 - 7,
}


def check_size(name: str, parameters: int) -> None:
    classifier = build(name)
    assert classifier.backbone.count_params() == parameters == backbone_info(name).parameters
    assert classifier.backbone.output.shape == (None, backbone_info(name).features)


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_size_of_the_published_models(name, parameters):
    check_size(name, parameters)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), PARAMETERS_OF_LARGE.items())
def test_size_of_the_large_models(name, parameters):
    check_size(name, parameters)


def test_every_path_tells_backbone_from_head():
    for name in ("efficientnet_lite0", "efficientnet_b0", "vgg16", "resnet50", "cifar10_cnn"):
        classifier = build(name, head=HeadConfig(hidden=4, dropout=0.5))
        assert all(variable.path.startswith("backbone/") for variable in classifier.backbone.variables)
        assert [variable.path for variable in classifier.head.variables] == [
            "head/hidden/kernel",
            "head/hidden/bias",
            "head/dropout/seed_generator_state",
            "head/logits/kernel",
            "head/logits/bias",
        ]
        assert len(set(paths(classifier))) == len(paths(classifier))


_ANOTHER_PROCESS = """
from pipeline.command import run_command
from trainer.models import HeadConfig
from trainer.models.classifier import build_classifier
for name in ("efficientnet_b0", "resnet50"):
    c = build_classifier(backbone=name, weights="none", num_classes=3, height=64, width=64, seed=1,
                         head=HeadConfig(hidden=4, dropout=0.5))
    for v in [*c.backbone.variables, *c.head.variables]:
        print(v.path, float(abs(v.numpy()).sum()))
run_command(lambda _: build_classifier(backbone="efficientnet_b0", weights="imagenet", num_classes=2,
                                       height=64, width=64, seed=0) and 0)
"""


class _Refuse(http.server.BaseHTTPRequestHandler):
    def do_CONNECT(self):
        self.send_error(403)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def another_process(tmp_path_factory) -> subprocess.CompletedProcess:
    """Builds two models, then asks for a download, the real one of keras.applications, that a proxy refuses."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refuse) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        environment = {
            "KERAS_HOME": str(tmp_path_factory.mktemp("keras")),
            "https_proxy": f"http://127.0.0.1:{proxy.server_port}",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "PATH": "",
        }
        command = [sys.executable, "-c", _ANOTHER_PROCESS]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        proxy.shutdown()
    return done


@pytest.mark.slow
def test_another_process_builds_the_same_paths_and_values(another_process):
    build("efficientnet_b0")
    random.random()
    here = []
    for name in ("efficientnet_b0", "resnet50"):
        classifier = build(name, head=HeadConfig(hidden=4, dropout=0.5))
        variables = [*classifier.backbone.variables, *classifier.head.variables]
        here += [f"{v.path} {float(abs(v.numpy()).sum())}" for v in variables]
    assert another_process.stdout.splitlines()[: len(here)] == here


@pytest.mark.slow
def test_without_a_network_the_error_says_what_to_do(another_process):
    assert another_process.returncode == 64
    assert "Traceback" not in another_process.stderr
    error = another_process.stderr.strip().splitlines()[-1]
    assert error.startswith("error: cannot download the ImageNet weights of efficientnet_b0")
    assert "weights=FILE.h5" in error
    assert "efficientnet_lite0" in error


def test_seed_decides_the_head_and_leaves_random_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first, again = build("cifar10_cnn", seed=1), build("cifar10_cnn", seed=1)
    other = build("cifar10_cnn", seed=2)
    assert random.random() == expected
    for part in ("backbone", "head"):
        a, b, c = (getattr(classifier, part).get_weights() for classifier in (first, again, other))
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        assert not np.array_equal(a[0], c[0])


def test_the_heads_values_do_not_depend_on_the_backbones_weights():
    one, other = build("efficientnet_lite0"), build("efficientnet_lite0", weights="imagenet")
    np.testing.assert_array_equal(one.head.get_weights()[0], other.head.get_weights()[0])
    assert not np.array_equal(one.backbone.get_weights()[0], other.backbone.get_weights()[0])


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg16"])
def test_resize_inside_equals_resize_outside(name):
    inside = build(name, height=32, width=32, resize_to=64)
    outside = build(name)
    outside.backbone.set_weights(inside.backbone.get_weights())
    small = images(32, 32) / 127
    expected = outside.backbone(tf.image.resize(small, (64, 64))).numpy()
    np.testing.assert_allclose(inside.backbone(small).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_flatten_keeps_every_position():
    classifier = build("vgg16", head=HeadConfig(pooling="flatten", hidden=8))
    assert classifier.backbone.output.shape == (None, 2 * 2 * 512)
    assert classifier.head(classifier.backbone(images())).shape == (2, 3)


def test_mixed_precision_computes_in_bfloat16_and_answers_in_float32():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        classifier = build("efficientnet_b0", height=32, width=32, resize_to=64, head=HeadConfig(hidden=4, dropout=0.5))
    finally:
        keras.config.set_dtype_policy(policy)
    assert classifier.backbone.get_layer("top_conv").compute_dtype == "bfloat16"
    features = classifier.backbone(images(32, 32))
    assert features.dtype == tf.float32
    assert classifier.head(features, training=True).dtype == tf.float32
    assert {v.dtype for v in classifier.backbone.trainable_variables} == {"float32"}


def test_weights_saved_by_keras_come_back(tmp_path):
    source = build("cifar10_cnn", seed=1)
    file = tmp_path / "cnn.weights.h5"
    source.backbone.save_weights(file)
    loaded = build("cifar10_cnn", seed=2, weights=str(file))
    np.testing.assert_array_equal(loaded.backbone.get_weights()[0], source.backbone.get_weights()[0])
    storage.write_atomically("memory://weights/cnn.weights.h5", file.read_bytes())
    loaded = build("cifar10_cnn", seed=2, weights="memory://weights/cnn.weights.h5")
    np.testing.assert_array_equal(loaded.backbone.get_weights()[0], source.backbone.get_weights()[0])
    with pytest.raises(UsageError, match="memory://weights/absent.weights.h5: no such file"):
        build("cifar10_cnn", weights="memory://weights/absent.weights.h5")


def _write(path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_weights_that_do_not_fit_are_user_mistakes(tmp_path):
    vgg = tmp_path / "vgg.weights.h5"
    build("vgg16").backbone.save_weights(vgg)
    legacy = tmp_path / "vgg_notop.h5"
    _save_legacy(build("vgg16").backbone, legacy)
    cases = [
        ("cifar10_cnn", str(vgg), "it holds 26 arrays, the model 8"),  # VGG16's first four layers would fit
        ("resnet50", str(legacy), "does not fit resnet50"),
        ("vgg16", _write(tmp_path / "text.h5", b"no HDF5"), "does not fit vgg16"),
        ("vgg16", _write(tmp_path / "text.weights.h5", b"no HDF5"), "does not fit vgg16"),
        ("vgg16", _write(tmp_path / "weights.bin", b"?"), "no reader"),
        ("cifar10_cnn", _write(tmp_path / "weights.pth", b"?"), "no reader"),
        ("vgg16", str(tmp_path / "absent.h5"), "no such file"),
        ("vgg16", "imagnet", "weights is imagenet, none or"),
        ("cifar10_cnn", "imagenet", "no ImageNet weights"),
    ]
    for name, weights, message in cases:
        with pytest.raises(UsageError, match=message):
            build(name, weights=weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "efficientnet_b8"}, "no backbone.*Did you mean"),
        ({"height": 16}, "32 pixels or more, got 16×64.*resize_to=224"),
        ({"resize_to": 0}, "resize_to"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        build(**{"backbone": "efficientnet_lite0", **changes})


@pytest.mark.parametrize("bad", [{"pooling": "max"}, {"hidden": -1}, {"dropout": 1.0}])
def test_impossible_heads_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        HeadConfig(**bad)


def test_every_backbone_names_its_own_preprocessing():
    assert {name: info.preprocess for name, info in BACKBONES.items() if not name.startswith("efficientnet")} == {
        "vgg16": "caffe",
        "resnet34": "torch",
        "resnet50": "caffe",
        "cifar10_cnn": "unit",
    }
    sizes = [BACKBONES[f"efficientnet_b{i}"].image_size for i in range(8)]
    assert sizes == [224, 240, 260, 300, 380, 456, 528, 600]
    assert {BACKBONES[f"efficientnet_b{i}"].preprocess for i in range(8)} == {"identity"}
    assert {BACKBONES[f"efficientnet_lite{i}"].preprocess for i in range(3)} == {"lite"}
