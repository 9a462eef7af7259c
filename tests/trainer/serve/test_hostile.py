"""Sends a server what the world may send: damaged and odd images in every envelope, and envelopes that are damaged."""

import base64
import collections
import concurrent.futures
import contextlib
import json
import pathlib
import random
import socket
import struct
import threading
import time

import pytest

from tests.fuzz import seeds
from tests.fuzz.mutation import mutate
from tests.fuzz.shapes import PLAIN, TEXT, image_shape
from tests.trainer.serve.servers import form, serving

FUZZED = pathlib.Path(__file__).resolve().parents[2] / "fuzz" / "corpus" / "image"
MAX_BYTES = 1 << 16
ALLOWED = {200, 400, 404, 405, 408, 411, 413, 415, 503}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(exports):
    with serving(f"--model={exports / 'one'}", "--client_seconds=3", "--max_body_mib=8") as running:
        yield running


def as_photo(data):
    return "/predict", data, {"content-type": "image/jpeg"}


def as_form(data):
    return "/predict", *form({"a.jpg": data, "b.jpg": data[:100]})


def as_row(data):
    body = json.dumps({"instances": [{"b64": base64.b64encode(data).decode()}]})
    return "/v1/models/model:predict", body.encode(), JSON


def as_tensor(data):
    tensor = struct.pack("<I", len(data)) + data
    entry = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(tensor)}}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {"content-type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return "/v2/models/model/infer", head + tensor, headers


ENVELOPES = (as_photo, as_form, as_row, as_tensor)


def hostile(count, more=()):
    """Yields so many requests, always the same: images as they are, mutated ones, and mutated envelopes."""
    rng = random.Random(27)
    images = [*seeds.images(), *(file.read_bytes() for file in sorted(FUZZED.iterdir())), *more]
    for number in range(count):
        image = images[number % len(images)]
        if number >= len(images):
            image = mutate(image, rng, image_shape(image), images, max_bytes=MAX_BYTES)
        path, body, headers = ENVELOPES[rng.randrange(len(ENVELOPES))](image)
        if rng.random() < 0.3:
            others = [envelope(image)[1] for envelope in ENVELOPES]
            shape = TEXT if path.startswith("/v1") else PLAIN
            body = mutate(body, rng, shape, others, max_bytes=2 * MAX_BYTES)
        if rng.random() < 0.05:
            headers = {**headers, "content-type": rng.choice(("", "text/html", "image/", "multipart/form-data", "é;q"))}
        if rng.random() < 0.05:
            headers = {**headers, "Inference-Header-Content-Length": rng.choice(("-1", "1e9", "9" * 400, "5", "²"))}
        yield path, body, {key: value.encode("utf-8").decode("latin-1") for key, value in headers.items()}


class Sender(threading.local):
    """Keeps a connection for each thread, as clients do."""

    connection = None

    def send(self, server, path, body, headers):
        if self.connection is None:
            self.connection = server.connect(timeout=60)
        try:
            self.connection.request("POST", path, body, headers)
            response = self.connection.getresponse()
            answer = response.read()
        except BaseException:
            self.connection.close()
            self.connection = None
            raise
        return response.status, answer


@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_requests_are_answered_or_refused(server, photos, count):
    sender, counts = Sender(), collections.Counter()

    def one(request):
        start = time.monotonic()
        status, answer = sender.send(server, *request)
        assert status in ALLOWED, (status, request, answer)
        assert json.loads(answer) if status == 200 else json.loads(answer)["error"]
        return status, time.monotonic() - start

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, hostile(count)))
    counts.update(status for status, _ in results)
    assert counts[200] > count / 20, counts
    assert counts[400] > count / 5, counts
    assert max(seconds for _, seconds in results) < 30
    assert server.photo(photos[0])[0] == 200
    assert "Traceback" not in "".join(server.errors)


@pytest.mark.slow
def test_field_cases_are_answered_or_refused(server, shared_data, photos):
    files = [file for file in (shared_data / "field_cases").rglob("*") if file.is_file()]
    files += [file for file in (shared_data / "odd_images").rglob("*") if file.is_file()]
    sender = Sender()

    def one(file):
        data = file.read_bytes()[: 8 << 20]
        return {sender.send(server, *envelope(data))[0] for envelope in (as_photo, as_tensor)}

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = set.union(*pool.map(one, files))
    assert found <= {200, 400, 413}, found
    assert server.photo(photos[0])[0] == 200


POST = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n"
RAW = [
    POST + b"content-length: 9999999999999999999999\r\n\r\nx",
    POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nxxxxx",
    POST + b"transfer-encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    POST + b"content-length: 3\r\n\r\nxxxGET / HTTP/1.1\r\n\r\n",
    b"GET /%00%ff%fe HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /v1/models/%F0%9F%98%80/versions/%E2%80%AE HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: <script>\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00" * 1_000,
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
]


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_odd_http_is_answered_or_ended(server, photos, raw):
    with socket.create_connection(server.address, timeout=15) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(1 << 16):
            answer += data
        assert not answer or int(answer.split()[1]) in ALLOWED, answer[:300]
        assert b"<script>" not in answer.partition(b"\r\n\r\n")[2]
    assert server.photo(photos[0])[0] == 200
    assert "Traceback" not in "".join(server.errors)
