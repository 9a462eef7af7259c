"""Makes calls at home in a notebook, which goes on after them: progress, pages in a cell, and Keras as it was."""

from __future__ import annotations

import contextlib
import gc
import html
import logging as std_logging
import os
import sys
from collections.abc import Iterator

from absl import logging

from pipeline.command import CommandError, storage_error
from pipeline.format import storage
from pipeline.log_lines import LogLines
from pipeline.native_output import native_output_hidden, show_native_output

# Where the first screen of a page of ours ends: those of runs and checks go on with what to do next, a dataset's with
# its classes.
_BELOW = ('<section id="next">', '<section id="balance">')
_PIXELS = 420  # of a cell's height


@contextlib.contextmanager
def guest() -> Iterator[None]:
    """Lets the block work in a process that is not its own: tells what it does, leaves Keras and logs as they were.

    What native libraries write is shown only if the block fails without saying why, or the process crashes.

    Raises:
      CommandError: also for what a store or a full disk has answered.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as commands do; TensorFlow reads it when it is imported
    with native_output_hidden(), _keras_as_it_was(), _told():
        try:
            yield
        except CommandError:
            raise
        except Exception as error:
            if known := storage_error(error):
                raise known from error
            show_native_output()
            raise


@contextlib.contextmanager
def _keras_as_it_was() -> Iterator[None]:
    """Sets Keras' precision back, which a run takes from its recipe, and frees what models held in circles."""
    before = keras.config.dtype_policy() if (keras := sys.modules.get("keras")) else None
    try:
        yield
    finally:
        if keras := sys.modules.get("keras"):
            keras.config.set_dtype_policy(before or keras.config.floatx())
        gc.collect()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Shows what is logged for people, a line each, where a notebook shows standard error."""
    logger, verbosity = std_logging.getLogger("absl"), logging.get_verbosity()
    handler = LogLines()
    # TensorFlow's housekeeping goes to the same log.
    handler.addFilter(lambda record: record.levelno > std_logging.INFO or "/tensorflow/" not in record.pathname)
    # Each run traces its steps once; TensorFlow counts them over all runs of the process.
    tensorflow = std_logging.getLogger("tensorflow")
    tensorflow.addFilter(_not_retracing)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    logging.set_verbosity(max(verbosity, logging.INFO))
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logger.removeHandler(handler)
        logger.propagate = propagates
        tensorflow.removeFilter(_not_retracing)


def _not_retracing(record: std_logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()


def in_a_cell(page: storage.Path) -> str:
    """Returns the first screen of a page of ours for a notebook's cell, in a frame: its style is its own."""
    text = storage.read_text(page)
    ends = [at for mark in _BELOW if (at := text.find(mark)) >= 0]
    first = text[: min(ends)] + "</main></body></html>" if ends else text
    return (
        f'<iframe srcdoc="{html.escape(first)}" sandbox style="width:100%;height:{_PIXELS}px;border:0"></iframe>'
        f"<p>{html.escape(os.fspath(page))}</p>"
    )
