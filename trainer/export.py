r"""Exports a trained classifier in every form that serves it.

    python -m trainer.export RUN [--output=DIR] [--formats=litert_int8,onnx,page]

DIR (default RUN/export) then holds

    saved_model/   TensorFlow Serving, tf.saved_model.load: encoded bytes → label, class_index, probabilities
    model.keras    Keras: RGB images of the training size, float32 0..255 [B, H, W, 3] → probabilities [B, C]
    model.tflite   LiteRT: the same function as model.keras; it also tells the features that it answers by
    model_int8.tflite   (litert_int8) the same in 8-bit integers: smaller and faster; only if it is shown to be as good
    model.onnx     (onnx, extra [onnx]) the same function as model.keras, from `image` to `probabilities`
    try.html       (page) one file to drop photos on, in a browser, offline; once before: make page-runtime
    labels.txt     label names, one a line, in the order of the probabilities; LiteRT and ONNX files hold it, too
    pixels.py      makes of an image file what the last two take, as preprocess.json says: Pillow and NumPy only
    ask.py         asks each form about image files; needs nothing of this project
    golden/        some images with the answers that are expected
    forms.json     size, time, agreement and accuracy of each form: a table in RUN/report.html
    reference.npz  answers to images that it was evaluated on, for `python -m retrain.drift`
    SHA256SUMS     of all of it, for `sha256sum --check`

golden/, forms.json and reference.npz take the run's dataset. `python -m trainer.verify DIR` asks every form about the
golden images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

from pipeline.command import CommandError, UsageError, print_next, run_command
from pipeline.format import kinds, storage
from pipeline.format.manifest import TEST, VALIDATION, DatasetVersion
from pipeline.format.places import check_folder, check_nothing_is_lost
from pipeline.predictions import Predictions, read_predictions
from trainer.devices.chips import spare_metadata_server
from trainer.models import backbone_info
from trainer.models.weights import KERAS_FILE, LABELS_FILE
from trainer.report.files import open_data_of
from trainer.request import FINISHED
from trainer.rundir import check_has_weights, load_run
from trainer.serving.forms import EXPORTED, INT8_FILE, ONNX_FILE, PAGE_FILE, PREPROCESS_FILE, check_forms
from trainer.serving.golden import choose_golden
from trainer.serving.litert import with_files
from trainer.serving.reference import write_reference

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "A finished run, as trainer.main makes it.")
flags.DEFINE_string("output", None, "Where to export to; RUN/export if not given.")
flags.DEFINE_list(
    "formats", [], "Forms beside saved_model, keras and litert, which are always there: litert_int8, onnx, page."
)
flags.DEFINE_bool("unfinished", False, "Export the best weights so far of a run that has not ended.")

_Add = Callable[[pathlib.Path], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Judged:
    """Holds the images that a run was evaluated on, with its answers."""

    data: DatasetVersion
    split: str
    answers: Predictions


def main(arguments: list[str]) -> int | None:
    del arguments
    run = FLAGS.run
    check_forms(FLAGS.formats)
    check_has_weights(run)
    finished = storage.exists(storage.join(run, FINISHED))
    if not (finished or FLAGS.unfinished):
        raise UsageError(
            f"--run={run}: this run has not ended; run trainer.main to its end, or --unfinished exports the best "
            "weights so far"
        )
    data = open_data_of(run, None) if "litert_int8" in FLAGS.formats else None
    directory = FLAGS.output or storage.join(run, "export")
    if FLAGS.output:
        check_nothing_is_lost(directory, flag="output", kind=kinds.MODEL, replaces=EXPORTED)
    check_folder(directory, flag="output")
    judged = _judged(run) if finished else None
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
        golden=choose_golden(judged.answers, judged.data, judged.split) if judged else [],
        also=_also(data, judged),
    )
    without = "the run's dataset or its answers to it are gone" if finished else "the run has not ended"
    print(f"exported to {directory}{'' if judged else f', without golden images: {without}'}")
    if judged and not FLAGS.output:
        from trainer.report.page import write_report

        write_report(run, judged.data)  # with the table of forms
    print_next("does every form answer alike?", "python -m trainer.verify", directory)
    return None


def _also(data: DatasetVersion | None, judged: _Judged | None) -> list[_Add]:
    """Lists what adds the forms that were asked for, what measures all, and what keeps answers for `retrain.drift`."""
    also: list[_Add] = []
    if data:
        also.append(lambda folder: _add_int8(folder, data))
    if "onnx" in FLAGS.formats:
        also.append(_add_onnx)
    if "page" in FLAGS.formats:
        also.append(lambda folder: _add_page(folder, judged.data.manifest.name if judged else _name_of(FLAGS.run)))
    if judged:
        also.append(lambda folder: _measure(folder, judged))
        also.append(lambda folder: write_reference(folder, judged.data, judged.split))
    return also


def _add_int8(folder: pathlib.Path, data: DatasetVersion) -> None:
    """Adds the form of 8-bit integers, if it is as good."""
    from trainer.serving.quantize import quantize

    found = quantize(folder, data)
    if found.why_not:
        print(f"{INT8_FILE} is not written: {found.why_not}")
        return
    (folder / INT8_FILE).write_bytes(with_files(found.content, _notes(folder)))
    print(
        f"{INT8_FILE}: {found.int8_right} of {found.images} test and validation images right, {found.float_right} as "
        "floats"
    )


def _add_onnx(folder: pathlib.Path) -> None:
    """Adds the ONNX form."""
    import keras

    from trainer.serving.to_onnx import to_onnx

    model = keras.models.load_model(folder / KERAS_FILE, compile=False)
    (folder / ONNX_FILE).write_bytes(to_onnx(model, _notes(folder)))


def _notes(folder: pathlib.Path) -> dict[str, str]:
    """Reads what goes into each form, too: whoever is handed a single file needs it."""
    return {name: (folder / name).read_text(encoding="utf-8") for name in (LABELS_FILE, PREPROCESS_FILE)}


def _name_of(run: str) -> str:
    return os.path.basename(run.rstrip("/"))


def _add_page(folder: pathlib.Path, title: str) -> None:
    """Adds the page, if what runs the model in a browser is there."""
    from trainer.serving.page.render import render_page
    from trainer.serving.page.runtime import default_folder, read_runtime

    runtime = read_runtime(default_folder())
    if runtime is None:
        print(
            f"{PAGE_FILE} is not written: LiteRT.js is not in {default_folder()}; `make page-runtime` (python -m "
            "trainer.serving.page) fetches it, once"
        )
        return
    page = render_page(folder, title=title, runtime=runtime)
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")
    print(f"{PAGE_FILE}: {len(page) / 1e6:.1f} MB, opens in a browser, offline")


def _measure(folder: pathlib.Path, judged: _Judged) -> None:
    from trainer.serving.measure import draw_sample, measure_forms

    for form in measure_forms(draw_sample(judged.answers, judged.data, judged.split))(folder):
        print(
            f"{form.form:<18} {form.bytes / 1e6:7.1f} MB {form.milliseconds:7.1f} ms an image, {form.right} of "
            f"{form.images} {judged.split} images right, {form.same} answered as the trained model does"
        )


def _judged(run: str) -> _Judged | None:
    """Finds what the run was evaluated on, and its answers: the test split, else validation."""
    for split in (TEST, VALIDATION):
        with contextlib.suppress(CommandError):
            return _Judged(data=open_data_of(run, None), split=split, answers=read_predictions(run, split))
    return None


if __name__ == "__main__":
    run_command(main, argument="run", needs=("run",), is_native=True)
