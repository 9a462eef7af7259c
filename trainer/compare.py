r"""Compares two runs on the same images: which is better, as far as these images prove it, and where they differ.

    python -m trainer.compare RUN_A RUN_B [--split=test] [--output=comparison.html]

Reads the runs' predictions only; the page's pictures come from the dataset of the first run, if it is still there.
In place of a run, a file will do that `trainer.evaluate --model=… --output=FILE.npz` wrote; --data has the pictures.
"""

from __future__ import annotations

import os

from absl import flags

from pipeline.command import DataError, UsageError, print_next, run_command
from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion, open_dataset
from pipeline.format.places import check_file
from pipeline.predictions import Predictions, from_bytes, read_predictions
from trainer.report.comparison import compare
from trainer.report.comparison_page import verdict_of, write_comparison
from trainer.report.files import open_data_of

FLAGS = flags.FLAGS
flags.DEFINE_string("split", "test", "Which split to compare on.")
flags.DEFINE_string("data", None, "Where the dataset is now, if it was moved.")
flags.DEFINE_string("output", "comparison.html", "The page to write.")


def main(arguments: list[str]) -> int | None:
    if len(arguments) != 2:
        raise UsageError(f"got {len(arguments)} runs to compare; two are wanted: python -m trainer.compare RUN_A RUN_B")
    check_file(FLAGS.output, flag="output")
    one, other = map(_read, arguments)
    found = compare(one, other)
    names = _names(*arguments)
    write_comparison(
        FLAGS.output, found, (one, other), names=names, split=FLAGS.split, data=_data_of(arguments[0])
    )  # fmt: skip
    print(verdict_of(found, names))
    print(f"page: {FLAGS.output}")
    print_next("serve the one that you keep:", "python -m trainer.serve", "RUN/export")
    return None


def _read(given: str) -> Predictions:
    if not given.endswith(".npz"):
        return read_predictions(given, FLAGS.split)
    try:
        return from_bytes(storage.read(given), file=given, again="python -m trainer.evaluate --model=…")
    except FileNotFoundError as error:
        raise UsageError(f"{given}: no such file") from error


def _names(one: str, other: str) -> tuple[str, str]:
    """Returns what two runs are called: the ends of their paths that tell them apart."""
    paths = [path.rstrip("/").split("/") for path in (one, other)]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if names[0] != names[1]:
            return names[0], names[1]
    return os.fspath(one), os.fspath(other)


def _data_of(run: str) -> DatasetVersion | None:
    try:
        if run.endswith(".npz"):
            return open_dataset(FLAGS.data) if FLAGS.data else None
        return open_data_of(run, FLAGS.data)
    except (UsageError, DataError):
        if FLAGS.data:
            raise
        return None  # moved or gone: a page without pictures


if __name__ == "__main__":
    run_command(main, accepts_arguments=True)
