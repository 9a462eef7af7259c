"""Tests the mirror against a real MLflow server on loopback, with SQLite behind it.

MLFLOW names the `mlflow` of an environment of its own, in which absl-py, fsspec, google-crc32c and msgpack are, too:
its pins contradict constraints.txt. The passes run in that environment.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from pipeline.command import UsageError
from retrain import mirror
from tests.retrain.world import CONFIG, REPOSITORY, World

MLFLOW = os.environ.get("MLFLOW") or shutil.which("mlflow")
_SERVER_SECONDS = 120


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def server(folder, port):
    command = [MLFLOW, "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--host", "127.0.0.1"]
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(
            [*command, "--artifacts-destination", folder / "artifacts", "--port", str(port), "--workers", "1"],
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    try:
        for _ in range(_SERVER_SECONDS * 2):
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.5)
        else:
            pytest.fail((folder / "server.log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def call(address, path, **body):
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def champion(address):
    with urllib.request.urlopen(
        f"{address}/api/2.0/mlflow/registered-models/alias?name=stand-in&alias=champion"
    ) as answer:
        version = json.load(answer)["model_version"]
    return {tag["key"]: tag["value"] for tag in version["tags"]}["number"]


def runs(address):
    with urllib.request.urlopen(f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=stand-in") as answer:
        experiment = json.load(answer)["experiment"]["experiment_id"]
    return call(address, "runs/search", experiment_ids=[experiment], order_by=["attributes.start_time ASC"])["runs"]


@pytest.mark.slow
@pytest.mark.skipif(not MLFLOW, reason="no mlflow (set MLFLOW to that of an environment of its own)")
def test_a_server_shows_passes_models_and_the_champion(tmp_path):
    world, port = World(tmp_path / "world", python=str(pathlib.Path(MLFLOW).parent / "python")), free_port()
    world.configure(CONFIG + f"mlflow: http://127.0.0.1:{port}\n")
    world.input(right=280)
    code, out, err = world.run()
    assert code == 0, out + err
    assert "warning: mlflow: http://127.0.0.1" in err, "the server is away, and nothing else changes"
    assert "the next pass catches up" in err

    with server(tmp_path, port) as address:
        world.input(right=295)
        code, out, err = world.run()
        assert code == 0, out + err
        assert "mlflow: 2 passes and 2 models are new there" in out
        assert champion(address) == "2"
        world.input(right=250)
        assert world.run()[0] == 99
        found = runs(address)
        assert len(found) == 3
        tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in found]
        assert [one["decision"] for one in tags] == ["promoted", "promoted", "not promoted"]
        metrics = [{one["key"]: one["value"] for one in run["data"]["metrics"]} for run in found]
        assert [one["accuracy"] for one in metrics] == pytest.approx([280 / 300, 295 / 300, 250 / 300])
        assert len(list((tmp_path / "artifacts").rglob("saved_model.pb"))) == 2
        assert list((tmp_path / "artifacts").rglob("model_card.md"))

        # Idempotent, and a roll-back by hand moves the alias.
        curated = [world.python, "-m", "retrain.models"]
        config = f"--config={world.folder / 'retrain.yaml'}"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        subprocess.run([*curated, "rollback", "--why=a test", config], check=True, env=environment)
        done = subprocess.run([*curated, "mirror", config], check=True, env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == "mlflow: 0 passes and 0 models are new there"
        assert champion(address) == "1"
        assert len(runs(address)) == 3


def test_without_the_library_that_is_said_before_anything_is_done(world):
    if mirror.importlib.util.find_spec("mlflow"):
        pytest.skip("mlflow is installed here")
    with pytest.raises(UsageError, match=r"pip install 'tpu-retraining\[mlflow\]'"):
        mirror.require_library()
    world.configure(CONFIG + "mlflow: http://127.0.0.1:1\n")
    world.input(right=280)
    code, _, err = world.run()
    assert code == 64
    assert "mlflow: its library is not installed" in err
    assert not (world.folder / "data").exists()


def test_the_verb_asks_for_a_server(world):
    world.input(right=280)
    world.run()
    done = subprocess.run(
        [sys.executable, "-m", "retrain.models", "mirror", f"--models={world.models}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 64
    assert "which names the server" in done.stderr
