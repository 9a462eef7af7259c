r"""Trains a recipe on a dataset, evaluates, exports and reports.

    python -m trainer.main --data=DATA --recipe=photos --workdir=RUN
    python -m trainer.main --data=gs://bucket/DATA --recipe=cifar10_efficientnet --workdir=gs://bucket/RUN --tpu=local

Killed or pre-empted, the same command goes on where it stopped; a finished run is left alone.
"""

from __future__ import annotations

import os

from absl import flags

from pipeline.command import ExitCode, run_command
from pipeline.format import storage
from pipeline.format.manifest import open_dataset
from trainer.devices.chips import find_chips, spare_metadata_server
from trainer.devices.tpu_slice import find_host, leaves_it_to_another
from trainer.request import STRATEGIES, Request, define_flags

FLAGS = flags.FLAGS
define_flags()
flags.DEFINE_string("workdir", None, "Where the run lives: checkpoints, metrics, export, report.", required=True)
flags.DEFINE_string("tpu", "", "local (TPU VM, Colab), a Cloud TPU's name or grpc://host:port. Empty: GPUs, else CPU.")
flags.DEFINE_enum(
    "strategy",
    "auto",
    STRATEGIES,
    "What trains: mirrored: all GPUs of this machine; multiworker: those of all machines in TF_CONFIG; auto: TPU with "
    "--tpu, several machines with TF_CONFIG, else all GPUs, else the CPU.",
)
flags.DEFINE_bool("skip_bad_records", False, "Train without damaged records, which are counted and logged.")
flags.DEFINE_bool("profile", False, "Write a TensorBoard profile of a few steps of every phase.")


def main(arguments: list[str]) -> int | None:
    del arguments
    data = open_dataset(FLAGS.data)
    workdir = FLAGS.workdir
    request = Request.from_flags(FLAGS)
    if request.is_done(workdir, data):
        print(f"nothing to do: {workdir} is finished (results: {storage.join(workdir, 'result.json')})")
        return ExitCode.DONE
    if FLAGS.tpu not in ("", "local") and not FLAGS.tpu.startswith("grpc://"):
        os.environ.setdefault(
            "TPU_LOAD_LIBRARY", "0"
        )  # the chips belong to the TensorFlow servers of the slice's hosts
    if FLAGS.tpu and find_chips().on_bus and leaves_it_to_another(FLAGS.tpu, host := find_host(os.environ)):
        print(f"nothing to do on host {host.number} of {host.count}: the first host trains with the chips of all")
        return ExitCode.DONE

    spare_metadata_server()
    from trainer.run import train_and_evaluate  # takes seconds: what comes before should not

    return train_and_evaluate(request, data, workdir, strategy=FLAGS.strategy, tpu=FLAGS.tpu, profile=FLAGS.profile)


if __name__ == "__main__":
    run_command(main)
