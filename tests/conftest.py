import functools
import os
import pathlib

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as beam_jobs.build_tfrecords does


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Finds the real test data beside the checkout; tests that need them are skipped where they are absent."""
    path = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"the shared test data are not beside this checkout ({path.name}/ absent)")
    return path


@pytest.fixture(scope="session")
def xla():
    """Compiles a function with XLA."""
    import tensorflow as tf  # not above: most tests of the builder need none

    compiled = functools.partial(tf.function, jit_compile=True)
    try:
        compiled(lambda x: x + 1.0)(tf.constant(0.0))
    except tf.errors.NotFoundError:
        pytest.skip("this TensorFlow has no XLA compiler for CPUs (tensorflow-tpu has none)")
    return compiled
