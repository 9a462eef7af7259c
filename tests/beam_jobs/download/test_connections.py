"""Tests kept connections and answers byte by byte, by a real server on loopback that sends just what a test says."""

import asyncio
import contextlib
import hashlib
import http.client
import inspect
import socket
import subprocess
import sys
import threading
import time
import tracemalloc

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

from beam_jobs.download.entry import Body
from beam_jobs.download.errors import FetchError
from pipeline.images.policy import RejectCode
from tests.beam_jobs.scripted_server import BODY, HANG_UP, HEAD, RESET, WHOLE, Endless, fetching

SMALL = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 3\r\n\r\nabc"
LEGAL = {
    "plain": [WHOLE],
    "in pieces": [WHOLE[i : i + 7] for i in range(0, 140, 7)] + [WHOLE[140:]],
    "byte by byte": [part for i in range(len(SMALL)) for part in (SMALL[i : i + 1], 0.003)],
    "bare line feeds": [HEAD.replace(b"\r", b"") + b"Content-Length: 3\n\nabc"],
    "no reason": [b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc"],
    "folded": [b"HTTP/1.1 200 OK\r\nX-Long: a\r\n  b\r\nContent-Length: 3\r\n\r\nabc"],
    "early hints": [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"],
    "chunks": [HEAD + b"Transfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-After: 1\r\n\r\n"],
    "torn chunks": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"3", b"\r", b"\na", b"bc\r", b"\n0\r\n", b"\r\n"],
    "until the end": [HEAD + b"\r\n" + BODY, HANG_UP],
    "old server": [b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", HANG_UP],
}


@pytest.mark.parametrize("name", LEGAL)
def test_bodies_are_those_that_the_standard_library_reads(scripted, name):
    server = scripted([LEGAL[name]], [LEGAL[name]])
    peer = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=5)
    peer.request("GET", "/x")
    expected = peer.getresponse().read()
    peer.close()
    with fetching() as fetch:
        assert fetch(f"{server.url}/x") == expected


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ILLEGAL = {
    "no HTTP": ([b"SSH-2.0-OpenSSH_9.6\r\n"], RejectCode.CONNECTION, "SSH-2.0"),
    "HTTP/2": ([b"HTTP/2 200\r\n\r\n"], RejectCode.CONNECTION, "HTTP/2"),
    "odd status": ([b"HTTP/1.1 20 OK\r\n\r\n"], RejectCode.CONNECTION, "HTTP/1.1 20"),
    "two lengths": ([HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"], RejectCode.CONNECTION, "Length: 4"),
    "negative": ([HEAD + b"Content-Length: -3\r\n\r\nabc"], RejectCode.CONNECTION, "-3"),
    "not ASCII": ([HEAD + "Content-Length: ³\r\n\r\nabc".encode()], RejectCode.CONNECTION, "Content-Length"),
    "coding": ([HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n"], RejectCode.CONNECTION, "gzip, chunked"),
    "chunk size": ([CHUNKED + b"-3\r\nabc\r\n"], RejectCode.CONNECTION, "-3"),
    "chunk size behind a chunk": ([CHUNKED + b"3\r\nabc\r\n", 0.05, b"-3\r\n"], RejectCode.CONNECTION, "-3"),
    "huge chunk size": ([CHUNKED + b"f" * 17 + b"\r\n"], RejectCode.CONNECTION, "overflow"),
    "long chunk": ([CHUNKED + b"1\r\nabc\r\n"], RejectCode.CONNECTION, "abc"),
    "endless size": ([CHUNKED, Endless(b"0")], RejectCode.CONNECTION, "malformed"),
    "endless extension": ([CHUNKED + b"1;", Endless(b"x")], RejectCode.CONNECTION, "the body has 0"),
    "endless extensions": ([CHUNKED, Endless(b"1;" + b"x" * 500 + b"\r\na\r\n")], RejectCode.CONNECTION, "the body"),
    "endless trailer": ([CHUNKED + b"0\r\na: ", Endless(b"x")], RejectCode.CONNECTION, "65536"),
    "endless trailers": ([CHUNKED + b"3\r\nabc\r\n0\r\n", Endless(b"a: b\r\n")], RejectCode.CONNECTION, "Too many"),
    "endless head": ([b"HTTP/1.1 200 OK\r\nX: ", Endless(b"x")], RejectCode.CONNECTION, "65536"),
    "long head": ([HEAD + b"X: " + b"x" * 65_600 + b"\r\n\r\n"], RejectCode.CONNECTION, "65536"),
    "endless reason": ([b"HTTP/1.1 200 ", Endless(b"x")], RejectCode.CONNECTION, "65536"),
    "endless fields": ([HEAD, Endless(b"a: b\r\n")], RejectCode.CONNECTION, "Too many"),
    "endless hints": ([Endless(b"HTTP/1.1 103 Early Hints\r\n\r\n")], RejectCode.CONNECTION, "the body has 0"),
    "endless silence": ([Endless(b"\r\n")], RejectCode.CONNECTION, "the body has 0"),
    "other protocol": ([b"HTTP/1.1 101 Switching\r\n\r\n"], RejectCode.CONNECTION, "101"),
    "head cut": ([HEAD, HANG_UP], RejectCode.CONNECTION, "within the header"),
    "body cut": ([WHOLE[:-5], HANG_UP], RejectCode.CUT_BODY, f"{len(BODY) - 5} of {len(BODY)}"),
    "chunk cut": ([CHUNKED + b"9\r\nabc", HANG_UP], RejectCode.CUT_BODY, "before the last chunk"),
    "last chunk cut": ([CHUNKED + b"3\r\nabc\r\n", HANG_UP], RejectCode.CUT_BODY, "before the last chunk"),
    "too long": ([HEAD + b"Content-Length: 123456789\r\n\r\n"], RejectCode.TOO_MANY_BYTES, "123456789 bytes"),
    "long in chunks": ([CHUNKED, Endless(b"1000\r\n" + b"x" * 4096 + b"\r\n")], RejectCode.TOO_MANY_BYTES, "more than"),
    "endless bytes as chunks": ([CHUNKED, Endless(b"1\r\nx\r\n")], RejectCode.TOO_MANY_BYTES, "more than"),
    "folded noai": ([HEAD + b"X-Robots-Tag: noindex,\r\n\tnoai\r\nContent-Length: 0\r\n\r\n"], RejectCode.NOAI, "noai"),
}  # fmt: skip


@pytest.mark.parametrize("name", ILLEGAL)
def test_what_is_no_answer_is_refused_at_once(scripted, name):
    actions, code, detail = ILLEGAL[name]
    start = time.monotonic()
    nothing = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"  # for robots.txt
    server = scripted([[nothing], actions])
    with (
        fetching(attempt_seconds=20, max_bytes=100_000, obey_robots=True) as fetch,
        pytest.raises(FetchError) as caught,
    ):
        fetch(f"{server.url}/x")
    assert caught.value.code is code, caught.value
    assert detail in caught.value.detail
    assert time.monotonic() - start < 10


def test_one_connection_carries_many_requests(scripted):
    empty = [HEAD + b"Content-Length: 0\r\n\r\n"]
    server = scripted([[WHOLE], LEGAL["chunks"], empty, LEGAL["folded"], [WHOLE]])
    with fetching() as fetch:
        assert [len(fetch(f"{server.url}/{i}")) for i in range(2)] == [len(BODY), 13]
        with pytest.raises(FetchError, match="empty"):
            fetch(f"{server.url}/2")
        assert [len(fetch(f"{server.url}/{i}")) for i in range(3, 5)] == [3, len(BODY)]
    assert [number for number, _ in server.requests] == [0] * 5


@pytest.mark.parametrize("end", [HANG_UP, RESET])
def test_a_connection_closed_between_requests_is_replaced(scripted, end):
    server = scripted([[WHOLE, end]], [[WHOLE]])
    with fetching() as fetch:
        assert fetch(f"{server.url}/1") == BODY
        time.sleep(0.1)
        assert fetch(f"{server.url}/2") == BODY
    assert [number for number, _ in server.requests] == [0, 1]


@pytest.mark.parametrize("end", [HANG_UP, RESET])
def test_a_connection_closed_while_the_request_is_on_its_way_is_replaced_once(scripted, end):
    server = scripted([[WHOLE], [end]], [[end]], [[WHOLE]])
    with fetching() as fetch:
        assert fetch(f"{server.url}/1") == BODY
        with pytest.raises(FetchError) as caught:
            fetch(f"{server.url}/2")
        assert caught.value.code is RejectCode.CONNECTION
        assert caught.value.retry
    assert [(number, request.split()[1]) for number, request in server.requests] == [(0, b"/1"), (0, b"/2"), (1, b"/2")]


@pytest.mark.parametrize("end", [HANG_UP, RESET])
def test_nothing_is_asked_again_once_a_byte_of_the_answer_has_come(scripted, end):
    server = scripted([[WHOLE], [b"HTTP/1.1 2", 0.1, end]], [[WHOLE]])
    with fetching() as fetch:
        assert fetch(f"{server.url}/1") == BODY
        with pytest.raises(FetchError) as caught:
            fetch(f"{server.url}/2")
    assert caught.value.code is RejectCode.CONNECTION
    assert len(server.requests) == 2


def test_a_kept_connection_that_falls_silent_is_not_replaced(scripted):
    """The time is used up; another request would only double it."""
    server = scripted([[WHOLE], [5.0]], [[WHOLE]])
    with fetching() as fetch:
        assert fetch(f"{server.url}/1") == BODY
        with pytest.raises(FetchError) as caught:
            fetch(f"{server.url}/2")
    assert caught.value.code is RejectCode.TIMEOUT
    assert len(server.requests) == 2


EVIL = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 4\r\n\r\nevil"
DOUBTFUL = {
    "behind a length": [WHOLE + EVIL],
    "a little later": [WHOLE, 0.05, EVIL],
    "behind chunks": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + EVIL],
    "two ends": [HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
    "a line that is no field": [HEAD + b"Content-Length : 9\r\nContent-Length: 3\r\n\r\nabc"],
    "says that it closes": [HEAD + b"Connection: x, Close\r\nContent-Length: 3\r\n\r\nabc"],
    "old server": [b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc"],
    "an error whose body is not read": [b"HTTP/1.1 404 No\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 9_999_999],
    "half a head behind a length": [WHOLE + b"HTTP/1.1 200 OK\r\nX: "],
    "half a head a little later": [WHOLE, 0.05, b"HTTP/1.1 200 OK\r\nX: "],
    "half a head behind a redirect": [
        b"HTTP/1.1 302 No\r\nLocation: /next\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nX: "
    ],
    "a redirect whose body comes later": [
        b"HTTP/1.1 302 No\r\nLocation: /next\r\nContent-Length: 9\r\n\r\nabc",
        0.05,
        b"defghi",
    ],
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_nothing_behind_an_answer_passes_for_the_next_one(scripted, name):
    server = scripted([DOUBTFUL[name], [EVIL]], [[WHOLE], [WHOLE]])
    with fetching() as fetch:
        with contextlib.suppress(FetchError):
            fetch(f"{server.url}/1")
        time.sleep(0.1)
        assert fetch(f"{server.url}/2") == BODY
    assert [number for number, request in server.requests if b"/2" in request] == [1]


_FETCH = """
import resource, sys
from beam_jobs.download.entry import Body
from tests.beam_jobs.scripted_server import fetching
with fetching(attempt_seconds=60) as fetch:
    fetch(f"{sys.argv[1]}/warm")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Body() as body:
        fetch(f"{sys.argv[1]}/x", body)
    print(body.size, body.sha256, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_chunks_of_one_byte_take_no_more_memory_than_the_body(scripted):
    """In a process of its own, whose memory is the fetcher's. Held one by one the chunks would take a multiple."""
    data = bytes(range(256)) * 8000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in data)
    server = scripted([[WHOLE], [CHUNKED + chunks + b"0\r\n\r\n"]])
    done = subprocess.run(
        [sys.executable, "-c", _FETCH, server.url], capture_output=True, text=True, check=True, timeout=100
    )
    size, digest, grown = done.stdout.split()
    assert (int(size), digest) == (len(data), hashlib.sha256(data).hexdigest())
    # KiB. aiohttp holds up to 16,384 chunks that nobody has read yet.
    assert int(grown) < (len(data) >> 10) + 8_192


def test_a_body_in_single_bytes_takes_no_more_memory_than_its_bytes():
    tracemalloc.start()
    try:
        with Body() as body:
            for _ in range(500_000):
                body.write(b"x")
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_connections_that_wait_are_few():
    made = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    made.append(listener.accept()[0])
                    made[-1].recv(65536)
                    made[-1].sendall(HEAD + b"Content-Length: 3\r\n\r\nabc")

        threading.Thread(target=serve, daemon=True).start()
        with fetching(resolve=lambda host: ["127.0.0.1"]) as fetch:
            for number in range(100):
                fetch(f"http://host{number}.example:{listener.getsockname()[1]}/")
            time.sleep(0.1)
            closed = 0
            for connection in made:
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    closed += connection.recv(1) == b""
            assert (len(made), closed) == (100, 36)
        for connection in made:
            connection.close()


def test_what_is_private_in_aiohttp_is_still_there():
    """Fails first when aiohttp changes what connections.py reaches into."""

    async def made():
        connector = aiohttp.TCPConnector()
        protocol = connector._factory()
        await connector.close()
        return protocol

    protocol = asyncio.run(made())
    assert isinstance(protocol, ResponseHandler)
    for name in ("_payload", "_parser", "should_close", "set_response_params", "data_received", "connection_lost"):
        assert hasattr(protocol, name), name
    assert list(inspect.signature(aiohttp.TCPConnector._release).parameters) == [
        "self",
        "key",
        "protocol",
        "should_close",
    ]
    assert list(inspect.signature(aiohttp.TCPConnector.connect).parameters) == ["self", "req", "traces", "timeout"]


def test_a_redirect_that_came_whole_keeps_its_connection(scripted):
    server = scripted([[b"HTTP/1.1 302 No\r\nLocation: /next\r\nContent-Length: 9\r\n\r\nmoved: :)"], [WHOLE]])
    with fetching() as fetch:
        assert fetch(f"{server.url}/1") == BODY
    assert [number for number, _ in server.requests] == [0, 0]


def test_a_missing_file_whose_answer_came_whole_keeps_its_connection(scripted):
    server = scripted([[b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\nnot there"], [WHOLE]])
    with fetching() as fetch:
        with pytest.raises(FetchError, match="404"):
            fetch(f"{server.url}/1")
        assert fetch(f"{server.url}/2") == BODY
    assert [number for number, _ in server.requests] == [0, 0]


def test_an_old_server_may_ask_to_be_kept(scripted):
    server = scripted([[b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc"], [WHOLE]])
    with fetching() as fetch:
        assert [fetch(f"{server.url}/1"), fetch(f"{server.url}/2")] == [b"abc", BODY]
    assert [number for number, _ in server.requests] == [0, 0]


@pytest.mark.parametrize("pieces", [[b"abc"], [b"a" * 4096, b"bc"], [b"a" * 70_000, b"bc"]])
def test_a_head_and_a_body_sent_apart_do_not_wait_for_each_other(pieces):
    """With Nagle's algorithm the server's kernel sends the body when ours has acknowledged the head: 40 ms later."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65536):
                connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % sum(map(len, pieces)))
                for piece in pieces:
                    connection.sendall(piece)

    threading.Thread(target=serve, daemon=True).start()
    with listener, fetching() as fetch:
        start = time.monotonic()
        for i in range(50):
            assert fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/{i}") == b"".join(pieces)
        assert time.monotonic() - start < 1


def test_a_request_says_what_it_should_and_a_url_can_add_nothing(scripted):
    server = scripted([[WHOLE], [WHOLE]])
    with fetching(user_agent="bot/1 (me)") as fetch:
        fetch(f"{server.url}/a b?c=\u00fc\x7f%0d%0aX: y\x01")
        fetch(f"{server.url}/\r\nX-Evil: 1\r\n\r\nGET /evil")
    host = server.url.removeprefix("http://").encode()
    assert server.requests[0][1].split(b"\r\n") == [
        b"GET /a%20b?c=%C3%BC%7F%0d%0aX:%20y%01 HTTP/1.1",
        b"Host: " + host,
        b"User-Agent: bot/1 (me)",
        b"Accept: image/*,*/*;q=0.5",
        b"Accept-Encoding: identity",
        b"",
        b"",
    ]
    assert server.requests[1][1].startswith(b"GET /X-Evil:%201GET%20/evil HTTP/1.1\r\n")
    assert len(server.requests) == 2
