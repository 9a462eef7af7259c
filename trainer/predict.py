r"""Classifies images with an exported model.

    python -m trainer.predict --run=RUN PHOTO.jpg FOLDER 'photos/**/*.jpg' https://… > predictions.csv
    python -m trainer.predict --model=MODELS/champion --threshold=0.9 --sort_into=SORTED FOLDER
    find . -name '*.jpg' | python -m trainer.predict --run=RUN --format=jsonl --top=3 -

A folder stands for all files below it, a quoted pattern for what it matches, - for the names on standard input.
--model takes an export, by its fastest form (LiteRT), or one form of it: a SavedModel, model.keras, model_int8.tflite …
Every image goes through the pixel policy of the dataset builder (orientation, colour modes, formats), so that the model
sees what it was trained on. What could not be read is told on stderr. If images lie in folders named like the model's
labels, the share of right answers is told at the end. Exit code 0 if at least one image could be read, 65 if none.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING

from absl import flags
from tqdm import tqdm

from pipeline.command import DataError, UsageError, print_next, run_command
from pipeline.format import storage
from pipeline.format.places import check_file, check_folder
from pipeline.progress import counted
from trainer.api.model import export_of, load_model
from trainer.serving.loading import find_form

if TYPE_CHECKING:
    from trainer.serving.predict import Answer
    from trainer.serving.tables import Wanted

_FORMATS = ("csv", "jsonl", "parquet", "html")
FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "A finished run: its export is used.")
flags.DEFINE_string("model", None, "An export directory, or one form in it.")
flags.DEFINE_string("output", None, "File to write to, in place of standard output; appears when all is done.")
flags.DEFINE_enum("format", None, _FORMATS, "Of the output; by the name of --output if not given, else csv.")
flags.DEFINE_integer("top", 1, "Labels told of each image.", lower_bound=1)
flags.DEFINE_float("threshold", 0.0, 'Below this probability the label is "unsure".', lower_bound=0.0, upper_bound=1.0)
flags.DEFINE_bool("features", False, "Tell the features of each image, too (jsonl, parquet).")
flags.DEFINE_integer("batch_size", 8, "Images classified at a time.", lower_bound=1)
flags.DEFINE_string("sort_into", None, "Folder: every image is copied into a folder of its label there.")


def main(arguments: list[str]) -> int | None:
    if not arguments:
        raise UsageError("no images; give files or folders: python -m trainer.predict --run=RUN PHOTOS")
    if bool(FLAGS.run) == bool(FLAGS.model):
        raise UsageError("give either --run=RUN or --model=DIR")
    kind = _format()
    if FLAGS.sort_into:
        check_folder(FLAGS.sort_into, flag="sort_into")
    find_form(place := FLAGS.model or export_of(FLAGS.run))  # before names are looked for
    from trainer.serving.photos import STDIN, find_images  # Pillow, and what decodes
    from trainer.serving.tables import Wanted

    names: Iterable[str] = find_images(arguments)
    if STDIN not in arguments:  # whose end nobody knows
        names = list(names)
        if not names:
            raise DataError(f"no files in {', '.join(arguments)}")
    model = load_model(place)
    wanted = Wanted(labels=model.labels, top=FLAGS.top, threshold=FLAGS.threshold, features=FLAGS.features)
    answers = model.stream(names, batch_size=FLAGS.batch_size)
    total = len(names) if isinstance(names, list) else None
    try:
        with _output() as file:
            read, asked = _write(counted(answers, "predicting", total=total), kind, file, wanted)
    except BrokenPipeError:  # `… | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None
    if not read:
        raise DataError(f"none of {asked} files could be read as an image" if asked else "no names on standard input")
    if sys.stderr.isatty():  # where a program reads the answers, nobody waits for advice
        print_next(
            "serve the model:",
            "python -m trainer.serve",
            FLAGS.model or storage.join(FLAGS.run, "export"),
            file=sys.stderr,
        )
    return None


def _format() -> str:
    """Returns the format of the output, by --format or the name of --output."""
    ending = os.path.splitext(FLAGS.output or "")[1].removeprefix(".").lower()
    kind = str(FLAGS.format or (ending if ending in _FORMATS else "csv"))
    if FLAGS.output:
        check_file(FLAGS.output, flag="output")
    elif kind in ("parquet", "html"):
        raise UsageError(f"--format={kind} is written to a file: give --output=FILE.{kind}")
    if FLAGS.features and kind not in ("jsonl", "parquet"):
        raise UsageError(f"--features go into jsonl or parquet, not {kind}: give --format=jsonl or --format=parquet")
    return kind


@contextlib.contextmanager
def _output() -> Iterator[IO[bytes]]:
    """Yields what the table is written to: standard output, or a file that takes its place at the end."""
    if not FLAGS.output:
        yield sys.stdout.buffer
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        storage.write_atomically(FLAGS.output, file.read(), shared=True)


def _write(answers: Iterator[Answer], kind: str, file: IO[bytes], wanted: Wanted) -> tuple[int, int]:
    """Writes the table, and failures to stderr; returns how many images could be read, and how many were asked for."""
    from trainer.serving.sorting import Score, sort_into
    from trainer.serving.tables import open_table

    read = asked = 0
    table, score = open_table(kind, file, wanted), Score(wanted.labels)
    for answer in answers:
        asked += 1
        if answer.problem:
            tqdm.write(f"{answer.name}: {answer.problem}", file=sys.stderr)
            continue
        if FLAGS.features and answer.features is None:
            raise UsageError("--features: this model does not tell them; model.tflite of a new export does")
        read += 1
        table.add(answer)
        score.add(answer.name, wanted.ranked(answer)[0][0])
        if FLAGS.sort_into:
            sort_into(pathlib.Path(FLAGS.sort_into), wanted.label(answer), answer.name, answer.file)
    table.close()
    for line in score.told():
        print(line, file=sys.stderr)
    return read, asked


if __name__ == "__main__":
    run_command(main, accepts_arguments=True, is_native=True)
