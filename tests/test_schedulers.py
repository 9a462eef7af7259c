"""Tests the examples for schedulers by the schedulers themselves, as far as they are on this machine.

AIRFLOW names the `airflow` of an environment of its own (Airflow 3), KUBERNETES_VALIDATE the command of that name.
"""

import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest
import yaml

from tests.retrain.test_held_data import FEWER
from tests.retrain.world import STAND_INS, World

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "schedulers"
AIRFLOW = os.environ.get("AIRFLOW") or shutil.which("airflow")
KUBERNETES_VALIDATE = os.environ.get("KUBERNETES_VALIDATE") or shutil.which("kubernetes-validate")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze on this machine")
def test_systemd_accepts_service_and_timer(tmp_path):
    for name in ("retrain.service", "retrain.timer"):
        text = (FOLDER / name).read_text()
        text = text.replace("/srv/photos/.venv/bin/python", sys.executable).replace("/srv/photos", str(tmp_path))
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "retrain.service", tmp_path / "retrain.timer"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "retrain.service").write_text((tmp_path / "retrain.service").read_text() + "RestartForce=1\n")
    assert "RestartForce" in subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "retrain.service"], capture_output=True, text=True, check=False
    ).stderr  # fmt: skip


@pytest.mark.skipif(not KUBERNETES_VALIDATE, reason="no kubernetes-validate (or set KUBERNETES_VALIDATE)")
def test_kubernetes_accepts_the_job():
    done = subprocess.run(
        [KUBERNETES_VALIDATE, FOLDER / "kubernetes.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _stub(folder, code):
    """Makes a `python` that ends with an exit code, and writes the result file."""
    stub = folder / "python"
    stub.write_text(f"#!/bin/sh\necho '{{}}' > result.json\nexit {code}\n")
    stub.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(folder / "summary")}


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (99, 0), (65, 65), (75, 75)])
def test_99_is_success_where_a_scheduler_knows_no_other(tmp_path, code, expected):
    environment = _stub(tmp_path, code)
    job = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    done = subprocess.run([*container["command"], *container["args"]], env=environment, cwd=tmp_path, check=False)
    assert done.returncode == expected
    workflow = yaml.safe_load((FOLDER / "github_actions.yml").read_text())
    (step,) = workflow["jobs"]["pass"]["steps"]
    script = step["run"].replace(".venv/bin/python", "python")
    done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], env=environment, cwd=tmp_path, check=False)
    assert done.returncode == expected
    assert (tmp_path / "summary").read_text() == "{}\n"


def test_what_a_person_must_look_at_is_not_tried_again():
    job = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text())["spec"]["jobTemplate"]["spec"]
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [64, 65, 70]
    service = (FOLDER / "retrain.service").read_text()
    assert "RestartPreventExitStatus=64 65 70\n" in service
    assert "SuccessExitStatus=99\n" in service


def test_cron_gets_five_fields_and_one_command():
    (line,) = [line for line in (FOLDER / "crontab").read_text().splitlines() if not line.startswith("#")]
    assert re.match(r"17 3 \* \* \*  cd /srv/photos && \S+/python -m retrain\.main --config=retrain\.yaml ", line)
    assert "%" not in line  # which cron takes for the end of a line


@pytest.mark.slow
@pytest.mark.skipif(not AIRFLOW, reason="no Airflow (or set AIRFLOW to the `airflow` of an environment with it)")
def test_airflow_runs_a_pass_skips_an_unchanged_one_and_fails_a_held_one(tmp_path):
    world = World(tmp_path / "world")
    python = tmp_path / "python"  # -m retrain.main → the stand-ins
    python.write_text(f'#!/bin/sh\nshift 2\nPYTHONPATH={STAND_INS} exec {sys.executable} -m pass_with_stand_ins "$@"\n')
    python.chmod(0o755)
    (tmp_path / "airflow" / "dags").mkdir(parents=True)
    shutil.copy(FOLDER / "airflow_dag.py", tmp_path / "airflow" / "dags")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))} | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_VAR_RETRAIN_CONFIG": str(world.folder / "retrain.yaml"),
        "RETRAIN_PYTHON": str(python),
    }

    def airflow(*arguments):
        done = subprocess.run([AIRFLOW, *arguments], env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def states():
        with sqlite3.connect(tmp_path / "airflow" / "airflow.db") as database:
            newest = "select run_id from dag_run order by id desc limit 1"
            return dict(database.execute(f"select task_id, state from task_instance where run_id = ({newest})"))

    assert airflow("db", "migrate")[0] == 0
    assert "airflow_dag.py" not in airflow("dags", "list-import-errors")[1]
    world.input(right=280)
    code, told = airflow("dags", "test", "retrain")
    assert code == 0, told
    assert set(states().values()) == {"success"}
    assert world.champion() == "1"
    with sqlite3.connect(tmp_path / "airflow" / "airflow.db") as database:
        (extra,) = [json.loads(row[0]) for row in database.execute("select extra from asset_event")]
    assert {key: extra[key] for key in ("model", "outcome")} == {"model": 1, "outcome": "promoted"}
    assert airflow("dags", "test", "retrain")[0] == 0
    assert states()["build"] == "skipped"
    world.input(right=280, images=FEWER)
    code, told = airflow("dags", "test", "retrain")
    assert states()["build"] == "success"
    assert states()["check"] == "failed"
    assert "lost images" in told
    assert world.champion() == "1"
