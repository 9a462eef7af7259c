import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.command import UsageError
from pipeline.modes import PREPROCESS
from pipeline.preprocess import assert_range, preprocess, value_range

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["tf", "caffe", "torch"])
def test_equals_keras(mode):
    expected = keras.applications.imagenet_utils.preprocess_input(PIXELS.astype(np.float32), mode=mode)
    np.testing.assert_allclose(preprocess(PIXELS, mode), expected, atol=1e-5)


def test_the_other_modes():
    np.testing.assert_array_equal(preprocess(PIXELS, "identity"), PIXELS.astype(np.float32))
    np.testing.assert_array_equal(preprocess(PIXELS, "lite"), (PIXELS.astype(np.float32) - 127) / 128)
    np.testing.assert_allclose(preprocess(PIXELS, "unit"), PIXELS / 255.0, atol=1e-7)


@pytest.mark.parametrize("mode", PREPROCESS)
def test_the_range_is_what_black_and_white_give(mode):
    extremes = preprocess(tf.constant([[[[0.0] * 3, [255.0] * 3]]]), mode).numpy()
    np.testing.assert_allclose((extremes.min(), extremes.max()), value_range(mode), atol=1e-5)
    assert_range(extremes, mode)


def test_values_out_of_range_and_nan_are_refused():
    for bad in ([300.0], [-3.0], [np.nan]):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"must lie in 0\.\.255"):
            assert_range(tf.constant(bad), "identity")
    with pytest.raises(tf.errors.InvalidArgumentError):
        assert_range(preprocess(PIXELS, "identity"), "tf")


def test_an_unknown_mode_gets_the_nearest_name():
    with pytest.raises(UsageError, match='Did you mean "caffe"'):
        preprocess(PIXELS, "cafe")
