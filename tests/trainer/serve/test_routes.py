"""Asks a running server as people and clients do; what is right says the SavedModel, which TensorFlow runs."""

import base64
import contextlib
import json
import shutil
import socket
import struct
import subprocess
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.images.guarded import Decoder, ImageBudget
from pipeline.images.policy import PixelPolicy
from tests import datasets
from tests.trainer.serve.conftest import LABELS
from tests.trainer.serve.servers import form, serving
from trainer.serving.prepare import prepare
from trainer.serving.signature import load_signature

BODY_MIB, WAITING = 1, 8
CLOSE = 2e-3  # between the forms of a model, in a probability
WITHOUT_TENSORFLOW = """
import atexit, runpy, sys
sys.argv = ["serve", *sys.argv[1:]]
atexit.register(lambda: print("tensorflow" in sys.modules, "keras" in sys.modules, flush=True))
runpy.run_module("trainer.serve", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def server(exports):
    with serving(
        f"--model={exports / 'one'}", "--name=insects", f"--max_body_mib={BODY_MIB}", f"--max_waiting={WAITING}"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def expected(exports, photos):
    """Returns what TensorFlow answers about the images as the builder writes them, float32 [N, C]."""
    signature = load_signature(exports / "one")
    with contextlib.closing(Decoder(PixelPolicy(), ImageBudget())) as decoder:
        return signature([one.encoded for one in prepare(decoder, photos, None)])["probabilities"]


def b64(data):
    return base64.b64encode(data).decode()


def test_a_photo_gets_its_label_and_the_nearest_others(server, photos, expected):
    assert len({row.argmax() for row in expected}) > 1
    for photo, row in zip(photos, expected, strict=True):
        status, found = server.photo(photo)
        assert status == 200
        assert found["label"] == LABELS[row.argmax()]
        assert found["probability"] == pytest.approx(row.max(), abs=CLOSE)
        by_name = {one["label"]: one["probability"] for one in found["top"]}
        assert [by_name[label] for label in LABELS] == pytest.approx(row.tolist(), abs=CLOSE)
        assert list(by_name.values()) == sorted(by_name.values(), reverse=True)
        assert found["model"] == "insects"


def test_a_form_of_files_is_answered_file_by_file(server, photos, expected):
    body, headers = form({f"{at}.jpg": photo for at, photo in enumerate(photos)})
    status, head, answer = server.ask("POST", "/predict?top=1", body, headers)
    found = json.loads(answer)
    assert status == 200
    assert [row["file"] for row in found["predictions"]] == [f"{at}.jpg" for at in range(len(photos))]
    assert [row["label"] for row in found["predictions"]] == [LABELS[row.argmax()] for row in expected]
    assert all(len(row["top"]) == 1 for row in found["predictions"])
    assert head["x-model-version"] == found["version"]


@pytest.mark.parametrize("rows", [True, False], ids=["instances", "inputs"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_tensorflow_servings_protocol(server, photos, expected, rows, named):
    images = [{"b64": b64(photo)} for photo in photos]
    if rows:
        asked = {"instances": [{"image_bytes": image} for image in images] if named else images}
    else:
        asked = {"inputs": {"image_bytes": images} if named else images}
    status, found = server.post_json("/v1/models/insects:predict", {**asked, "signature_name": "serving_default"})
    assert status == 200
    if rows:
        columns = {key: [row[key] for row in found["predictions"]] for key in ("label", "class_index", "probabilities")}
    else:
        columns = found["outputs"]
    assert columns["label"] == [LABELS[row.argmax()] for row in expected]
    assert columns["class_index"] == expected.argmax(axis=1).tolist()
    assert np.array(columns["probabilities"]) == pytest.approx(expected, abs=CLOSE)


def test_the_open_inference_protocol_in_json(server, photos, expected):
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [len(photos)], "data": [b64(one) for one in photos]}
    asked = {"id": "seven", "inputs": [tensor], "outputs": [{"name": "probabilities"}, {"name": "label"}]}
    status, found = server.post_json("/v2/models/insects/infer", asked)
    assert status == 200
    assert (found["id"], found["model_name"]) == ("seven", "insects")
    probabilities, label = found["outputs"]
    assert (probabilities["name"], probabilities["datatype"], probabilities["shape"]) == (
        "probabilities", "FP32", [len(photos), 3],
    )  # fmt: skip
    assert np.array(probabilities["data"]).reshape(-1, 3) == pytest.approx(expected, abs=CLOSE)
    assert label["data"] == [LABELS[row.argmax()] for row in expected]


def test_the_open_inference_protocol_with_binary_tensors(server, photos, expected):
    tensor = b"".join(struct.pack("<I", len(photo)) + photo for photo in photos)
    entry = {"name": "image_bytes", "datatype": "BYTES", "shape": [len(photos), 1],
             "parameters": {"binary_data_size": len(tensor)}}  # fmt: skip
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "content-type": "application/octet-stream"}
    status, answered, body = server.ask("POST", "/v2/models/insects/infer", head + tensor, headers)
    assert status == 200
    length = int(answered["Inference-Header-Content-Length"])
    found = {one["name"]: one for one in json.loads(body[:length])["outputs"]}
    tensors, at = {}, length
    for name, one in found.items():
        size = one["parameters"]["binary_data_size"]
        tensors[name], at = body[at : at + size], at + size
    assert at == len(body)
    assert np.frombuffer(tensors["probabilities"], "<f4").reshape(-1, 3) == pytest.approx(expected, abs=CLOSE)
    assert np.frombuffer(tensors["class_index"], "<i8").tolist() == expected.argmax(axis=1).tolist()
    labels = [LABELS[row.argmax()].encode() for row in expected]
    assert tensors["label"] == b"".join(struct.pack("<I", len(label)) + label for label in labels)


def test_a_body_that_is_one_image_is_one_image(server, photos, expected):
    headers = {"Inference-Header-Content-Length": "0", "content-type": "application/octet-stream"}
    status, _, body = server.ask("POST", "/v2/models/insects/infer", photos[0], headers)
    assert status == 200
    outputs = {one["name"]: one["data"] for one in json.loads(body)["outputs"]}
    assert outputs["probabilities"] == pytest.approx(expected[0].tolist(), abs=CLOSE)


def test_what_is_served_is_told(server):
    version = server.ask("GET", "/healthz")[1]["x-model-version"]
    assert len(version) == 12  # digits of a digest: this export has no number
    for path, found in {
        "/v1/models/insects": {
            "model_version_status": [
                {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ]
        },
        "/healthz": {"live": True},
        "/readyz": {"ready": True},
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        f"/v2/models/insects/versions/{version}/ready": {"ready": True},
    }.items():
        status, headers, body = server.ask("GET", path)
        assert (status, json.loads(body), headers["x-model-version"]) == (200, found, version), path
    model = json.loads(server.ask("GET", f"/v2/models/insects/versions/{version}")[2])
    assert model["inputs"] == [{"name": "image_bytes", "datatype": "BYTES", "shape": [-1]}]
    assert model["outputs"][2] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
    assert model["versions"] == [version]
    metadata = json.loads(server.ask("GET", "/v1/models/insects/metadata")[2])
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert set(signature["outputs"]) == {"label", "class_index", "probabilities"}
    assert b"binary_tensor_data" in server.ask("GET", "/v2")[2]


def test_the_page_says_what_can_be_asked(server):
    status, headers, body = server.ask("GET", "/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert f"curl -F image=@photo.jpg {server.url}/predict" in body.decode()
    assert "Käfer" in body.decode()


def test_the_page_of_an_export_is_served_in_its_place(exports, tmp_path):
    export = tmp_path / "export"
    shutil.copytree(exports / "one", export)
    (export / "try.html").write_text("<!DOCTYPE html><title>Jürgen's page</title>", encoding="utf-8")
    with serving(f"--model={export}") as running:
        status, headers, body = running.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert body.decode() == "<!DOCTYPE html><title>Jürgen's page</title>"


def test_metrics_are_prometheus_text_and_count(server, photos):
    def count():
        families = text_string_to_metric_families(server.ask("GET", "/metrics")[2].decode())
        samples = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
        return samples[("serve_images_total", ("outcome", "answered"))]

    server.photo(photos[0])
    before = count()
    server.photo(photos[0])
    assert count() == before + 1


JSON = "application/json"
REFUSED = [
    ("POST", "/predict", b"no image", "image/jpeg", 400, "not_an_image"),
    ("POST", "/predict", b"", "image/jpeg", 400, "the image is refused"),
    ("POST", "/predict", b"{}", JSON, 415, "curl -F image=@photo.jpg"),
    ("POST", "/predict", b"a=b", "application/x-www-form-urlencoded", 415, "is not understood"),
    ("POST", "/predict?top=0", b"", "image/jpeg", 400, "top='0': must be 1 to 1000"),
    ("POST", "/predict?top=%F0%9F%98%80", b"", "image/jpeg", 400, "must be 1 to 1000"),
    ("POST", "/predict", b"x", "multipart/form-data", 400, "boundary"),
    ("POST", "/predict", b"--b--\r\n", "multipart/form-data; boundary=b", 400, "the form "),
    ("GET", "/predict", None, "", 405, "Method Not Allowed"),
    ("GET", "/nothing", None, "", 404, "/ lists what there is"),
    ("GET", "/v1/models/birds", None, "", 404, "no model 'birds' here; the model is called 'insects'"),
    ("GET", "/v2/models/insects/versions/9", None, "", 404, "has no version '9' here; it serves '"),
    ("POST", "/v1/models/insects/versions/9:predict", b"{}", JSON, 404, "has no version '9'"),
    ("POST", "/v1/models/insects:classify", b"{}", JSON, 404, "/ lists what there is"),
    ("GET", "/v1/models/insects:predict", None, "", 405, "Method Not Allowed"),
    ("POST", "/v1/models/insects:predict", b"{", JSON, 400, "the body is not JSON"),
    ("POST", "/v1/models/insects:predict", b"\xff\xfe", JSON, 400, "the body is not JSON"),
    ("POST", "/v1/models/insects:predict", b"[]", JSON, 400, "must be a JSON object, got a list of 0 values"),
    ("POST", "/v1/models/insects:predict", b"[" * 90_000, JSON, 400, "nested too deeply"),
    ("POST", "/v1/models/insects:predict", b'{"instances":[' + b"1," * 100_000, JSON, 400, "more than 100000 values"),
    ("POST", "/v1/models/insects:predict", b"9" * 5_000, JSON, 400, "the body is not JSON"),
    ("POST", "/v1/models/insects:predict", b"{}", JSON, 400, 'give either "instances"'),
    ("POST", "/v1/models/insects:predict", b'{"instances":[]}', JSON, 400, "not empty"),
    ("POST", "/v1/models/insects:predict", b'{"instances":[{"b64":"*"}]}', JSON, 400, "instances[0].b64 is not base64"),
    ("POST", "/v1/models/insects:predict", b'{"instances":[{"b64":7}]}', JSON, 400, "must be the base64"),
    ("POST", "/v1/models/insects:predict", b'{"inputs":{"x":[]}}', JSON, 400, "must have the key image_bytes only"),
    ("POST", "/v1/models/insects:predict", b'{"instances":[{"b64":""}],"a":1}', JSON, 400, 'unknown key "a"'),
    ("POST", "/v1/models/insects:predict", b"{}", "text/css", 415, "send application/json"),
    ("POST", "/v2/models/insects/infer", b"{}", JSON, 400, '"inputs" must be a list of one tensor'),
    ("POST", "/v2/models/insects/infer", b'{"inputs":[{"name":"x"}]}', JSON, 400, "has the input image_bytes only"),
    (
        "POST", "/v2/models/insects/infer",
        b'{"id":"\\ud800","inputs":[{"name":"image_bytes","datatype":"BYTES","shape":[2],"data":["eA=="]}]}', JSON, 400,
        "the shape of image_bytes is [2], and 1 images are given",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "kind", "status", "text"), REFUSED)
def test_what_is_wrong_is_said(server, method, path, body, kind, status, text):
    found, headers, answer = server.ask(method, path, body, {"content-type": kind} if kind else {})
    assert found == status
    assert text in json.loads(answer)["error"]
    assert headers["x-model-version"]


def test_bad_images_of_a_batch_are_named(server, photos):
    images = [photos[0], b"nothing", photos[1], photos[0][:400]]
    status, found = server.post_json("/v1/models/insects:predict", {"instances": [{"b64": b64(one)} for one in images]})
    assert status == 400
    assert [one["index"] for one in found["images"]] == [1, 3]
    assert found["images"][0]["code"] == "not_an_image"
    assert found["error"].startswith("image 1 of 4 is refused: not_an_image")
    body, headers = form({"good.jpg": photos[0], "bad.jpg": b"nothing"})
    status, _, answer = server.ask("POST", "/predict", body, headers)
    assert status == 400
    assert "image 1 of 2 (bad.jpg) is refused" in json.loads(answer)["error"]


def test_too_much_is_413_whatever_length_is_said(server):
    large = bytes((BODY_MIB << 20) + 1)
    status, _, body = server.ask("POST", "/predict", large, {"content-type": "image/jpeg"})
    assert status == 413
    assert f"larger than {BODY_MIB << 20} bytes" in json.loads(body)["error"]
    with contextlib.closing(server.connect()) as connection:  # in chunks
        connection.request("POST", "/predict", iter([large[:600_000]] * 2), {"content-type": "image/jpeg"})
        assert connection.getresponse().status == 413
    images = {"instances": [{"b64": "eA=="}] * (WAITING + 1)}
    status, found = server.post_json("/v1/models/insects:predict", images)
    assert status == 413
    assert f"a request may have {WAITING}" in found["error"]


def test_bodies_in_memory_are_bounded(server, photos):
    half_sent = []
    for _ in range(5):  # of which four have room
        connection = socket.create_connection(server.address, timeout=20)
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n")
        connection.sendall(b"content-length: 1000000\r\n\r\n" + bytes(900_000))
        half_sent.append(connection)
    last = half_sent[-1].recv(4_096)
    assert last.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in last
    for connection in half_sent:
        connection.close()
    deadline = time.monotonic() + 10
    while server.photo(photos[0])[0] != 200:
        assert time.monotonic() < deadline


def test_compressed_bodies_are_415(server):
    headers = {"content-type": JSON, "content-encoding": "gzip"}
    assert server.ask("POST", "/v1/models/insects:predict", b"x", headers)[0] == 415


def test_garbage_in_place_of_http_is_refused_and_nothing_else_suffers(server, photos):
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST /predict HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
                    b"A" * 100_000, b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000):  # fmt: skip
        with socket.create_connection(server.address, timeout=10) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(100)[:12] in (b"HTTP/1.1 400", b"")
    # A body that is shorter than it says, from a client that goes away.
    with socket.create_connection(server.address) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\ncontent-length: 99\r\n\r\nx"
        )
    assert server.photo(photos[0])[0] == 200


def test_connections_are_kept(server, photos):
    with contextlib.closing(server.connect()) as connection:
        sockets, seconds = set(), []
        for _ in range(20):
            start = time.perf_counter()
            connection.request("POST", "/predict", photos[0], {"content-type": "image/jpeg"})
            sockets.add(connection.sock)
            assert json.loads(connection.getresponse().read())["label"] in LABELS
            seconds.append(time.perf_counter() - start)
    assert len(sockets) == 1
    assert min(seconds) < 0.035, "answers wait for the client's delayed acknowledgement, of 40 ms"


def test_the_server_does_without_tensorflow(exports, photos):
    with serving(f"--model={exports / 'one' / 'model.tflite'}", code=WITHOUT_TENSORFLOW) as running:
        assert running.photo(photos[0])[0] == 200
        assert running.end() == 0
    assert running.lines[-1] == "False False\n"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["saved_model", "model.keras"])
def test_other_forms_answer_alike(exports, photos, expected, form):
    with serving(f"--model={exports / 'one' / form}") as running:
        for photo, row in zip(photos, expected, strict=True):
            status, found = running.photo(photo)
            assert status == 200
            assert found["probability"] == pytest.approx(row.max(), abs=CLOSE)
        assert running.photo(b"no image")[0] == 400
        assert running.end() == 0


def test_large_photos_by_curl_and_over_ipv6(exports, tmp_path):
    random = np.random.default_rng(0).integers(0, 256, (1_500, 1_500, 3), np.uint8)
    (tmp_path / "large.jpg").write_bytes(datasets.jpeg(random, quality=95))
    assert (tmp_path / "large.jpg").stat().st_size > 1 << 20  # for which curl waits for a word before it sends
    with serving(f"--model={exports / 'one'}", "--host=::1", "--max_body_mib=8") as running:
        assert running.url.startswith("http://[::1]:")
        command = ["curl", "-sS", "-g", "-F", f"image=@{tmp_path / 'large.jpg'}", f"{running.url}/predict"]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["predictions"][0]["label"] in LABELS
