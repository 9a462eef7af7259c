r"""Trains a recipe on a dataset, evaluates, exports and reports.

    python -m trainer.main --data=DATA --recipe=photos --workdir=RUN
    python -m trainer.main --data=gs://bucket/DATA --recipe=cifar10_efficientnet --workdir=gs://bucket/RUN --tpu=local

Killed or pre-empted, the same command goes on where it stopped; a finished run is left alone.
"""

from __future__ import annotations

from absl import flags

from pipeline.cli import run_command

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "Dataset root (or one version directory) written by beam_jobs.build_tfrecords.")
flags.DEFINE_string("recipe", "photos", "Name of a recipe in trainer/recipes, or the config.json of an earlier run.")
flags.DEFINE_string("workdir", None, "Where the run lives: checkpoints, metrics, export, report.")
flags.DEFINE_string("backbone", None, "Another backbone than the recipe's own, e.g. efficientnet_b5.")
flags.DEFINE_string("weights", None, "imagenet, none, or the path of a weights file.")
flags.DEFINE_multi_string("set", [], "Overrides a value of the recipe: --set=phases.1.lr_max=0.01 (repeatable).")
flags.DEFINE_integer("seed", 0, "Seeds data order, augmentation, dropout and the head's first weights.", lower_bound=0)
flags.DEFINE_string("tpu", "", "local (TPU VM, Colab), a Cloud TPU's name or grpc://host:port. Empty: GPUs, else CPU.")


def main(arguments: list[str]) -> int | None:
    del arguments
    from trainer import run  # TensorFlow takes seconds to import: --help and flag errors should not

    return run.run(
        data_path=FLAGS.data,
        recipe_name=FLAGS.recipe,
        workdir=FLAGS.workdir,
        backbone=FLAGS.backbone,
        weights=FLAGS.weights,
        assignments=FLAGS.set,
        seed=FLAGS.seed,
        tpu=FLAGS.tpu,
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["data", "workdir"])
    run_command(main)
