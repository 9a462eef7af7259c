"""Tests the training step against NumPy: sharpness-aware minimisation, and batch norm on several replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from pipeline.batching import HostSlice
from tests.trainer.runs import small_recipe
from trainer.models.classifier import Classifier
from trainer.train.feed import distribute, feature_batches
from trainer.train.step import TrainStep

EXAMPLES, FEATURES, CLASSES = 38, 5, 3
RATE, RHO, L2 = 0.5, 0.3, 0.1


def _data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32), rng.integers(0, CLASSES, EXAMPLES)


def _linear_model():
    inputs = keras.Input((FEATURES,))
    backbone = keras.Model(inputs, keras.layers.Identity()(inputs), name="backbone")
    features = keras.Input((FEATURES,))
    head = keras.Model(features, keras.layers.Dense(CLASSES, name="logits")(features), name="head")
    head.set_weights([np.random.default_rng(1).normal(size=(FEATURES, CLASSES)), np.array([0.1, -0.2, 0.3])])
    return Classifier(backbone, head)


def _one_step(strategy, classifier_of, inputs, labels, *settings):
    """Trains the classifier by one SGD step at `RATE` on all examples, in order."""
    recipe = small_recipe(
        f"batch_size={EXAMPLES}", "optimizer.name=sgd", "optimizer.momentum=0", f"phases.1.l2={L2}", *settings
    )
    with strategy.scope():
        classifier = classifier_of()
        step = TrainStep(
            classifier=classifier,
            recipe=recipe,
            phase=recipe.phases[1],
            rates=np.array([RATE], np.float32),
            class_weights=np.ones(CLASSES, np.float32),
            strategy=strategy,
            seed=0,
        )

    def batches(host: HostSlice) -> tf.data.Dataset:
        return feature_batches(
            inputs, labels, order=np.arange(EXAMPLES), batch_size=EXAMPLES, skip_batches=0, host=host
        )

    step(iter(distribute(strategy, batches)), first_step=0, steps=1)
    return classifier


def _gradient(x, labels, kernel, bias):
    """Computes the gradient of the summed cross-entropy over the whole batch's size, in float64."""
    error = (softmax(x @ kernel + bias, axis=1) - np.eye(CLASSES)[labels]) / EXAMPLES
    return x.T @ error, error.sum(axis=0)


def _expected(x, labels, kernel, bias, *, pieces):
    """Computes SAM's gradient: every piece of the batch climbs by itself; the penalty is of the weights as they are."""
    total_kernel, total_bias = L2 * kernel, np.zeros(CLASSES)
    for part in np.split(np.arange(EXAMPLES), pieces):
        up_kernel, up_bias = _gradient(x[part], labels[part], kernel, bias)
        scale = RHO / np.sqrt(np.square(up_kernel).sum() + np.square(up_bias).sum())
        more = _gradient(x[part], labels[part], kernel + scale * up_kernel, bias + scale * up_bias)
        total_kernel, total_bias = total_kernel + more[0], total_bias + more[1]
    return total_kernel, total_bias


def _clipped(gradients, norm):
    return [g * min(1.0, norm / np.sqrt(sum(np.square(g).sum() for g in gradients))) for g in gradients]


@pytest.mark.parametrize(("replicas", "accumulate", "clip_norm"), [(1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 1, 0.2)])
def test_sharpness_aware_minimisation_is_the_papers(two_replicas, replicas, accumulate, clip_norm):
    strategy = two_replicas if replicas == 2 else tf.distribute.OneDeviceStrategy("CPU:0")
    x, labels = _data()
    settings = [f"sam_rho={RHO}", f"accumulate={accumulate}", f"optimizer.clip_norm={clip_norm}"]
    found = _one_step(strategy, _linear_model, x, labels, *settings).head.get_weights()
    before = [value.astype(np.float64) for value in _linear_model().head.get_weights()]
    gradients = _expected(x, labels, *before, pieces=replicas * accumulate)
    if clip_norm:
        gradients = _clipped(gradients, clip_norm)
    for value, start, gradient in zip(found, before, gradients, strict=True):
        np.testing.assert_allclose(value, start - RATE * gradient, atol=1e-6)
    if replicas * accumulate > 1:  # else the test could not tell one climb from several
        whole = _expected(x, labels, *before, pieces=1)
        assert np.abs(whole[0] - _expected(x, labels, *before, pieces=2)[0]).max() > 1e-3


def _normalised_model():
    inputs = keras.Input((FEATURES,))
    backbone = keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.9)(inputs), name="backbone")
    features = keras.Input((FEATURES,))
    head = keras.Model(features, keras.layers.Dense(CLASSES, name="logits")(features), name="head")
    return Classifier(backbone, head)


@pytest.mark.parametrize("rho", [0, RHO])
def test_replicas_share_their_statistics_of_batch_norm(two_replicas, rho):
    """Those that are saved, and evaluate on every replica, are the mean over the replicas' parts of the batch."""
    x, labels = _data()
    settings = ["phases.1.batch_norm=train", f"sam_rho={rho}"]
    backbone = _one_step(two_replicas, _normalised_model, x, labels, *settings).backbone
    mean, variance = (v.value for v in backbone.non_trainable_variables)
    parts = np.split(x.astype(np.float64), 2)
    for variable, start, of_batch in (
        (mean, 0, np.mean([part.mean(axis=0) for part in parts], axis=0)),
        (variance, 1, np.mean([part.var(axis=0) for part in parts], axis=0)),
    ):
        for copy in variable.values:
            np.testing.assert_allclose(copy.numpy(), 0.9 * start + 0.1 * of_batch, atol=1e-6)
