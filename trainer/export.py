r"""Exports a trained classifier in every form that serves it.

    python -m trainer.export --run=RUN [--output=DIR]

DIR (default RUN/export) then holds

    saved_model/   TensorFlow Serving, tf.saved_model.load: encoded bytes → label, class_index, probabilities
    model.keras    Keras: RGB images of the training size, float32 0..255 [B, H, W, 3] → probabilities [B, C]
    model.tflite   LiteRT: the same function as model.keras
    labels.txt     label names, one a line, in the order of the probabilities
    pixels.py      makes of an image file what the last two take, as preprocess.json says: Pillow and NumPy only
    ask.py         asks each form about image files; needs nothing of this project
    golden/        some images with the answers that are expected, if the run's dataset is still there

`python -m trainer.verify DIR` asks every form about them.
"""

from __future__ import annotations

import contextlib

from absl import flags

from pipeline.command import CommandError, run_command
from pipeline.format import storage
from pipeline.format.manifest import TEST, VALIDATION
from pipeline.format.places import check_folder
from pipeline.predictions import read_predictions
from trainer.devices.chips import spare_metadata_server
from trainer.models import backbone_info
from trainer.report.files import open_data_of
from trainer.rundir import check_finished, load_run
from trainer.serving.golden import GoldenImage, choose_golden

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "A finished run: the --workdir of trainer.main.", required=True)
flags.DEFINE_string("output", None, "Where to export to; RUN/export if not given.")


def main(arguments: list[str]) -> int | None:
    del arguments
    run = FLAGS.run
    check_finished(run)
    directory = FLAGS.output or storage.join(run, "export")
    check_folder(directory, flag="output")
    spare_metadata_server()
    from trainer.serving.export import export_classifier  # takes seconds: TensorFlow

    classifier, recipe, labels = load_run(run)
    golden = _golden(run)
    export_classifier(
        classifier,
        labels=labels,
        height=recipe.image_size,
        width=recipe.image_size,
        preprocess=backbone_info(recipe.backbone).preprocess,
        view=recipe.view,
        directory=directory,
        golden=golden,
    )
    print(f"exported to {directory}{'' if golden else ', without golden images: the dataset is gone'}")
    return None


def _golden(run: str) -> list[GoldenImage]:
    """Chooses golden images from what the run was evaluated on, as the run itself does."""
    for split in (TEST, VALIDATION):
        with contextlib.suppress(CommandError):
            return choose_golden(read_predictions(run, split), open_data_of(run, None), split)
    return []


if __name__ == "__main__":
    run_command(main)
