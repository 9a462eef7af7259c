r"""Exports a trained classifier in every form that serves it.

    python -m trainer.export --run=RUN [--output=DIR] [--formats=litert_int8,onnx]

DIR (default RUN/export) then holds

    saved_model/   TensorFlow Serving, tf.saved_model.load: encoded bytes → label, class_index, probabilities
    model.keras    Keras: RGB images of the training size, float32 0..255 [B, H, W, 3] → probabilities [B, C]
    model.tflite   LiteRT: the same function as model.keras
    model_int8.tflite   (litert_int8) the same in 8-bit integers: smaller and faster; only if it is shown to be as good
    model.onnx     (onnx, extra [onnx]) the same function as model.keras, from `image` to `probabilities`
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
from pipeline.format.local_copy import local_copy
from pipeline.format.manifest import TEST, VALIDATION, DatasetVersion
from pipeline.format.places import check_folder
from pipeline.predictions import read_predictions
from trainer.devices.chips import spare_metadata_server
from trainer.models import backbone_info
from trainer.models.weights import KERAS_FILE
from trainer.report.files import open_data_of
from trainer.rundir import check_finished, load_run
from trainer.serving.forms import INT8_FILE, ONNX_FILE, check_forms
from trainer.serving.golden import GoldenImage, choose_golden

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "A finished run: the --workdir of trainer.main.", required=True)
flags.DEFINE_string("output", None, "Where to export to; RUN/export if not given.")
flags.DEFINE_list(
    "formats", [], "Forms beside saved_model, keras and litert, which are always there: litert_int8, onnx."
)


def main(arguments: list[str]) -> int | None:
    del arguments
    run = FLAGS.run
    check_forms(FLAGS.formats)
    check_finished(run)
    data = open_data_of(run, None) if "litert_int8" in FLAGS.formats else None
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
    if data:
        _add_int8(directory, data)
    if "onnx" in FLAGS.formats:
        _add_onnx(directory)
    return None


def _add_int8(directory: str, data: DatasetVersion) -> None:
    """Adds the form of 8-bit integers, if it is as good."""
    from trainer.serving.quantize import quantize

    found = quantize(directory, data)
    if found.why_not:
        print(f"{INT8_FILE} is not written: {found.why_not}")
        return
    storage.write_atomically(storage.join(directory, INT8_FILE), found.content)
    print(
        f"{INT8_FILE}: {len(found.content) / 1e6:.1f} MB, {found.int8_right} of {found.images} test and validation "
        f"images right, {found.float_right} as floats"
    )


def _add_onnx(directory: str) -> None:
    """Adds the ONNX form."""
    import keras

    from trainer.serving.to_onnx import to_onnx

    with local_copy(storage.join(directory, KERAS_FILE)) as file:
        content = to_onnx(keras.models.load_model(file, compile=False))
    storage.write_atomically(storage.join(directory, ONNX_FILE), content)
    print(f"{ONNX_FILE}: {len(content) / 1e6:.1f} MB")


def _golden(run: str) -> list[GoldenImage]:
    """Chooses golden images from what the run was evaluated on, as the run itself does."""
    for split in (TEST, VALIDATION):
        with contextlib.suppress(CommandError):
            return choose_golden(read_predictions(run, split), open_data_of(run, None), split)
    return []


if __name__ == "__main__":
    run_command(main)
