"""Tests that notices of the metadata server are heard, from a server on loopback that waits as Google's does."""

import http.server
import threading
import urllib.parse

import pytest

from tests.clouds import free_port
from trainer.devices import notices


class Metadata:
    """Answers as Compute Engine's metadata server: holds a request until its value is not that of `last_etag`."""

    def __init__(self, port=0):
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.changed = threading.Condition()
        self.asked = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                url = urllib.parse.urlsplit(self.path)
                key, query = url.path.strip("/"), dict(urllib.parse.parse_qsl(url.query))
                assert self.headers["Metadata-Flavor"] == "Google"
                with outer.changed:
                    outer.asked += 1
                    outer.changed.wait_for(lambda: outer.values[key] != query["last_etag"], timeout=0.5)
                    value = outer.values[key]
                self.send_response(200)
                self.send_header("ETag", value)
                self.end_headers()
                self.wfile.write(value.encode())

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/"

    def say(self, key, value):
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()


@pytest.fixture
def metadata():
    server = Metadata()
    yield server
    server.server.shutdown()


@pytest.mark.parametrize(
    ("key", "value"), [("preempted", "TRUE"), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")]
)
def test_a_notice_is_heard_once_when_it_comes(metadata, key, value):
    heard, told = [], threading.Event()
    notices.watch(lambda text: (heard.append(text), told.set()), metadata=metadata.address)
    assert not told.wait(1.2)  # two answers that say nothing
    assert metadata.asked >= 4
    metadata.say(key, value)
    assert told.wait(10)
    assert heard == [key]


def test_a_notice_that_is_there_already_is_heard(metadata):
    metadata.say("preempted", "TRUE")
    told = threading.Event()
    notices.watch(lambda text: told.set(), metadata=metadata.address)
    assert told.wait(10)


def test_a_server_that_comes_late_is_heard(monkeypatch):
    monkeypatch.setattr(notices, "_PAUSE", 0.05)
    port, heard = free_port(), threading.Event()
    notices.watch(lambda key: heard.set(), metadata=f"http://127.0.0.1:{port}/")
    assert not heard.wait(0.3)
    server = Metadata(port)
    server.say("preempted", "TRUE")
    assert heard.wait(10)
    server.server.shutdown()


def test_a_machine_that_is_moved_alive_stays(metadata):
    told = threading.Event()
    notices.watch(lambda key: told.set(), metadata=metadata.address)
    metadata.say("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
    assert not told.wait(1.2)
