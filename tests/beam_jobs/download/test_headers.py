"""Tests the headers that a user adds to downloads: which are taken, and how far they travel."""

import subprocess
import sys

import pytest

from beam_jobs.download.headers import is_at_home, parse_header
from beam_jobs.download.policy import FetchPolicy, default_user_agent
from beam_jobs.download.urls import parse_url
from pipeline.command import installed_version
from tests.beam_jobs.misbehaving_server import PIXELS, running_server
from tests.beam_jobs.scripted_server import fetching

GIVEN = (
    ("Referer", "https://site.example/page"),
    ("Accept", "image/webp"),
    ("Authorization", "Bearer secret"),
    ("Cookie", "id=secret"),
    ("X-Api-Key", "secret"),
)
ANYWHERE = {"Referer": "https://site.example/page", "Accept": "image/webp"}


@pytest.fixture
def server():
    with running_server() as running:
        yield running


def sent(server, path):
    (headers,) = [headers for asked, headers in server.requests if asked == path]
    return {name: headers[name] for name, _ in GIVEN if name in headers}


def local(host):
    return ["127.0.0.1"]


def test_headers_are_sent_to_the_listed_host_and_not_for_robots_txt(server):
    with fetching(headers=GIVEN, obey_robots=True, resolve=local) as fetch:
        assert fetch(f"http://a.example:{server.server_port}/redirect/302/ok") == PIXELS
    assert sent(server, "/redirect/302/ok") == sent(server, "/ok") == dict(GIVEN)
    assert sent(server, "/robots.txt") == {"Accept": "image/*,*/*;q=0.5"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_secrets_stay_with_the_listed_host(server, status):
    port = server.server_port
    back = f"/to/http:%7C%7Ca.example:{port}%7Cok%7Cback"
    server.locations = [f"http://b.example:{port}{back}".encode()]
    with fetching(headers=GIVEN, resolve=local) as fetch:
        assert fetch(f"http://a.example:{port}/redirect/{status}/location/0") == PIXELS
    assert sent(server, f"/redirect/{status}/location/0") == sent(server, "/location/0") == dict(GIVEN)
    assert sent(server, back) == ANYWHERE
    assert sent(server, "/ok/back") == ANYWHERE  # who was elsewhere may have been told where to go


@pytest.mark.parametrize(
    ("first", "then", "home"),
    [
        ("http://a.example/", "http://a.example:80/x", True),
        ("http://a.example/", "https://a.example/", True),
        ("https://a.example/", "http://a.example/", False),
        ("http://a.example/", "http://a.example:8080/", False),
        ("http://a.example/", "https://a.example:8443/", False),
        ("http://a.example:8080/", "https://a.example/", False),
        ("https://a.example/", "https://www.a.example/", False),
        ("https://a.example/", "https://A.EXAMPLE:443/", True),
    ],
)
def test_home_is_the_same_origin_or_its_default_port_by_tls(first, then, home):
    assert is_at_home(parse_url(first), parse_url(then)) is home


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Referer", "no colon"),
        (": x", "letters"),
        ("Re ferer: x", "letters"),
        ("Référer: x", "letters"),
        ("Referer:", "not empty"),
        ("Referer: a\r\nX: y", "one line"),
        ("Referer: a\nX: y", "one line"),
        ("Referer: a\x00", "one line"),
        ("Referer: ü", "one line"),
        ("Host: evil.example", "the URL"),
        ("content-LENGTH: 9", "connection"),
        ("Transfer-Encoding: chunked", "connection"),
        ("Connection: close", "connection"),
        ("Keep-Alive: 9", "connection"),
        ("Proxy-Authorization: x", "connection"),
        ("TE: trailers", "connection"),
        ("Upgrade: h2c", "connection"),
        ("Expect: 100-continue", "connection"),
        ("User-Agent: x", "--user_agent"),
        ("Accept-Encoding: br", "as they are"),
        ("Range: bytes=0-1", "whole"),
        ("If-None-Match: x", "whole"),
    ],
)
def test_headers_that_would_harm_are_refused(text, told):
    with pytest.raises(ValueError, match=told):
        FetchPolicy(headers=(parse_header(text),))


def test_a_header_is_given_once():
    with pytest.raises(ValueError, match="twice"):
        FetchPolicy(headers=(("Referer", "a"), ("referer", "b")))


def test_failures_count_for_the_headers_they_came_of_and_nobody_reads_a_secret():
    plain, with_key = FetchPolicy(), FetchPolicy(headers=GIVEN)
    assert plain.digest() != with_key.digest()
    assert "secret" not in repr(with_key)


def build(tmp_path, *flags):
    command = [sys.executable, "-m", "beam_jobs.build_tfrecords", "--source=csv", f"--output={tmp_path}/out", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_wrong_header_is_a_usage_error(tmp_path):
    done = build(tmp_path, "--input=t.csv", "--header=Referer: https://a.example/, b", "--header=Host: x")
    assert (done.returncode, done.stderr) == (
        64,
        "error: download flags: header Host: not to be set (it comes from the URL)\n",
    )


@pytest.mark.slow
def test_the_flag_reaches_the_server(server, tmp_path):
    (tmp_path / "t.csv").write_text(f"uri,label\n{server.url}/ok,cat\n")
    flags = ["--header=Referer: https://a.example/?x=1, 2", "--header=X-Key: a: b", "--allow_private_addresses"]
    build(tmp_path, f"--input={tmp_path}/t.csv", *flags)
    (headers,) = [headers for asked, headers in server.requests if asked == "/ok"]
    assert (headers["Referer"], headers["X-Key"]) == ("https://a.example/?x=1, 2", "a: b")
    assert headers["User-Agent"] == default_user_agent()


def test_we_introduce_ourselves_with_the_packages_version():
    name, _, rest = default_user_agent().partition("/")
    assert (name, rest.split()[0]) == ("tpu-retraining-image-builder", installed_version() or "0")
