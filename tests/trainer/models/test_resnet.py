"""Tests ResNet-34 against torchvision's, written down from its source with TensorFlow's plain operations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.command import UsageError
from tests.trainer.models import pth
from trainer.models.classifier import build_classifier

BLOCKS = {1: 3, 2: 4, 3: 6, 4: 3}
HEIGHT, WIDTH = 75, 97  # odd, because padding is where a port goes wrong


def random_state() -> dict[str, np.ndarray]:
    """Makes a state dict with torchvision's names and shapes, of a trained network's sizes."""
    generator = np.random.default_rng(0)
    state = {}

    def conv(name, out, into, kernel):
        weight = generator.normal(0, (2 / (out * kernel**2)) ** 0.5, (out, into, kernel, kernel))
        state[f"{name}.weight"] = weight.astype(np.float32)

    def norm(name, size):
        for part, low, high in (("weight", 0.5, 1), ("bias", -0.2, 0.2), ("running_mean", -0.2, 0.2)):
            state[f"{name}.{part}"] = generator.uniform(low, high, size).astype(np.float32)
        state[f"{name}.running_var"] = generator.uniform(0.5, 1.5, size).astype(np.float32)
        state[f"{name}.num_batches_tracked"] = np.array(7, np.int64)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    into = 64
    for stage, blocks in BLOCKS.items():
        out = 32 << stage
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            conv(f"{name}.conv1", out, into, 3)
            norm(f"{name}.bn1", out)
            conv(f"{name}.conv2", out, out, 3)
            norm(f"{name}.bn2", out)
            if into != out:
                conv(f"{name}.downsample.0", out, into, 1)
                norm(f"{name}.downsample.1", out)
            into = out
    state["fc.weight"] = generator.normal(0, 0.04, (1000, 512)).astype(np.float32)
    state["fc.bias"] = np.zeros(1000, np.float32)
    return state


def expected_features(x, state, *, training=False):
    """Computes torchvision's `forward` up to its pooling, [B, H, W, 3] → [B, h, w, 512]."""

    def conv(x, name, *, stride=1, padding=0):
        sides = [[padding, padding]] * 2
        kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
        return tf.nn.conv2d(x, kernel, stride, [[0, 0], *sides, [0, 0]])

    def norm(x, name):
        weight, bias, mean, variance = (
            state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        if training:
            mean, variance = tf.nn.moments(x, [0, 1, 2])
        return (x - mean) / tf.sqrt(variance + 1e-5) * weight + bias

    x = tf.nn.relu(norm(conv(x, "conv1", stride=2, padding=3), "bn1"))
    x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-np.inf), 3, 2, "VALID")
    for stage, blocks in BLOCKS.items():
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = tf.nn.relu(norm(conv(x, f"{name}.conv1", stride=stride, padding=1), f"{name}.bn1"))
            y = norm(conv(y, f"{name}.conv2", padding=1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in state:
                x = norm(conv(x, f"{name}.downsample.0", stride=stride), f"{name}.downsample.1")
            x = tf.nn.relu(x + y)
    return x.numpy()


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet34-b627a593.pth"
    path.write_bytes(pth.zip_pth(state))
    return path


@pytest.fixture(scope="module")
def classifier(file):
    return build_classifier(backbone="resnet34", weights=str(file), num_classes=2, height=HEIGHT, width=WIDTH, seed=0)


def feature_map(classifier) -> keras.Model:
    return keras.Model(classifier.backbone.inputs, classifier.backbone.get_layer("layer4_2_relu2").output)


IMAGES = np.random.default_rng(1).normal(0, 1, (2, HEIGHT, WIDTH, 3)).astype(np.float32)


def test_equals_torchvision(classifier, state):
    expected = expected_features(IMAGES, state)
    assert expected.shape == (2, 3, 4, 512)
    assert expected.std() > 0.1
    found = feature_map(classifier)(IMAGES, training=False).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.std())
    pooled = classifier.lean_backbone(IMAGES, training=False).numpy()
    np.testing.assert_allclose(pooled, expected.mean(axis=(1, 2)), rtol=1e-4, atol=1e-4 * expected.std())


def test_equals_torchvision_with_the_batch_s_statistics(classifier, state):
    before = classifier.backbone.get_layer("bn1").get_weights()
    found = feature_map(classifier)(IMAGES, training=True).numpy()
    expected = expected_features(IMAGES, state, training=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.std())
    after = classifier.backbone.get_layer("bn1").get_weights()
    kernel = state["conv1.weight"].transpose(2, 3, 1, 0)
    mean = tf.reduce_mean(tf.nn.conv2d(IMAGES, kernel, 2, [[0, 0], [3, 3], [3, 3], [0, 0]]), [0, 1, 2])
    np.testing.assert_allclose(after[2], 0.9 * before[2] + 0.1 * mean, atol=1e-4)


def test_has_torchvision_s_number_of_parameters(classifier, state):
    """torchvision says 21,797,672 with its top of 1,000 classes."""
    top = 512 * 1000 + 1000
    assert sum(a.size for n, a in state.items() if not n.endswith(("_mean", "_var", "tracked"))) == 21_797_672
    assert sum(variable.value.shape.num_elements() for variable in classifier.backbone.trainable_variables) == (
        21_797_672 - top
    )


def test_imagenet_says_where_the_weights_are(tmp_path, file):
    with pytest.raises(UsageError, match=r"--weights=resnet34-b627a593\.pth"):
        build_classifier(backbone="resnet34", weights="imagenet", num_classes=2, height=32, width=32, seed=0)
    with pytest.raises(UsageError, match="no parameter '_conv_stem.weight' that efficientnet_lite0 needs"):
        build_classifier(backbone="efficientnet_lite0", weights=str(file), num_classes=2, height=32, width=32, seed=0)
