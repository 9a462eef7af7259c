import functools

import pytest
import tensorflow as tf

from tests import two_cpus  # noqa: F401  (before any test uses a device)


@pytest.fixture(scope="session")
def xla():
    """Compiles a function with XLA."""
    compiled = functools.partial(tf.function, jit_compile=True)
    try:
        compiled(lambda x: x + 1.0)(tf.constant(0.0))
    except tf.errors.NotFoundError:
        pytest.skip("this TensorFlow has no XLA compiler for CPUs (tensorflow-tpu has none)")
    return compiled
