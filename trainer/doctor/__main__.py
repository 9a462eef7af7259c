r"""Says what is installed and whether training can work here; every problem comes with its fix.

    python -m trainer.doctor                               # this machine
    python -m trainer.doctor --run=gs://bucket/runs    # and whether runs can be written there

Exit codes: 0 training works (warnings allowed) · 64 something is wrong that the printed fix cures · 70 TensorFlow or
the training step failed for a reason that is not known here.
"""

from __future__ import annotations

from absl import flags

from pipeline.command import print_next, run_command
from trainer.devices.chips import spare_metadata_server
from trainer.doctor.checks import Status
from trainer.doctor.diagnosis import diagnose, summarize

flags.DEFINE_string("run", "", "Where runs are to be written; tried with a small file if given.")
flags.DEFINE_alias("workdir", "run")


def main(arguments: list[str]) -> int:
    del arguments
    spare_metadata_server()
    findings = []
    for finding in diagnose(flags.FLAGS.run):
        findings.append(finding)
        print(f"{finding.status.value:8} {finding.subject:14} {finding.text}", flush=True)
        if finding.fix:
            advice = "hint" if finding.status is Status.NOTE else "fix"
            print(f"{'':8} {'':14} {advice}: {finding.fix}", flush=True)
    text, code = summarize(findings)
    print(text)
    if not code:
        print_next("build a dataset:", "python -m beam_jobs.build_tfrecords", "PHOTOS", "--output=DATA")
    return code


if __name__ == "__main__":
    run_command(main)
