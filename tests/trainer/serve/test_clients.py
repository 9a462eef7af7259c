"""Has clients that others wrote ask a server: Triton's, one that makes requests of openapi.json, and our examples."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.trainer.serve.conftest import LABELS
from tests.trainer.serve.servers import ROOT, serving
from trainer.serving.signature import load_signature

CLIENTS = ROOT / "examples" / "clients"
_SCHEMATHESIS_LEAVES = "positive_data_acceptance"  # a schema cannot say what bytes are a photo


@pytest.fixture(scope="module")
def server(exports):
    with serving(f"--model={exports / 'one'}", "--client_seconds=5") as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False], ids=["binary answers", "JSON answers"])
def test_tritons_client_gets_what_tensorflow_answers(server, exports, photos, binary):
    client = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    jpegs = photos[:2]
    expected = load_signature(exports / "one")(jpegs)["probabilities"]
    with client.InferenceServerClient(server.url.removeprefix("http://")) as asking:
        assert asking.is_server_live()
        assert asking.is_server_ready()
        assert asking.is_model_ready("model")
        assert asking.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        assert asking.get_model_metadata("model")["inputs"][0]["name"] == "image_bytes"
        images = client.InferInput("image_bytes", [len(jpegs)], "BYTES")
        images.set_data_from_numpy(np.array(jpegs, dtype=object))
        names = ("label", "class_index", "probabilities")
        outputs = [client.InferRequestedOutput(name, binary_data=binary) for name in names]
        for wanted in (outputs, None):
            found = asking.infer("model", [images], outputs=wanted, request_id="9")
            assert found.as_numpy("probabilities") == pytest.approx(expected, abs=2e-3)
            assert found.as_numpy("class_index").tolist() == expected.argmax(axis=1).tolist()
            labels = [one.decode() if isinstance(one, bytes) else one for one in found.as_numpy("label")]
            assert labels == [LABELS[row.argmax()] for row in expected]
            assert found.get_response()["id"] == "9"
        with pytest.raises(Exception, match="has no version '4' here"):
            asking.infer("model", [images], model_version="4")


@pytest.mark.slow
def test_openapi_is_true(server, tmp_path):
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    flags = ["--max-examples=15", "--seed=1", "--phases=coverage,fuzzing", f"--exclude-checks={_SCHEMATHESIS_LEAVES}"]
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    assert server.process.poll() is None
    assert "Traceback" not in "".join(server.errors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "file"),
    [
        ([sys.executable], "client.py"),
        (["sh"], "client.sh"),
        (["node"], "client.mjs"),
        (["java"], "Client.java"),
    ],
)
def test_an_example_asks_about_a_photo(server, exports, photos, tmp_path, command, file):
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    photo = tmp_path / "photo of an insect.jpg"
    photo.write_bytes(photos[0])
    label = server.photo(photos[0])[1]["label"]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [*command, str(CLIENTS / file), server.url, str(photo)],
        capture_output=True, text=True, check=False, timeout=120, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert label in done.stdout
    photo.write_bytes(b"no photo")
    done = subprocess.run(
        [*command, str(CLIENTS / file), server.url, str(photo)],
        capture_output=True, text=True, check=False, timeout=120, env=environment,
    )  # fmt: skip
    assert done.returncode != 0
    assert "not_an_image" in done.stdout + done.stderr


def test_openapi_names_every_route(server):
    document = json.loads(server.ask("GET", "/openapi.json")[2])
    assert document["openapi"] == "3.1.0"
    for path, methods in document["paths"].items():
        for method in set(methods) - {"parameters"}:
            version = server.ask("GET", "/healthz")[1]["x-model-version"]
            status, _, _ = server.ask(method.upper(), path.replace("{version}", version))
            assert status not in (404, 405), (method, path)
