"""Tests that TLS is verified, and that whatever goes wrong in it ends in time."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from beam_jobs.download.errors import FetchError
from pipeline.images.policy import RejectCode
from tests.beam_jobs.misbehaving_server import PIXELS, running_server
from tests.beam_jobs.scripted_server import fetching


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Makes a self-signed certificate for images.example."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem "
        "-out cert.pem -subj /CN=images.example -addext subjectAltName=DNS:images.example"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


def test_tls_is_verified_against_the_name_although_the_connection_is_pinned(certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    names = []
    context.sni_callback = lambda sock, name, ctx: names.append(name)
    with running_server(context) as server:

        def attempt(name):
            with fetching(resolve=lambda host: ["127.0.0.1"]) as fetch:
                return fetch(f"https://{name}:{server.server_port}/ok")

        with pytest.raises(FetchError, match="self-signed") as caught:
            attempt("images.example")  # nobody vouches for it yet
        assert caught.value.code is RejectCode.TLS
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        assert attempt("images.example") == PIXELS
        assert names[-1] == "images.example"
        with pytest.raises(FetchError, match="other.example") as caught:
            attempt("other.example")
        assert caught.value.code is RejectCode.TLS


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n", RejectCode.TLS),  # a plain server at this port
        (b"\x16\x03\x03\xff\xff" + bytes(70_000), RejectCode.TLS),
        (b"\x15\x03\x03\x00\x02\x02\x28", RejectCode.TLS),  # the alert of a failed handshake
        (b"", RejectCode.TIMEOUT),
        (None, RejectCode.CONNECTION),
    ],
)
def test_a_tls_handshake_that_fails_ends_in_time(sent, code):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    if sent is None:
                        connection.close()
                        continue
                    connection.sendall(sent)
                    kept.append(connection)

        kept = []
        threading.Thread(target=serve, daemon=True).start()
        with fetching(attempt_seconds=1.0) as fetch, pytest.raises(FetchError) as caught:
            fetch(f"https://127.0.0.1:{listener.getsockname()[1]}/x")
        for connection in kept:
            connection.close()
    assert caught.value.code is code, caught.value


def test_a_body_that_tls_does_not_end_is_cut(certificate, monkeypatch):
    """Whoever sits between may cut the connection, but not say that the body ends there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    with (
        running_server(context) as server,
        fetching(resolve=lambda host: ["127.0.0.1"]) as fetch,
        pytest.raises(FetchError) as caught,
    ):
        fetch(f"https://images.example:{server.server_port}/cut")
    assert caught.value.code is RejectCode.CUT_BODY
