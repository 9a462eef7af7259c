import functools
import os
import pathlib
import signal
from collections.abc import Iterator

import pytest

from tests import clouds

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as beam_jobs.build_tfrecords does
# A shell has what it starts in its background ignore Ctrl-C, and all commands that the tests start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def gcs(tmp_path_factory, request) -> Iterator[str]:
    """Runs a store for gs:// and yields the URL of its bucket; it is built only where slow tests are run."""
    build = request.config.getoption("markexpr") != "not slow"
    folder = tmp_path_factory.mktemp("gcs")
    with clouds.gcs_server(folder, build=build) as environment, clouds.entered(environment):
        yield f"gs://{clouds.BUCKET}"


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Runs a store for s3:// and yields the URL of its bucket."""
    with clouds.s3_server() as environment, clouds.entered(environment):
        yield f"s3://{clouds.BUCKET}"
