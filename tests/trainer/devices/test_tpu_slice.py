"""Tests which host of a TPU slice trains, with a metadata server on loopback in the place of Compute Engine's."""

import http.server
import threading

import pytest

from pipeline.command import UsageError
from trainer.devices.tpu_slice import SliceHost, find_host, leaves_it_to_another

NOBODY = "http://127.0.0.1:9/"


@pytest.fixture
def metadata():
    answers = {"/agent-worker-number": "2", "/worker-network-endpoints": "a:b:10.0.0.1,c:d:10.0.0.2,e:f:10.0.0.3"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers["Metadata-Flavor"] == "Google" and self.path in answers
            self.send_response(200 if known else 403)
            self.end_headers()
            self.wfile.write(answers[self.path].encode() if known else b"Missing Metadata-Flavor:Google header.")

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", answers
        server.shutdown()


def test_compute_engine_tells_the_host(metadata):
    address, answers = metadata
    assert find_host({}, metadata=address) == SliceHost(number=2, count=3)
    del answers["/worker-network-endpoints"]
    assert find_host({}, metadata=address) == SliceHost(number=2, count=1)


def test_kubernetes_tells_the_host():
    environment = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"}
    assert find_host(environment, metadata=NOBODY) == SliceHost(number=1, count=2)


def test_where_nobody_tells_there_is_one_host():
    assert find_host({}, metadata=NOBODY) == SliceHost(number=0, count=1)


def test_the_first_host_trains_and_the_others_leave():
    assert [leaves_it_to_another("my-tpu", SliceHost(number=i, count=3)) for i in range(3)] == [False, True, True]
    assert not leaves_it_to_another("local", SliceHost())
    with pytest.raises(UsageError, match="--tpu=local: this is host 1 of a slice of 2"):
        leaves_it_to_another("local", SliceHost(number=1, count=2))
