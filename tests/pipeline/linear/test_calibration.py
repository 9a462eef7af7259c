import numpy as np
import pytest
from scipy import optimize, special
from sklearn.metrics import log_loss

from pipeline.linear.calibration import fit_temperature, with_temperature


def _answers(count, *, times, seed=0):
    """Logits of a model whose probabilities are true once its logits are divided by `times`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(count, 5))
    labels = np.array([rng.choice(5, p=p) for p in special.softmax(logits, axis=1)])
    return special.log_softmax(logits * times, axis=1).astype(np.float32), labels


@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_the_temperature_is_that_of_the_lowest_loss(times):
    logits, labels = _answers(5000, times=times)
    best = optimize.minimize_scalar(
        lambda t: log_loss(labels, special.softmax(logits.astype(float) / t, axis=1)),
        bounds=(0.1, 10),
        method="bounded",
    )
    assert fit_temperature(logits, labels) == pytest.approx(best.x, rel=0.01)
    assert fit_temperature(logits, labels) == pytest.approx(times, rel=0.1)


def test_few_images_of_which_all_are_right_do_not_make_it_certain():
    logits = np.log(np.full((10, 3), 0.1, np.float32) + 0.7 * np.eye(3, dtype=np.float32)[np.arange(10) % 3])
    assert 0.5 < fit_temperature(logits, np.arange(10) % 3) < 1


def test_many_examples_and_none():
    logits, labels = _answers(30_000, times=2)
    assert fit_temperature(logits, labels) == pytest.approx(2, rel=0.05)
    assert fit_temperature(logits[:0], labels[:0]) == 1


def test_with_temperature_is_softmax_of_divided_logits():
    logits, _ = _answers(50, times=1)
    scaled = with_temperature(logits, 2.5)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, special.log_softmax(logits / 2.5, axis=1), atol=1e-5)
