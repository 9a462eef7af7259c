"""Diagnoses this machine: yields what is found, and judges what TensorFlow said in a process of its own."""

from __future__ import annotations

import glob
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.command import ExitCode
from pipeline.format import storage
from trainer.devices.chips import Chips, find_chips
from trainer.doctor.checks import (
    TENSORFLOW_WHEELS,
    Finding,
    Status,
    check_chips,
    check_credentials,
    check_disk,
    check_libtpu,
    check_lock,
    check_memory,
    check_wheels,
    installed_versions,
)

_PROBE_SECONDS = 300  # the first program on a TPU is compiled; a CPU needs 10 to 20 s
_WRITE_SECONDS = 60  # TensorFlow itself would try an unreachable bucket for many minutes
_NOISE = re.compile(r"^(WARNING: All log|WARNING: Logging|I0000|=== Source|learning/|\s*$)")


def diagnose(workdir: str) -> Iterator[Finding]:
    """Yields what is found, the quick and the basic things first."""
    installed = installed_versions(importlib.metadata.distributions())
    chips = find_chips()
    yield check_python(sys.version_info[:3])
    yield check_wheels(installed)
    checks = (
        check_libtpu(installed, os.environ),
        check_chips(chips, installed, os.environ),
        check_lock() if chips.usable else None,
        check_memory(),
        None if storage.is_remote(workdir) else check_disk(pathlib.Path(workdir or ".").absolute()),
        check_credentials(os.environ, needed=workdir.startswith("gs://")),
    )
    yield from filter(None, checks)
    if workdir:
        yield check_write(workdir)
    if any(name in installed for name in TENSORFLOW_WHEELS):
        yield from probe(chips, use_tpu=chips.usable and "tensorflow-tpu" in installed)


def check_python(version: tuple[int, int, int]) -> Finding:
    text = f"{'.'.join(map(str, version))} on {platform.machine()}, {os.cpu_count()} cores"
    if (3, 11) <= version < (3, 13):
        return Finding(status=Status.OK, subject="Python", text=text)
    return Finding(
        status=Status.ERROR, subject="Python", text=text, fix="make a new environment with Python 3.11 or 3.12"
    )


def check_write(workdir: str) -> Finding:
    """Writes, reads and deletes a small file below `workdir`, in another process that can be given up on."""
    code = (
        "import sys, uuid; from pipeline.format import storage as s; s.make_folder(sys.argv[1]);"
        "f = s.join(sys.argv[1], f'.doctor-{uuid.uuid4().hex}'); s.write_atomically(f, 'x');"
        "assert s.read_text(f) == 'x'; s.delete(f)"
    )
    output, code_or_none = _run([sys.executable, "-c", code, workdir], seconds=_WRITE_SECONDS)
    if code_or_none == 0:
        return Finding(status=Status.OK, subject="run", text=f"{workdir} can be written and read")
    reason = "no answer in a minute" if code_or_none is None else last_words(output.stderr)
    return Finding(
        status=Status.ERROR,
        subject="run",
        text=f"{workdir} cannot be written: {reason}",
        fix="see credentials above and the bucket's permissions (gcloud storage ls, roles/storage.objectAdmin)"
        if workdir.startswith("gs://")
        else "name a directory that you may write to",
    )


def probe(chips: Chips, *, use_tpu: bool) -> Iterator[Finding]:
    """Imports TensorFlow and trains for two steps in another process, and judges what it printed."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if not chips.usable:
        environment["TPU_SKIP_MDS_QUERY"] = "1"  # else libtpu asks a metadata server that is not there, for minutes
    command = [sys.executable, "-m", "trainer.doctor.probe", *(["local"] if use_tpu else [])]
    output, code = _run(command, seconds=_PROBE_SECONDS, environment=environment)
    lines = [json.loads(line) for line in output.stdout.splitlines() if line.startswith("{")]
    if lines:
        yield from judge_facts(lines[0], nvidia=bool(glob.glob("/dev/nvidia[0-9]*")))
    if len(lines) == 2:
        yield judge_step(lines[1])
        return
    what = "the training step" if lines else "import tensorflow"
    how = f"gave no result in {_PROBE_SECONDS} s" if code is None else _ending(code)
    yield Finding(
        status=Status.ERROR,
        subject="training step" if lines else "import",
        text=f"{what} {how}: {last_words(output.stderr)}",
        fix=f"cure the errors above first; if there are none, report what this prints: python {' '.join(command[1:])}",
        exit_code=ExitCode.INTERNAL,
    )


def judge_facts(facts: Mapping[str, Any], *, nvidia: bool) -> Iterator[Finding]:
    """Judges the probe's first line; `nvidia`: whether this machine has an NVIDIA GPU."""
    kernels = "with" if facts["tpu_kernels"] else "without"
    text = f"TensorFlow {facts['version']} imports, {kernels} TPU kernels; sees {', '.join(facts['devices'])}"
    yield Finding(status=Status.OK, subject="devices", text=text)
    if facts["keras_backend"] != "tensorflow":
        yield Finding(
            status=Status.ERROR,
            subject="Keras",
            text=f"its backend is {facts['keras_backend']}",
            fix="export KERAS_BACKEND=tensorflow (or change ~/.keras/keras.json)",
        )
    if nvidia and "GPU" not in facts["devices"]:
        yield Finding(
            status=Status.WARNING,
            subject="GPU",
            text="this machine has an NVIDIA GPU that TensorFlow cannot use",
            fix="pip install '.[gpu]' brings CUDA along; nvidia-smi tells whether the driver works",
        )


def judge_step(step: Mapping[str, Any]) -> Finding:
    """Judges the probe's second line."""
    text = f"{step['strategy']}: first step {step['first']:.2f} s, second {step['second'] * 1000:.1f} ms"
    if step["moved"] and step["loss"] == step["loss"]:  # NaN is unequal to itself
        return Finding(status=Status.OK, subject="training step", text=text)
    return Finding(
        status=Status.ERROR,
        subject="training step",
        text=f"{text}; loss {step['loss']}, weights {'changed' if step['moved'] else 'unchanged'}",
        fix="install TensorFlow again in a new environment",
        exit_code=ExitCode.INTERNAL,
    )


def _run(
    command: list[str], *, seconds: int, environment: Mapping[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[str], int | None]:
    """Runs a command; returns the process and its exit code, None as the code if it took too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, env=environment, check=False
        )
        return done, done.returncode
    except subprocess.TimeoutExpired as late:
        parts = [(part or b"").decode(errors="replace") for part in (late.stdout, late.stderr)]  # bytes, even with text
        return subprocess.CompletedProcess(command, -1, *parts), None


def _ending(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"


def last_words(stderr: str) -> str:
    """Picks the line of a process's stderr that tells most: the fatal one, else the last one that is no chatter."""
    lines = [line for line in stderr.splitlines() if not _NOISE.match(line)]
    fatal = [line for line in lines if re.match(r"(\S+ )?\S+ ?F |F\d{4} ", line)]
    return (fatal or lines or ["no message"])[-1].strip()[:300]


def summarize(findings: list[Finding]) -> tuple[str, ExitCode]:
    """Returns the last line of the diagnosis, and the exit code."""
    errors = [f for f in findings if f.status is Status.ERROR]
    warnings = sum(f.status is Status.WARNING for f in findings)
    count = f"{warnings} warning{'' if warnings == 1 else 's'}"
    if not errors:
        step = next((f.text.split(":")[0] for f in findings if f.subject == "training step"), "?")
        return f"ready: trains with {step}; {count}", ExitCode.DONE
    known = any(f.exit_code == ExitCode.USAGE for f in errors)
    text = f"not ready: {len(errors)} error{'' if len(errors) == 1 else 's'}, {count}"
    return text, ExitCode.USAGE if known else ExitCode.INTERNAL
