"""Airflow 3: a pass as four tasks. Copy to the folder of DAGs; set the Variable `retrain_config` to your retrain.yaml.

99 skips what comes after; 64, 65 and 70 fail for good, as a person has to look; anything else (75: stopped, locked) is
tried again. A promotion is an event of the Asset `champion`, with the model's number: other DAGs may wait for it.
Nothing of TensorFlow is imported here, where a scheduler parses the file every few seconds.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import tempfile

from airflow.sdk import Asset, Metadata, Variable, dag, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

PYTHON = os.environ.get("RETRAIN_PYTHON", "/srv/photos/.venv/bin/python")  # of the environment that has this package
CHAMPION = Asset(name="champion", uri="x-retrain://models/champion")
NIGHTLY = os.environ.get("RETRAIN_SCHEDULE", "17 3 * * *")


def run_until(step: str) -> dict:
    """Runs a pass up to a step; returns its result."""
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "result.json")
        flags = [f"--config={Variable.get('retrain_config')}", f"--until={step}", f"--result={result}"]
        code = subprocess.run([PYTHON, "-m", "retrain.main", *flags], check=False).returncode
        told = {"reasons": [f"exit code {code}"]}
        if os.path.exists(result):
            with open(result, encoding="utf-8") as file:
                told = json.load(file)
    reason = told["reasons"][-1]
    if code == 99:
        raise AirflowSkipException(reason)
    if code in (64, 65, 70):
        raise AirflowFailException(reason)
    if code:
        raise RuntimeError(reason)
    return told


@dag(
    schedule=NIGHTLY,
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": datetime.timedelta(minutes=5), "retry_exponential_backoff": True},
    tags=["retrain"],
)
def retrain():
    """Builds, judges the data, trains, judges the model and promotes it."""

    @task
    def build():
        run_until("build")

    @task
    def check():
        run_until("check")

    @task
    def train():
        run_until("train")

    @task(outlets=[CHAMPION])
    def decide():
        told = run_until("decide")
        yield Metadata(CHAMPION, extra={"model": told["versions"]["champion_after"], "outcome": told["outcome"]})

    build() >> check() >> train() >> decide()


retrain()
