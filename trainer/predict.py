r"""Classifies image files with an exported model: writes CSV to stdout, what could not be read to stderr.

    python -m trainer.predict --run=RUN PHOTO.jpg FOLDER… > predictions.csv
    python -m trainer.predict --model=MODELS/champion FOLDER…

--model takes an export, by its fastest form (LiteRT), or one form of it: a SavedModel, model.keras, model_int8.tflite …
A folder stands for all files below it. Every image goes through the pixel policy of the dataset builder (orientation,
colour modes, formats), so that the model sees what it was trained on. Exit code 0 if at least one image could be read,
65 if none.
"""

from __future__ import annotations

import os
import sys
import warnings

from absl import flags

from pipeline.command import DataError, UsageError, run_command
from pipeline.format import storage
from trainer.devices.chips import spare_metadata_server
from trainer.rundir import read_config
from trainer.serving.loading import find_model, load_model

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "A finished run, the --workdir of trainer.main: its export is used.")
flags.DEFINE_string("model", None, "An export directory, or one form in it.")


def main(arguments: list[str]) -> int | None:
    if not arguments:
        raise UsageError("no images; give files or folders: python -m trainer.predict --run=RUN PHOTOS")
    if bool(FLAGS.run) == bool(FLAGS.model):
        raise UsageError("give either --run=RUN or --model=DIR")
    model = FLAGS.model or storage.join(FLAGS.run, "export")
    if FLAGS.run and not storage.exists(model):
        read_config(FLAGS.run)  # says if it is no run
    found = find_model(model)
    spare_metadata_server()
    from trainer.serving.predict import find_files, write_csv  # Pillow, and what decodes

    warnings.filterwarnings("ignore", module="PIL")  # on damaged files, which are reported in one line each
    signature = load_model(found)
    files = find_files(arguments)
    try:
        read = write_csv(signature, files)
    except BrokenPipeError:  # `… | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None
    if not read:
        raise DataError(f"none of {len(files)} files could be read as an image")
    return None


if __name__ == "__main__":
    run_command(main, accepts_arguments=True)
