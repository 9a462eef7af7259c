"""Tests the warning of a starving accelerator."""

import time

import tensorflow as tf

from trainer.train.guards import images_per_second
from trainer.train.guards import starvation as advice


def test_the_rate_is_that_of_the_dataset():
    def slow(host):
        def batches():
            for _ in range(1000):
                time.sleep(0.01)
                yield 0

        return tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec((), tf.int32))

    rate = images_per_second(slow, batch_size=8, seconds=0.5)
    assert 80 < rate <= 800  # 100 batches of 8 a second at most; a busy machine is slower


def test_an_epoch_of_one_batch_has_no_rate():
    assert images_per_second(lambda host: tf.data.Dataset.from_tensors(0), batch_size=8, seconds=0.5) == 0


def test_only_a_training_that_waits_is_warned_of():
    assert advice(training=500, input_alone=1000) is None
    assert advice(training=500, input_alone=0) is None
    text = advice(training=950, input_alone=1000)
    assert "950 images/s, the input alone delivers 1000" in text
