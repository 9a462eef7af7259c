"""Says what `--strategy` and `--tpu` mean together, before any device is looked at. Free of TensorFlow."""

from __future__ import annotations

from pipeline.command import UsageError
from trainer.devices.chips import find_chips
from trainer.devices.cluster import Cluster
from trainer.devices.tpu.hosts import LOCAL

ADVICE = "run `python -m trainer.doctor`, or leave --tpu out to train on this machine's CPU or GPU"


def choose(kind: str, *, tpu: str, cluster: Cluster | None) -> str:
    """Returns what `--strategy` means with these other flags, of `request.STRATEGIES`: auto where devices decide.

    Raises:
      UsageError: they contradict one another, or `--tpu=local` is asked for where there is no TPU.
    """
    if tpu and kind not in ("auto", "tpu"):
        raise UsageError(f"--strategy={kind} and --tpu={tpu} contradict each other; leave one of them out")
    if kind == "multiworker" and not cluster:
        raise UsageError(
            "--strategy=multiworker needs the environment variable TF_CONFIG on every worker, naming two workers or "
            "more and which of them this is; --strategy=mirrored uses all GPUs of one machine"
        )
    chosen = kind if kind != "auto" else "tpu" if tpu else "multiworker" if cluster else "auto"
    if chosen == "tpu" and (tpu or LOCAL) == LOCAL and not find_chips().usable:
        raise UsageError(f"--tpu=local: no TPU on this machine (neither /dev/accel* nor /dev/vfio/*); {ADVICE}")
    return chosen
