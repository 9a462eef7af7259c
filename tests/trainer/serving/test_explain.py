"""Tests what a run finds out about its mistakes: features, and where the model looked."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.runs import small_recipe, train
from trainer.serving.explain import _heat, explain
from trainer.train.plan import Plan


def test_the_part_that_the_answer_rests_on_is_hot():
    image = np.zeros((21, 28, 3), np.float32)
    image[6:9, 20:24] = 5.0

    def forward(images):  # sure of label 1 where that part is bright
        seen = tf.reduce_mean(images[:, 6:9, 20:24], axis=[1, 2, 3])
        return tf.nn.log_softmax(tf.stack([tf.zeros_like(seen), seen], axis=1))

    heat = _heat(image, 1, forward)
    assert heat.shape == (7, 7)
    assert np.unravel_index(heat.argmax(), heat.shape) == (2, 5)
    assert np.count_nonzero(heat > 0.01) == 1


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    recipe = small_recipe("phases.0.duration=1ep", "phases.1.duration=1ep", "phases.0.lr_max=0.0001")
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    run = tmp_path_factory.mktemp("explained")
    trainer, classifier, _ = train(tiny_data, recipe, run, strategy=strategy)
    plan = Plan(
        recipe=recipe, data=tiny_data, seed=0, run=run, class_weights=np.ones(3), stop_requested=lambda: False
    )  # fmt: skip
    return trainer.predictor, classifier, strategy, plan


@pytest.mark.slow
def test_the_first_images_are_explained(trained, tiny_data):
    predictor, classifier, strategy, plan = trained
    log_probabilities, labels = predictor.log_probabilities("test")
    found = explain(plan, classifier, predictor, strategy, "test", log_probabilities, labels)
    assert list(found.ids) == [record.id for record in tiny_data.read("test")]
    assert list(found.train_ids) == [record.id for record in itertools.islice(tiny_data.read("train"), 37)]
    assert found.train_labels.tolist() == [record.label for record in tiny_data.read("train")]
    head = classifier.head(found.features.astype(np.float32), training=False)
    np.testing.assert_allclose(tf.nn.log_softmax(head), log_probabilities, atol=1e-3)
    wrong = [i for i in range(13) if log_probabilities[i].argmax() != labels[i]]
    assert set(found.looked_at) <= {found.ids[i] for i in wrong}
    assert len(found.looked_at) == min(8, len(wrong)) == len(found.pictures) == len(found.heat)
    assert not (plan.run / "features").exists()
