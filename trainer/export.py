r"""Exports a trained classifier in every form that serves it.

    python -m trainer.export --run=RUN [--output=DIR]

DIR (default RUN/export) then holds

    saved_model/   TensorFlow Serving, tf.saved_model.load: encoded bytes → label, class_index, probabilities
    model.keras    Keras: RGB images of the training size, float32 0..255 [B, H, W, 3] → probabilities [B, C]
    model.tflite   LiteRT: the same function as model.keras
    labels.txt     label names, one a line, in the order of the probabilities

saved_model/ resizes as evaluation does, with the recipe's `resize` and `eval_centre`; the other two are given images
that have been resized so.
"""

from __future__ import annotations

from absl import flags

from pipeline.command import run_command
from pipeline.format import storage
from pipeline.format.places import check_folder
from trainer.devices.chips import spare_metadata_server
from trainer.models import backbone_info
from trainer.rundir import check_finished, load_run

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
    export_classifier(
        classifier,
        labels=labels,
        height=recipe.image_size,
        width=recipe.image_size,
        preprocess=backbone_info(recipe.backbone).preprocess,
        view=recipe.view,
        directory=directory,
    )
    print(f"exported to {directory}")
    return None


if __name__ == "__main__":
    run_command(main)
