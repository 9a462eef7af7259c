r"""Trains a recipe on a dataset, evaluates, exports and reports.

    python -m trainer.main DATA --run=RUN
    python -m trainer.main gs://bucket/DATA --run=gs://bucket/RUN --recipe=cifar10_efficientnet --tpu=local

Killed or pre-empted, the same command goes on where it stopped; a finished run is left alone.
"""

from __future__ import annotations

from absl import flags

from pipeline.command import TryAgainError, run_command
from trainer.devices.chips import find_chips
from trainer.devices.stopping import listening
from trainer.instead import set_instead
from trainer.request import CACHES, STRATEGIES, Request, define_flags
from trainer.training import Job, carry_out

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Folder of the run: checkpoints, metrics, export, report.")
flags.DEFINE_alias("workdir", "run")
define_flags()
flags.DEFINE_string(
    "tpu",
    "",
    "local: the chips of this machine (TPU VM, Colab). The TPU's name: those of all its hosts, each of which runs this "
    "command. grpc://host:port,…: those behind TensorFlow servers that run already. Empty: GPUs, else the CPU.",
)
flags.DEFINE_enum(
    "strategy",
    "auto",
    STRATEGIES,
    "What trains: mirrored: all GPUs of this machine; multiworker: those of all machines in TF_CONFIG; auto: TPU with "
    "--tpu, several machines with TF_CONFIG, else all GPUs, else the CPU.",
)
flags.DEFINE_enum(
    "cache",
    "auto",
    CACHES,
    "Where images lie between epochs; the pixels are the same within rounding. none: read anew; bytes, pixels: in "
    "memory, encoded or decoded; disk: a local copy; device: decoded on every TPU, GPU or CPU that trains, which "
    "renders them; auto: by size, and on the device on TPUs only.",
)
flags.DEFINE_string(
    "time_budget", None, "With --backbone=auto: backbones whose run would take longer (90s, 30m, 2h) are not taken."
)
flags.DEFINE_bool("skip_bad_records", False, "Train without damaged records, which are counted and logged.")
flags.DEFINE_bool("profile", False, "Write a TensorBoard profile of a few steps of every phase.")


def main(arguments: list[str]) -> int | None:
    del arguments
    job = Job(
        request=Request.from_flags(FLAGS),
        workdir=FLAGS.run,
        tpu=FLAGS.tpu,
        strategy=FLAGS.strategy,
        cache=FLAGS.cache,
        time_budget=FLAGS.time_budget,
        profile=FLAGS.profile,
    )
    with listening(on_cloud=find_chips().on_bus > 0) as wishes:
        try:
            carry_out(job, wishes)
        except TryAgainError as error:
            if wishes.stop:
                wishes.end(error)
            raise
    return None


if __name__ == "__main__":
    run_command(main, argument="data", needs=("data", "run"), instead=set_instead, is_native=True)
