"""Every command as a newcomer meets it: --help, --version and a wrong flag, each at once."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for package in ("pipeline", "beam_jobs", "trainer", "retrain")
    for path in (ROOT / package).rglob("*.py")
    if re.search(r"^    (run_command\(|runpy\.)", path.read_text(encoding="utf-8"), re.MULTILINE)
)


def run(command, *flags):
    """Runs a command; returns how it ended, and the modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", command, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    done.stderr = "\n".join(line for line in lines if not line.startswith("import time:"))
    return done, imported


def test_the_commands_are_found():
    assert {"beam_jobs.build_tfrecords", "trainer.main", "retrain.main", "pipeline.verify", "trainer.doctor"} <= {
        *COMMANDS
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_without_tensorflow_and_names_the_flags(command):
    done, imported = run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "--[no]version" in done.stdout
    assert not {"tensorflow", "keras", "apache_beam"} & imported


@pytest.mark.parametrize("command", ["trainer.main", "trainer.fit_check"])
def test_help_lists_what_a_request_consists_of(command):
    done, _ = run(command, "--help")
    for flag in ("data", "recipe", "backbone", "weights", "set", "seed"):
        assert f"  --{flag}: " in done.stdout


def test_help_into_a_pipe_that_nobody_reads_to_the_end():
    shell = f"'{sys.executable}' -m trainer.main --help | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("Trains a recipe")
    assert not done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_version_is_that_of_the_package(command):
    done, _ = run(command, "--version")
    assert (done.returncode, done.stdout) == (0, f"tpu-retraining {importlib.metadata.version('tpu-retraining')}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_flag_that_is_not_known_is_one_line(command):
    done, _ = run(command, "--no_such_flag=1", "--input=/nowhere", "--output=/nowhere/else")
    assert done.returncode == 64
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert "no_such_flag" in done.stderr
