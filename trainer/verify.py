r"""Checks an exported model as whoever serves it will meet it.

    python -m trainer.verify RUN/export
    python -m trainer.verify MODELS/3 --beside=MODELS/champion --ask=PHOTOS --output=FILE.json

Every exported form is asked about the golden images in a fresh process that has nothing of this project, and must
answer as the trained model did. --beside=OTHER also asks about the other model's golden images, and measures both in
turn. --ask=PHOTOS (one folder a label) asks about photos of your own. Exit code 65 if a form answers otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from typing import Any

from absl import flags

from pipeline.command import DataError, UsageError, print_next, run_command
from pipeline.format import storage
from pipeline.format.local_copy import local_folder
from pipeline.format.places import check_file
from trainer.devices.chips import spare_metadata_server
from trainer.serving.forms import SAVED_MODEL
from trainer.serving.golden import FOLDER
from trainer.serving.signature import find_saved_model, load_signature
from trainer.serving.verify import (
    Known,
    ask,
    check_forms,
    golden_images,
    labelled_images,
    latencies,
    size_of,
)

FLAGS = flags.FLAGS
flags.DEFINE_string("beside", None, "Another exported model, to be compared with.")
flags.DEFINE_string("ask", None, "Folder of one folder a label: photos that the model is asked about, too.")
flags.DEFINE_string("output", None, "JSON file for what is found.")


def main(arguments: list[str]) -> int | None:
    if len(arguments) != 1:
        raise UsageError(f"got {len(arguments)} models; one is wanted: python -m trainer.verify RUN/export")
    if FLAGS.output:
        check_file(FLAGS.output, flag="output")
    for path in filter(None, (arguments[0], FLAGS.beside)):
        find_saved_model(path)
    with contextlib.ExitStack() as stack:
        export = pathlib.Path(stack.enter_context(local_folder(arguments[0])))
        beside = pathlib.Path(stack.enter_context(local_folder(FLAGS.beside))) if FLAGS.beside else None
        _verify(arguments[0], export, beside)
    return None


def _verify(name: str, export: pathlib.Path, beside: pathlib.Path | None) -> None:
    golden = golden_images(export)
    known = labelled_images(pathlib.Path(FLAGS.ask)) if FLAGS.ask else []
    spare_metadata_server()
    forms = []
    for form in check_forms(export, golden):
        forms.append(form)
        told = form.problem or f"answers {form.images} golden images as it should, to {form.difference:.1g}"
        print(f"{form.form:<18} {form.bytes / 1e6:7.1f} MB  {told}", flush=True)
    found = {"forms": [dataclasses.asdict(form) for form in forms], **_asked(export, beside, known)}
    if FLAGS.output:
        storage.write_atomically(FLAGS.output, json.dumps(found, indent=2, ensure_ascii=False) + "\n", shared=True)
    if broken := [form.form for form in forms if form.problem]:
        raise DataError(f"{name}: {', '.join(broken)} cannot be trusted; see above, and export the model again")
    print_next("serve it:", "python -m trainer.serve", name)


def _asked(export: pathlib.Path, beside: pathlib.Path | None, known: list[Known]) -> dict[str, Any]:
    """Asks the SavedModel about images of the user's and of the other model, and measures the two."""
    found: dict[str, Any] = {}
    if not (beside or known):
        return found
    signature = load_signature(export)
    images = {"asked": known}
    if beside and (beside / FOLDER).exists():
        images["golden"] = golden_images(beside)
    for name, of in images.items():
        answers = ask(signature, of)
        found[name] = [
            {"file": str(image.file), "id": image.id, "label": image.label, "predicted": answer}
            for image, answer in zip(of, answers, strict=True)
        ]
        right = sum(image.label == answer for image, answer in zip(of, answers, strict=True))
        if of:
            whose = "your photos" if name == "asked" else f"golden images of {beside}"
            print(f"{right} of {len(of)} {whose} are answered rightly")
    if beside:
        seconds = latencies(signature, load_signature(beside), golden_images(export))
        sizes = [size_of(place / SAVED_MODEL) for place in (export, beside)]
        found |= {"milliseconds": [1e3 * one for one in seconds], "bytes": sizes}
        print(
            f"an image takes {1e3 * seconds[0]:.1f} ms, {beside} {1e3 * seconds[1]:.1f} ms (medians, in turn); "
            f"{sizes[0] / 1e6:.1f} MB, {sizes[1] / 1e6:.1f} MB"
        )
    return found


if __name__ == "__main__":
    run_command(main, accepts_arguments=True, is_native=True)
