"""Tests that `python -m trainer.preflight` refuses wrong flags; what it answers is tested in test_compiling."""

import os
import subprocess
import sys

from pipeline.command import ExitCode


def _command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer.preflight", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_the_command_refuses_wrong_flags_at_once(tmp_path):
    unknown = _command("--topology=v5e:2x5")
    assert unknown.returncode == ExitCode.USAGE
    assert unknown.stderr.startswith("error: --topology=v5e:2x5: no such slice; there are v5e:1x1")
    absent = _command("--topology=v5e:2x4", f"--data={tmp_path / 'none'}")
    assert absent.returncode == ExitCode.USAGE
    assert "no such directory" in absent.stderr
    assert _command().returncode == ExitCode.USAGE
