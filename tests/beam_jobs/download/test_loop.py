"""Tests downloads from a real server on loopback that misbehaves."""

import asyncio
import dataclasses
import gzip
import io
import pathlib
import socket
import time
import urllib.parse

import pytest

from beam_jobs.download.addresses import ANY_NETWORK
from beam_jobs.download.errors import FetchError
from beam_jobs.download.fetch import Fetcher
from beam_jobs.download.loop import backoff, download
from beam_jobs.download.policy import PRODUCT, DownloadPolicy, FetchPolicy
from beam_jobs.download.store import DownloadStore
from pipeline.images.policy import RejectCode
from tests.beam_jobs.misbehaving_server import PIXELS, running_server

LOOPBACK = ("127.0.0.1/32",)
FETCH = FetchPolicy(allowed_networks=LOOPBACK, attempt_seconds=5, max_bytes=1 << 20)
POLICY = DownloadPolicy(fetch=FETCH, attempts=3, backoff_seconds=0.01, total_seconds=10, max_wait_seconds=2.5)


@pytest.fixture
def server():
    with running_server() as running:
        yield running


@pytest.fixture
def store(tmp_path):
    return DownloadStore(str(tmp_path / "store"))


def run(urls, store, policy=POLICY):
    return {done.url: done for several in download(urls, store, policy) for done in several}


def fetch(url, policy, *, resolve):
    """Fetches one URL with names resolved by `resolve`; returns the bytes."""

    async def attempt():
        sink = io.BytesIO()
        async with Fetcher(policy, resolve=resolve) as fetcher:
            await fetcher.fetch(url, sink=sink)
        return sink.getvalue()

    return asyncio.run(attempt())


def limits(**changes):
    return dataclasses.replace(POLICY, attempts=1, fetch=dataclasses.replace(FETCH, **changes))


@pytest.mark.parametrize("path", ["ok", "chunked", "until_close", "redirect/301/ok", "redirect/307/redirect/308/ok"])
def test_bytes_arrive(server, store, path):
    url = f"{server.url}/{path}"
    done = run([url], store)[url]
    assert done.code is None, done
    assert store.read(done.sha256) == PIXELS
    assert done.size == len(PIXELS)


def test_one_blob_for_many_urls(server, store):
    run([f"{server.url}/ok/{i}" for i in range(5)], store)
    run([f"{server.url}/ok/again"], store)
    assert sum(path.stat().st_size for path in pathlib.Path(store.root).glob("blobs/*/*")) == len(PIXELS)


@pytest.mark.parametrize(
    ("path", "code", "detail", "changes"),
    [
        ("status/404", RejectCode.HTTP_STATUS, "404", {}),
        ("status/500", RejectCode.HTTP_STATUS, "500", {}),
        ("status/204", RejectCode.HTTP_STATUS, "204 No Content, and the body is empty", {}),
        ("html", RejectCode.CONTENT_TYPE, "text/html", {}),
        ("brotli", RejectCode.CONTENT_TYPE, "Content-Encoding: br", {}),
        ("cut", RejectCode.CUT_BODY, f"{len(PIXELS)} of {len(PIXELS) + 1000}", {}),
        ("chunked/cut", RejectCode.CUT_BODY, "before the last chunk", {}),
        ("endless", RejectCode.TOO_MANY_BYTES, "more than the 1048576", {}),
        ("huge", RejectCode.TOO_MANY_BYTES, "1099511627776 bytes announced", {}),
        ("drip_body", RejectCode.TIMEOUT, "", {"attempt_seconds": 0.3}),
        ("drip_header", RejectCode.TIMEOUT, "", {"attempt_seconds": 0.3}),
        ("drip_hints", RejectCode.TIMEOUT, "", {"attempt_seconds": 0.3}),
        ("silent", RejectCode.TIMEOUT, "", {"attempt_seconds": 0.3}),
        ("loop", RejectCode.TOO_MANY_REDIRECTS, "more than 5", {}),
        ("to/data:image|jpeg;base64,AAAA", RejectCode.BAD_URL, '"data" is neither http nor https', {}),
        ("to/ftp:||127.0.0.1|x.jpg", RejectCode.BAD_URL, '"ftp" is neither http nor https', {}),
        ("odd_words/status", RejectCode.HTTP_STATUS, "404 red \\udcff\\udcfe", {}),
        ("odd_words/redirect", RejectCode.TOO_MANY_REDIRECTS, "more than 5", {}),
        ("nowhere", RejectCode.HTTP_STATUS, "without a Location", {}),
        ("reset", RejectCode.CONNECTION, "", {}),
        ("garbage", RejectCode.CONNECTION, "", {}),
        ("noai/noai", RejectCode.NOAI, "noai", {}),
        ("noai/noindex,_noimageai", RejectCode.NOAI, "noimageai", {}),
        ("to/http:||10.1.2.3|secret", RejectCode.PRIVATE_ADDRESS, "10.1.2.3 is private", {}),
        ("to/http:||127.0.0.2|secret", RejectCode.PRIVATE_ADDRESS, "loopback", {}),
        ("to/http:||[::ffff:127.0.0.9]|", RejectCode.PRIVATE_ADDRESS, "loopback", {}),
        ("to/http:||169.254.169.254|latest", RejectCode.PRIVATE_ADDRESS, "metadata", {}),
        ("to/file:|||etc|passwd", RejectCode.BAD_URL, "neither http nor https", {}),
    ],
)
def test_failures_are_told_apart_and_end_in_time(server, store, path, code, detail, changes):
    url = f"{server.url}/{path}"
    start = time.monotonic()
    done = run([url], store, limits(**changes))[url]
    assert time.monotonic() - start < 10  # a busy machine's allowance; each would take 50 seconds or for ever
    assert done.code is code, done
    assert detail in done.detail
    assert done.detail.isprintable()
    assert not done.sha256


@pytest.mark.parametrize(
    "url",
    [
        "http:///nothing",
        "http://user:secret@127.0.0.1/",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "http://a..b/",
        "gopher://127.0.0.1/",
        "http://127.0.0.1/\ud800",
        "http://2130706433/",
    ],
)
def test_bad_urls(store, url):
    assert run([url], store)[url].code is RejectCode.BAD_URL


def test_unknown_host(store):
    url = "http://no-such-host.invalid/x.jpg"
    assert run([url], store, limits())[url].code is RejectCode.DNS


def test_connection_refused(store):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x.jpg"
    done = run([url], store)[url]
    assert done.code is RejectCode.CONNECTION
    assert "refused" in done.detail
    assert "3 attempts" in done.detail


def test_loopback_is_refused_by_default(server, store):
    url = f"{server.url}/ok"
    assert run([url], store, limits(allowed_networks=()))[url].code is RejectCode.PRIVATE_ADDRESS
    assert not server.requests
    assert run([url], store, limits(allowed_networks=ANY_NETWORK))[url].code is None


def test_the_connection_goes_to_the_address_that_was_checked(server):
    """The resolver changes its answer from a permitted address to loopback after the first question (DNS rebinding)."""
    answers = iter([["192.0.2.1"], ["127.0.0.1"]])  # the first is for documentation: nobody answers there
    asked = []

    def rebinding(host):
        asked.append(host)
        return next(answers)

    policy = FetchPolicy(attempt_seconds=0.3, obey_robots=False, allowed_networks=("192.0.2.0/24",))
    with pytest.raises(FetchError) as caught:
        fetch(f"http://rebind.example:{server.server_port}/ok", policy, resolve=rebinding)
    assert caught.value.code in (RejectCode.TIMEOUT, RejectCode.CONNECTION)
    assert asked == ["rebind.example"]
    assert not server.requests


def test_a_host_with_one_private_address_is_reached_at_the_others_only(server):
    policy = FetchPolicy(allowed_networks=LOOPBACK, attempt_seconds=2)
    url = f"http://two.example:{server.server_port}/ok"
    assert fetch(url, policy, resolve=lambda host: ["10.0.0.1", "127.0.0.1"]) == PIXELS
    assert server.requests[-1][1]["Host"] == f"two.example:{server.server_port}"


def test_retries_honour_retry_after_in_seconds_and_as_a_date(server, store):
    url = f"{server.url}/busy"
    done = run([url], store)[url]
    assert done.code is None, done
    first, second, third = server.times["/busy"]
    assert second - first >= 1.0
    assert 0.9 < third - second < 3  # a date of whole seconds, two seconds ahead


def test_retry_after_is_capped_and_the_total_time_holds(server, store):
    url = f"{server.url}/always_busy"
    policy = dataclasses.replace(POLICY, max_wait_seconds=0.2, attempts=3)
    start = time.monotonic()
    assert run([url], store, policy)[url].code is RejectCode.HTTP_STATUS
    assert 0.4 <= time.monotonic() - start < 10
    assert server.hits("/always_busy") == 3
    policy = dataclasses.replace(policy, max_wait_seconds=1000, total_seconds=5, retry_failed=True)
    start = time.monotonic()
    assert "429" in run([url], store, policy)[url].detail
    assert time.monotonic() - start < 4  # to wait for a time after the end would be pointless


def test_a_busy_host_is_left_alone_by_all(server, store):
    urls = [f"{server.url}/busy", *(f"{server.url}/ok/{i}" for i in range(20))]
    run(urls, store, dataclasses.replace(POLICY, fetch=dataclasses.replace(FETCH, per_host=1)))
    asked_to_wait = server.times["/busy"][0]
    early = [t for path, times in server.times.items() for t in times if 0 < t - asked_to_wait < 0.9]
    assert not early


@pytest.mark.parametrize("path", ["flaky", "cut_once"])
def test_passing_failures_are_retried(server, store, path):
    url = f"{server.url}/{path}"
    done = run([url], store)[url]
    assert store.read(done.sha256) == PIXELS


@pytest.mark.parametrize("path", ["status/404", "html", "noai/noai", "endless"])
def test_lasting_failures_are_not_retried(server, store, path):
    run([f"{server.url}/{path}"], store)
    assert server.hits(f"/{path}") == 1


def test_backoff_doubles_up_to_the_cap():
    policy = DownloadPolicy(backoff_seconds=1, max_wait_seconds=60)
    waits = [backoff(n, policy, retry_after=None, chance=0.5) for n in range(1, 9)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60]
    assert backoff(1, policy, retry_after=7, chance=0.5) == 7
    assert backoff(1, policy, retry_after=1e9, chance=0.5) == 60


def test_a_full_disk_is_no_reject(server, tmp_path):
    """Root passes over permissions, so a file stands where the store wants a directory."""
    (tmp_path / "store").write_text("")
    with pytest.raises(OSError, match="store"):
        run([f"{server.url}/ok"], DownloadStore(str(tmp_path / "store")))


def test_never_more_than_per_host_at_a_time(server, store):
    urls = [f"{server.url}/slow/{i}" for i in range(24)]
    policy = dataclasses.replace(POLICY, fetch=dataclasses.replace(FETCH, per_host=3))
    assert all(done.code is None for done in run(urls, store, policy).values())
    assert server.most_active == 3


def test_connections_are_kept_alive(server, store):
    run([f"{server.url}/unique/{i}" for i in range(100)], store)
    assert len(server.requests) == 101  # and robots.txt
    assert server.connections <= FETCH.per_host + 1


def test_a_dead_host_is_given_up_and_does_not_hold_up_others(server, store):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = [f"http://localhost:{free.getsockname()[1]}/{i}" for i in range(500)]
    fetch = dataclasses.replace(FETCH, allowed_networks=("127.0.0.1/32", "::1/128"), per_host=2)
    policy = dataclasses.replace(POLICY, fetch=fetch, attempts=2, backoff_seconds=0.2)
    alive = [f"{server.url}/ok/{i}" for i in range(20)]
    start = time.monotonic()
    done = run(dead + alive, store, policy)
    assert time.monotonic() - start < 20  # each by itself would take 50 seconds
    assert {done[url].code for url in dead} == {RejectCode.CONNECTION}
    assert sum("given up" in done[url].detail for url in dead) > 480
    assert all(done[url].code is None for url in alive)


def test_a_host_that_is_always_unavailable_is_given_up(server, store):
    """At 4 requests for each of 10,000 URLs, with the wait that it asks for, it would take days."""
    urls = [f"{server.url}/unavailable/{i}" for i in range(10_000)]
    alive = [f"http://localhost:{server.server_port}/ok/{i}" for i in range(20)]
    fetch = dataclasses.replace(FETCH, allowed_networks=("127.0.0.1/32", "::1/128"))
    start = time.monotonic()
    done = run(urls + alive, store, dataclasses.replace(POLICY, fetch=fetch, max_wait_seconds=0.5))
    assert time.monotonic() - start < 60
    assert all(done[url].code is None for url in alive)
    given_up = [url for url in urls if "given up" in done[url].detail]
    assert len(given_up) > 9_980
    assert {done[url].code for url in given_up} == {RejectCode.CONNECTION}
    assert {done[url].code for url in urls} == {RejectCode.CONNECTION, RejectCode.HTTP_STATUS}
    asked = sorted(moment for path, moments in server.times.items() if "/unavailable" in path for moment in moments)
    assert len(asked) < 60
    # At most `per_host` at once, then a rest as long as it may be.
    assert all(later - earlier > 0.4 for earlier, later in zip(asked, asked[FETCH.per_host :], strict=False))


@pytest.mark.parametrize(
    ("status", "retry_after"),
    [(503, value) for value in ("1000000000", "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", "nan", "9" * 5000)]
    + [(status, "1000000000") for status in (408, 425, 429, 500, 504)],
)
def test_a_host_that_always_asks_us_to_wait_is_given_up(server, store, status, retry_after):
    urls = [f"{server.url}/busy_for/{status}/{urllib.parse.quote(retry_after)}/{i}" for i in range(200)]
    done = run(urls, store, dataclasses.replace(POLICY, max_wait_seconds=0.1))
    assert sum("given up" in result.detail for result in done.values()) > 180
    # Alone each would be asked for three times. How many are under way when the host is given up depends on the load.
    assert sum(server.hits(path) for path in server.times) < len(urls) / 2


def test_a_failure_that_lasts_makes_nobody_wait(server, store):
    urls = [f"{server.url}/busy_for/404/1000000000/{i}" for i in range(100)]
    start = time.monotonic()
    done = run(urls, store)
    assert time.monotonic() - start < 20  # 250 seconds with the waits, as far as the policy allows them
    assert {result.detail for result in done.values()} == {"404 Not Found"}


def test_a_host_whose_robots_txt_always_fails_is_given_up(server, store):
    server.robots = (503, "")
    done = run([f"{server.url}/ok/{i}" for i in range(1000)], store)
    assert sum("given up" in result.detail for result in done.values()) > 980
    assert server.hits("/robots.txt") < 100  # of 3,000: URLs that wait for another attempt let others begin


def test_a_urls_own_server_error_does_not_make_its_host_dead(server, store):
    urls = [f"{server.url}/status/500?{i}" for i in range(20)]
    alive = f"{server.url}/ok/last"
    done = run([*urls, alive], store, limits())
    assert {done[url].detail for url in urls} == {"500 Internal Server Error"}
    assert done[alive].code is None


def test_a_robots_txt_that_drips_ends_with_the_attempt(server, store):
    server.robots = (200, "User-agent: *\nDisallow: /nothing\n" * 100)
    server.robots_seconds = 0.05
    url = f"{server.url}/ok"
    start = time.monotonic()
    done = run([url], store, limits(attempt_seconds=0.3))[url]
    assert time.monotonic() - start < 5
    assert done.code is RejectCode.TIMEOUT


def test_robots_txt_is_obeyed_and_asked_for_once(server, store):
    server.robots = (200, f"User-agent: {PRODUCT}\nDisallow: /ok/private\n")
    urls = [f"{server.url}/ok/private/{i}" for i in range(3)] + [f"{server.url}/ok/public/{i}" for i in range(3)]
    done = run(urls, store)
    assert [done[url].code for url in urls] == [RejectCode.ROBOTS] * 3 + [None] * 3
    assert server.hits("/robots.txt") == 1
    assert not server.hits("/ok/private/0")
    assert server.requests[0][1]["User-Agent"].startswith(f"{PRODUCT}/")


def test_robots_txt_is_obeyed_after_redirects(server, store):
    server.robots = (200, "User-agent: *\nDisallow: /ok\n")
    url = f"{server.url}/redirect/302/ok"
    assert run([url], store)[url].code is RejectCode.ROBOTS
    assert not server.hits("/ok")


@pytest.mark.parametrize(("status", "code"), [(404, None), (403, None), (503, RejectCode.ROBOTS)])
def test_missing_and_failing_robots_txt(server, store, status, code):
    server.robots = (status, "")
    url = f"{server.url}/ok"
    done = run([url], store)[url]
    assert done.code is code
    assert server.hits("/robots.txt") == (3 if code else 1)


def test_a_robots_txt_without_end_is_cut(server, store):
    server.robots = (200, "User-agent: *\nDisallow: /ok/private\n" + "# filler\n" * 100_000)
    urls = [f"{server.url}/ok/private", f"{server.url}/ok/public"]
    assert [run([url], store)[url].code for url in urls] == [RejectCode.ROBOTS, None]


def test_a_robots_txt_that_comes_packed_is_read_within_its_limit(server, store):
    text = b"User-agent: *\nDisallow: /ok/private\n" + b"# filler\n" * 10_000_000
    server.robots = (200, gzip.compress(text))
    urls = [f"{server.url}/ok/private", f"{server.url}/ok/public"]
    assert [run([url], store)[url].code for url in urls] == [RejectCode.ROBOTS, None]


def test_a_robots_txt_of_hostile_patterns_holds_up_nobody(server, store):
    server.robots = (200, "User-agent: *\n" + "Disallow:*ba\n" * 30_000)
    urls = [f"{server.url}/ok/{'a' * 15_000}{i}" for i in range(500)]
    alive = [f"http://localhost:{server.server_port}/ok/{i}" for i in range(20)]
    fetch = dataclasses.replace(FETCH, allowed_networks=("127.0.0.1/32", "::1/128"))
    done = run(urls + alive, store, dataclasses.replace(POLICY, fetch=fetch))  # at 1 s a URL, beyond every deadline
    assert {done[url].code for url in urls} == {RejectCode.ROBOTS}
    assert all("too many" in done[url].detail for url in urls)
    assert not server.hits(urls[0].removeprefix(server.url))


def test_no_cookie_is_kept(server, store):
    url = f"{server.url}/cookie"
    assert run([url], store)[url].code is None
    assert run([f"{server.url}/ok/later"], store)
    assert not [headers for _, headers in server.requests if "Cookie" in headers]


def test_robots_and_noai_can_be_overruled(server, store):
    server.robots = (200, "User-agent: *\nDisallow: /\n")
    url = f"{server.url}/noai/noai"
    assert run([url], store, limits(obey_robots=False))[url].code is None
    assert not server.hits("/robots.txt")
