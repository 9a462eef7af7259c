r"""Scores an exported model, this run's or another's, on a split of a dataset.

    python -m trainer.evaluate --model=RUN/export --data=DATA --split=test --output=predictions.jsonl

Labels are compared by name: the model's may differ from the dataset's.
"""

from __future__ import annotations

from absl import flags

from pipeline.command import DataError, run_command
from pipeline.format.manifest import open_dataset
from pipeline.format.places import check_file
from trainer.devices.chips import spare_metadata_server
from trainer.serving.signature import find_saved_model

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "An export directory, as trainer.main and trainer.export write it.", required=True)
flags.DEFINE_string("data", None, "Dataset root, or one version directory.", required=True)
flags.DEFINE_string("split", "test", "Which split to score.")
flags.DEFINE_string("output", None, "The JSON lines file to write: id, label, predicted, probability.", required=True)


def main(arguments: list[str]) -> int | None:
    del arguments
    data = open_dataset(FLAGS.data)
    if not data.manifest.num_examples(FLAGS.split):
        raise DataError(f"{data.path}: split {FLAGS.split} has no examples")
    find_saved_model(FLAGS.model)
    check_file(FLAGS.output, flag="output")
    spare_metadata_server()
    from trainer.serving.score import score_export, write_predictions  # takes seconds: TensorFlow

    rows = score_export(FLAGS.model, data, FLAGS.split, batch_size=32)
    write_predictions(FLAGS.output, rows)
    hits = sum(row["label"] == row["predicted"] for row in rows)
    print(f"{FLAGS.split}: accuracy {hits / len(rows):.4f}, {len(rows)} images, predictions in {FLAGS.output}")
    return None


if __name__ == "__main__":
    run_command(main)
