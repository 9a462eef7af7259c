"""Tests the minimiser against SciPy's and against functions whose minimum is known."""

import numpy as np
import pytest
from scipy import optimize

from pipeline.linear.lbfgs import minimize


def test_the_minimum_of_an_ill_conditioned_quadratic():
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.normal(size=(30, 30)))
    matrix = turned @ np.diag(np.geomspace(1, 1e3, 30)) @ turned.T
    wanted = rng.normal(size=30)

    def objective(x):
        return float((x - wanted) @ matrix @ (x - wanted)) / 2, matrix @ (x - wanted)

    np.testing.assert_allclose(minimize(objective, np.zeros(30)), wanted, atol=1e-3)


@pytest.mark.parametrize("start", [(-1.2, 1.0), (3.0, -4.0)])
def test_a_curved_valley_as_scipy_finds_it(start):
    def objective(x):
        return float(optimize.rosen(x)), optimize.rosen_der(x)

    known = optimize.minimize(objective, np.array(start), jac=True, method="L-BFGS-B")
    np.testing.assert_allclose(minimize(objective, np.array(start)), known.x, atol=1e-3)


def test_it_ends_at_once_at_the_minimum_and_where_rounding_hides_every_descent():
    asked = []

    def flat(x):
        asked.append(x)
        return 1.0, np.full(3, 1e-3)  # the value does not follow its slope

    np.testing.assert_array_equal(minimize(flat, np.ones(3)), np.ones(3))
    assert len(asked) < 30
    np.testing.assert_array_equal(minimize(lambda x: (0.0, 0 * x), np.ones(3)), np.ones(3))
