"""Tests the lean twin against the model: folded batch normalisation and resizing by products, against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from trainer.models.classifier import build_classifier
from trainer.models.resizing import BilinearResize
from trainer.models.twin import lean_twin


def _lived_in(model):
    """Gives the model statistics, scales and shifts as training leaves them, in place of ones and zeros."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.weights:
                variable.assign(variable.numpy() + random.uniform(0.1, 0.6, variable.shape))
    return model


def _backbone(name, policy="float32"):
    keras.config.set_dtype_policy(policy)
    try:
        model = build_classifier(backbone=name, weights="none", num_classes=3, height=64, width=64, seed=0).backbone
    finally:
        keras.config.set_dtype_policy("float32")
    return _lived_in(model)


def _images(side=64):
    return tf.constant(np.random.default_rng(1).uniform(-1, 1, (4, side, side, 3)).astype(np.float32))


def _gradients(model, variables, images):
    with tf.GradientTape() as tape:
        outputs = model(images, training=False)
        weights = np.random.default_rng(2).normal(size=outputs.shape).astype(np.float32)
        loss = tf.reduce_sum(outputs * weights)
    return outputs.numpy(), [g.numpy() for g in tape.gradient(loss, [v.value for v in variables])]


def _kinds(model):
    return [type(layer).__name__ for layer in model.layers]


@pytest.mark.parametrize(
    "name",
    ["efficientnet_lite0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet_b0", "resnet50"))],
)
def test_gives_the_outputs_and_the_gradients_of_the_model(name):
    model = _backbone(name, "float64")  # in float32 a unit at the corner of its activation may fall on another side
    folded = lean_twin(model)
    assert "BatchNormalization" not in _kinds(folded)
    variables = model.trainable_variables
    expected, expected_gradients = _gradients(model, variables, _images())
    actual, gradients = _gradients(folded, variables, _images())
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
    for variable, gradient, reference in zip(variables, gradients, expected_gradients, strict=True):
        difference = np.linalg.norm(gradient - reference) / np.linalg.norm(reference)
        assert difference < 1e-5, (variable.path, difference)


def test_follows_the_variables_of_the_model():
    model = _backbone("efficientnet_lite0", "float64")
    folded = lean_twin(model)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() * 1.01)
    np.testing.assert_allclose(
        folded(_images(), training=False), model(_images(), training=False), rtol=1e-6, atol=1e-6
    )


@pytest.mark.slow
def test_every_phase_can_fold_anew():
    model = _backbone("efficientnet_lite0")
    lean_twin(model)
    assert "BatchNormalization" not in _kinds(lean_twin(model))
    assert _kinds(model).count("BatchNormalization") == 49


def test_leaves_what_cannot_be_folded():
    images = keras.Input((16, 16, 3))
    shared = layers.Conv2D(8, 3, name="feeds_two")(images)
    active = layers.Conv2D(8, 3, activation="relu", name="is_not_linear")(images)
    first = layers.BatchNormalization(name="comes_first")(images)
    biased = layers.Conv2D(8, 3, strides=2, dilation_rate=1, padding="valid", use_bias=True, name="biased")(first)
    folded_one = layers.BatchNormalization(center=False, name="no_beta")(biased)
    tall = layers.DepthwiseConv2D(3, depth_multiplier=2, name="multiplied")(images)
    depthwise = layers.BatchNormalization(scale=False, name="no_gamma")(tall)
    outputs = [
        layers.GlobalAveragePooling2D()(x)
        for x in (
            shared,
            layers.BatchNormalization(name="of_shared")(shared),
            layers.BatchNormalization(name="of_active")(active),
            folded_one,
            depthwise,
        )
    ]
    model = _lived_in(keras.Model(images, layers.Concatenate()(outputs)))
    folded = lean_twin(model)
    left = {layer.name for layer in folded.layers if isinstance(layer, layers.BatchNormalization)}
    assert left == {"comes_first", "of_shared", "of_active"}
    np.testing.assert_allclose(
        folded(_images(16), training=False), model(_images(16), training=False), rtol=1e-4, atol=1e-5
    )


def test_in_bfloat16_is_as_close_to_float32_as_the_model_itself():
    exact, model = _backbone("efficientnet_lite0"), _backbone("efficientnet_lite0", "mixed_bfloat16")
    folded = lean_twin(model)
    reference = exact(_images(), training=False).numpy()
    error, own = (
        np.linalg.norm(tf.cast(m(_images(), training=False), tf.float32) - reference) for m in (folded, model)
    )
    assert own > 1e-4 * np.linalg.norm(reference)  # they do compute in bfloat16
    assert error < 1.3 * own


@pytest.mark.parametrize(("height", "width", "resize_to"), [(32, 32, 224), (40, 33, 64), (64, 48, 50)])
def test_resizes_inside_the_model_as_tensorflow_does(height, width, resize_to):
    model = build_classifier(
        backbone="cifar10_cnn", weights="none", num_classes=3, height=height, width=width, resize_to=resize_to, seed=0
    ).backbone
    twin = lean_twin(model)
    assert "Resize" not in [type(operation).__name__ for operation in twin.operations]
    images = tf.constant(np.random.default_rng(1).uniform(0, 1, (4, height, width, 3)).astype(np.float32))
    resized = next(layer for layer in twin.layers if isinstance(layer, BilinearResize))(images)
    np.testing.assert_allclose(resized, tf.image.resize(images, (resize_to, resize_to)), atol=1e-5)
    np.testing.assert_allclose(twin(images, training=False), model(images, training=False), rtol=1e-3, atol=1e-5)


def test_a_classifier_has_one_lean_backbone_that_sees_later_weights():
    classifier = build_classifier(
        backbone="efficientnet_lite0", weights="none", num_classes=3, height=64, width=64, seed=0
    )
    lean = classifier.lean_backbone
    assert {id(v) for v in lean.variables} <= {id(v) for v in classifier.backbone.variables}
    before = lean(_images(), training=False).numpy()
    _lived_in(classifier.backbone)
    expected = classifier.backbone(_images(), training=False).numpy()
    assert np.abs(expected - before).max() > 0.1 * np.abs(expected).max()
    np.testing.assert_allclose(lean(_images(), training=False), expected, rtol=1e-3, atol=1e-4)
    assert classifier.lean_backbone is lean
