"""Tests the container's recipe without a container engine: its install in a clean environment, its command there."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import venv

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCKERFILE = (ROOT / "container" / "Dockerfile").read_text()


def test_what_the_recipe_names_is_there():
    assert f"docker build --file {(ROOT / 'container' / 'Dockerfile').relative_to(ROOT)}" in DOCKERFILE
    assert "--constraint constraints.txt" in DOCKERFILE
    command = json.loads(re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])
    assert command[:3] == ["python", "-m", "retrain.main"]


@pytest.mark.slow
def test_its_steps_run_in_a_clean_environment(tmp_path):
    """Installs from a copy of what git knows, not editable, and runs the command from elsewhere."""
    copy = tmp_path / "copy"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    (install,) = re.findall(r"^RUN (python -m pip .*)$", DOCKERFILE, re.MULTILINE)
    subprocess.run([python, *shlex.split(install)[1:]], cwd=copy, check=True, stdout=sys.stderr)
    command = json.loads(re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])
    work = tmp_path / "work"
    work.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    told = subprocess.run(
        [python, *command[1:3], f"--config={work / 'retrain.yaml'}"],
        cwd=work, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 64
    assert told.stderr.splitlines()[-1].startswith(f"error: --config={work / 'retrain.yaml'}: cannot be read")
    imports = "import tensorflow, apache_beam, keras_cv, tensorflow_datasets, trainer, retrain.main"
    found = subprocess.run(
        [python, "-c", f"{imports}; print(retrain.__file__)"],
        cwd=work, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert str(tmp_path / "venv") in found.stdout
