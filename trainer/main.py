r"""Trains a recipe on a dataset, evaluates, exports and reports.

    python -m trainer.main --data=DATA --recipe=photos --workdir=RUN
    python -m trainer.main --data=gs://bucket/DATA --recipe=cifar10_efficientnet --workdir=gs://bucket/RUN --tpu=local

Killed or pre-empted, the same command goes on where it stopped; a finished run is left alone.
"""

from __future__ import annotations

import os

from absl import flags
from etils import epath

from pipeline.command import ExitCode, run_command
from pipeline.format.manifest import open_dataset
from trainer.doctor_checks import find_chips
from trainer.request import Request
from trainer.tpu_slice import find_host, leaves_it_to_another

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "Dataset root (or one version directory) written by beam_jobs.build_tfrecords.")
flags.DEFINE_string("recipe", "photos", "Name of a recipe in trainer/recipes, or the config.json of an earlier run.")
flags.DEFINE_string("workdir", None, "Where the run lives: checkpoints, metrics, export, report.")
flags.DEFINE_string("backbone", None, "Another backbone than the recipe's own, e.g. efficientnet_b5.")
flags.DEFINE_string("weights", None, "imagenet, none, or the path of a weights file.")
flags.DEFINE_multi_string("set", [], "Overrides a value of the recipe: --set=phases.1.lr_max=0.01 (repeatable).")
flags.DEFINE_integer("seed", 0, "Seeds data order, augmentation, dropout and the head's first weights.", lower_bound=0)
flags.DEFINE_string("tpu", "", "local (TPU VM, Colab), a Cloud TPU's name or grpc://host:port. Empty: GPUs, else CPU.")
flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "tpu", "mirrored", "multiworker", "cpu"],
    "What trains: mirrored: all GPUs of this machine; multiworker: those of all machines in TF_CONFIG; auto: TPU with "
    "--tpu, several machines with TF_CONFIG, else all GPUs, else the CPU.",
)
flags.DEFINE_bool("skip_bad_records", False, "Train without damaged records, which are counted and logged.")
flags.DEFINE_bool("profile", False, "Write a TensorBoard profile of a few steps of every phase.")


def main(arguments: list[str]) -> int | None:
    del arguments
    data = open_dataset(FLAGS.data)
    workdir = epath.Path(FLAGS.workdir)
    request = Request(
        data=FLAGS.data,
        recipe=FLAGS.recipe,
        backbone=FLAGS.backbone,
        weights=FLAGS.weights,
        settings=tuple(FLAGS.set),
        seed=FLAGS.seed,
        skip_bad_records=FLAGS.skip_bad_records,
    )
    if request.is_done(workdir, data):
        print(f"nothing to do: {workdir} is finished (results: {workdir / 'result.json'})")
        return ExitCode.DONE
    if FLAGS.tpu not in ("", "local") and not FLAGS.tpu.startswith("grpc://"):
        os.environ.setdefault(
            "TPU_LOAD_LIBRARY", "0"
        )  # the chips belong to the TensorFlow servers of the slice's hosts
    if FLAGS.tpu and find_chips().on_bus and leaves_it_to_another(FLAGS.tpu, host := find_host(os.environ)):
        print(f"nothing to do on host {host.number} of {host.count}: the first host trains with the chips of all")
        return ExitCode.DONE

    from trainer.run import train_and_evaluate  # takes seconds: what comes before should not

    return train_and_evaluate(request, data, workdir, strategy=FLAGS.strategy, tpu=FLAGS.tpu, profile=FLAGS.profile)


if __name__ == "__main__":
    flags.mark_flags_as_required(["data", "workdir"])
    run_command(main)
