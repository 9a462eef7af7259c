r"""Evaluates a run by what it has answered, or scores an exported model on a split of a dataset.

    python -m trainer.evaluate RUN [--split=test] [--output=figures.json]
    python -m trainer.evaluate --model=RUN/export --data=DATA --split=test --output=predictions.jsonl

The first reads files only: accuracy and its interval, top-k, macro-F1, log-loss, Brier score, calibration before and
after the temperature, average precision, how many images can be answered at 95 % right, and how dark, blurred and small
images fare, if the run's dataset is still there. With --data of other images, or --tta, it asks the run's model about
them and tells the same. The second asks an exported model. Labels are compared by name: the model's may differ from the
dataset's, and an image of a label that it does not know counts as a mistake.
"""

from __future__ import annotations

import json

from absl import flags

from pipeline.command import DataError, UsageError, print_next, run_command
from pipeline.format import storage
from pipeline.format.manifest import VALIDATION, DatasetVersion, open_dataset
from pipeline.format.places import check_file
from pipeline.format.rows import known_images
from pipeline.predictions import Predictions, read_predictions
from trainer.devices.chips import spare_metadata_server
from trainer.report.evaluation import figures, lines
from trainer.report.files import open_data_of, read_json
from trainer.serving.signature import find_saved_model

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "A finished run, to be evaluated by its predictions.")
flags.DEFINE_string("model", None, "An export directory, as trainer.main and trainer.export write it, to be asked.")
flags.DEFINE_string("data", None, "Dataset root, or one version directory; with --run by default the run's own.")
flags.DEFINE_string("split", "test", "Which split to score.")
flags.DEFINE_bool("tta", False, "With --run: asks its model about every image and its mirror image.")
flags.DEFINE_string(
    "output",
    None,
    "With --run the figures to write; with --model what it answers: FILE.npz with all probabilities, or JSON lines of "
    "id, label, predicted, probability.",
)


def main(arguments: list[str]) -> int | None:
    del arguments
    if (FLAGS.run is None) == (FLAGS.model is None):
        raise UsageError("give either --run=RUN or --model=RUN/export (--help lists the flags)")
    if FLAGS.output:
        check_file(FLAGS.output, flag="output")
    if FLAGS.run is None:
        _score_model()
    else:
        _evaluate_run()
    return None


def _score_model() -> None:
    for name in ("data", "output"):
        if not FLAGS[name].value:
            raise UsageError(f"--model={FLAGS.model} needs --{name} (--help lists the flags)")
    if FLAGS.tta:
        raise UsageError("--tta is for --run")
    data = open_dataset(FLAGS.data)
    _require_examples(data, FLAGS.split)
    find_saved_model(FLAGS.model)
    spare_metadata_server()
    from trainer.serving.score import prediction_rows, score_export, write_predictions  # takes seconds: TensorFlow

    found, labels = score_export(FLAGS.model, data, FLAGS.split, batch_size=32)
    if FLAGS.output.endswith(".npz"):
        storage.write_atomically(FLAGS.output, found.to_bytes(), shared=True)
    else:
        write_predictions(FLAGS.output, prediction_rows(found, labels))
    accuracy = found.correct.mean()
    print(f"{FLAGS.split}: accuracy {accuracy:.4f}, {len(labels)} images, predictions in {FLAGS.output}")
    print_next("serve it:", "python -m trainer.serve", FLAGS.model)


def _require_examples(data: DatasetVersion, split: str) -> None:
    if not data.manifest.num_examples(split):
        raise DataError(f"{data.path}: split {split} has no examples")


def _evaluate_run() -> None:
    found, data = _answers()
    validation = _read_own(VALIDATION)
    if validation and set(validation.ids) == set(found.ids):
        validation = None
    evaluated = figures(found, split=FLAGS.split, validation=validation, data=data)
    print("\n".join(lines(evaluated, split=FLAGS.split)))
    if FLAGS.output:
        storage.write_atomically(FLAGS.output, json.dumps(evaluated.to_dict(), indent=2) + "\n", shared=True)
    print_next("is another run better?", "python -m trainer.compare", FLAGS.run, "ANOTHER_RUN")


def _answers() -> tuple[Predictions, DatasetVersion | None]:
    """Returns what the run's model answers, and the dataset; None where that has moved: it tells a few lines only."""
    if not FLAGS.data and not FLAGS.tta:
        found = read_predictions(FLAGS.run, FLAGS.split)
        try:
            return found, open_data_of(FLAGS.run, None)
        except (UsageError, DataError):
            return found, None
    data = open_data_of(FLAGS.run, FLAGS.data)
    own = _read_own(FLAGS.split)
    same = own is not None and _same_images(own, data)
    if own is not None and same and not FLAGS.tta:
        return own, data
    if FLAGS.data and not same:
        data = open_dataset(FLAGS.data)  # another one: what is current there, whatever the run's version was called
    return _asked(data), data


def _read_own(split: str) -> Predictions | None:
    """Reads what the run has answered; None where it has not been asked about such a split."""
    try:
        return read_predictions(FLAGS.run, split)
    except UsageError:
        return None


def _same_images(found: Predictions, data: DatasetVersion) -> bool:
    known = known_images(data, split=FLAGS.split)
    of_split = sorted(zip(known.ids, known.labels, strict=True))
    return of_split == sorted(zip(found.ids, (found.names[label] for label in found.labels), strict=True))


def _asked(data: DatasetVersion) -> Predictions:
    """Asks the run's model."""
    spare_metadata_server()
    _require_examples(data, FLAGS.split)
    temperature = read_json(storage.join(FLAGS.run, "result.json")).get("temperature", 1.0)
    from trainer.rundir import load_run
    from trainer.serving.answers import predict_split  # takes seconds: TensorFlow

    return predict_split(*load_run(FLAGS.run), data, FLAGS.split, temperature=temperature, mirrored=FLAGS.tta)


if __name__ == "__main__":
    run_command(main, argument="run", is_native=True)
