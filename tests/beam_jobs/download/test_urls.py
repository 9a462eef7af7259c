"""Tests that a URL or Location, whatever it holds, leads where it says or is refused: never further, never an error."""

import collections
import random
import socket
import urllib.parse

import pytest
import yarl

from beam_jobs.download.errors import FetchError
from beam_jobs.download.loop import download
from beam_jobs.download.policy import DownloadPolicy, FetchPolicy
from beam_jobs.download.store import DownloadStore
from beam_jobs.download.urls import parse_url
from pipeline.images.policy import RejectCode
from tests.beam_jobs.misbehaving_server import PIXELS, running_server
from tests.beam_jobs.scripted_server import BODY, WHOLE, fetching

LOCATIONS = {
    b"http://[::1": RejectCode.BAD_URL,
    b"http://[zz]/": RejectCode.BAD_URL,
    b"http://a..b/": RejectCode.BAD_URL,
    b"http://127.0.0.1:99999/": RejectCode.BAD_URL,
    b"http://127.0.0.1:port/": RejectCode.BAD_URL,
    b"https:///x": RejectCode.BAD_URL,
    b"http://me@127.0.0.1/": RejectCode.BAD_URL,
    b"http://\xff\xfe/": RejectCode.BAD_URL,
    b"http://exa mple/": RejectCode.BAD_URL,
    b"javascript:alert(1)": RejectCode.BAD_URL,
    b"http://2130706433/": RejectCode.BAD_URL,
    b"http://127.1/": RejectCode.BAD_URL,
    b"http://127.0.0.2/": RejectCode.PRIVATE_ADDRESS,
    b"http://[::ffff:7f00:2]/": RejectCode.PRIVATE_ADDRESS,
    b"http://[fe80::1%25eth0]/": RejectCode.PRIVATE_ADDRESS,
}


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_location_that_leads_nowhere_is_refused(scripted, location):
    server = scripted([[b"HTTP/1.1 302 No\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"]])
    with fetching() as fetch, pytest.raises(FetchError) as caught:
        fetch(f"{server.url}/x")
    assert caught.value.code is LOCATIONS[location], caught.value
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/ü b?ä".encode(), b"/%C3%BC%20b?%C3%A4"),  # UTF-8, as browsers read it
        (b"/\xfc", b"/%FC"),  # other bytes as they are
        (b"../../up", b"/up"),
        (b"?q", b"/x?q"),
        (b"  /spaces  ", b"/spaces"),
    ],
)
def test_a_location_is_read_as_browsers_do(scripted, location, asked):
    server = scripted([[b"HTTP/1.1 302 No\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"], [WHOLE]])
    with fetching() as fetch:
        assert fetch(f"{server.url}/x") == BODY
    assert server.requests[1][1].split()[1] == asked


@pytest.mark.parametrize("name", ["bücher.example".encode(), b"B\xc3\x9cCHER.example", b"xn--bcher-kva.example"])
def test_a_location_on_another_host_is_utf_8_in_name_and_path(name):
    with running_server() as server, fetching(resolve=lambda host: ["127.0.0.1"]) as fetch:
        server.locations = [b"http://%s:%d/ok/\xc3\xbc\xff?\xe2\x82\xac" % (name, server.server_port)]
        assert fetch(f"{server.url}/location/0") == PIXELS
        asked, headers = server.requests[-1]
    assert asked == "/ok/%C3%BC%FF?%E2%82%AC"
    assert headers["Host"] == f"xn--bcher-kva.example:{server.server_port}"


# What damaged tables and evil servers put together; of each list the first is sound.
# fmt: off
SCHEMES = [
    "http://", "https://", "HTTP://", "http:", "http:/", "http:///", "//", "", "file://", "data:,", "javascript:",
]
USERS = ["", "me@", "me:pw@", ":@", "@", "a@b@", "[@", "%40@"]
HOSTS = [
    "host.example", "", "127.0.0.3", "127.1", "2130706433", "0x7f.1", "[::1]", "[::1", "::1]", "[fe80::1%25eth0]",
    "[::ffff:127.0.0.3]", "[v1.x]", "[]", "a..b", ".", "-", "xn--", "xn--a\xe9", "é.example", "ß", "．", "\u2100",
    "\u202ehost", "a" * 70, "é" * 300, "a." * 3000, "\ud800", "\udcff", "a\x00b", "a b", "a\tb", "a\nb", "%31", "a%00b",
    "a_b", "*", "a\\b", "me@host",
]
PORTS = [
    "", ":", ":80", ":0", ":65535", ":65536", ":99999", ":-1", ":port", ":٣", ":" + "9" * 5000, "::80", ":+80", ": 80",
]
TAILS = [
    "", "/", "/x.jpg", "/a b", "/%", "/%zz", "/%00", "/\x00", "/\r\nX: y", "/ü", "/\ud800", "/\udcff", "\\x", "/\\..",
    "/../..", "?", "?a[b]=]", "#", "/" + "a" * 100_000, "?" + "%" * 100_000, "/\u202e", "/\u2028", "/x?u=http://[::1",
    ";", "/[", "/\x7f\x1b[0m",
]
# fmt: on


def hostile_urls(count):
    chance = random.Random(15)
    urls = []
    for _ in range(count):
        url = "".join(
            chance.choice(parts) if chance.random() < 0.3 else parts[0]
            for parts in (SCHEMES, USERS, HOSTS, PORTS, TAILS)
        )
        if chance.random() < 0.3:  # and anything may have been lost, doubled or put anywhere
            place = chance.randrange(len(url) + 1)
            other = chance.choice(["", "\x00", " ", "[", "]", "@", "%", "\u2066", "é", url])
            url = url[:place] + other + url[place + 1 :]
        urls.append(url)
    return urls


def test_a_url_is_refused_or_fit_to_be_sent():
    refused, taken = [], 0
    for url in hostile_urls(20_000):
        try:
            target = parse_url(url)
        except FetchError as error:
            refused.append(error)
            continue
        taken += 1
        assert target.url.isascii()
        assert target.url.isprintable()
        assert not set(' \\<>"') & set(target.url)
        assert len(target.url) < 200_000
        assert target.scheme in ("http", "https")
        assert 0 < target.port < 65_536
        parts = urllib.parse.urlsplit(target.url)
        assert (parts.hostname, parts.port or target.port) == (target.host, target.port)
        assert parse_url(target.url) == target
        try:
            library = yarl.URL(target.url, encoded=True)
        except ValueError:
            continue  # the fetcher refuses it, see below
        assert library.port == target.port
        assert library.raw_host == target.host
    assert min(len(refused), taken) > 2000
    assert {error.code for error in refused} == {RejectCode.BAD_URL}
    assert all(error.detail.isprintable() and len(error.detail) < 2000 for error in refused)


def nobody(host):
    raise socket.gaierror(socket.EAI_NONAME, "unknown")


def test_no_listed_url_is_a_bug(tmp_path):
    urls = list(dict.fromkeys(hostile_urls(3000)))
    policy = DownloadPolicy(fetch=FetchPolicy(obey_robots=False), attempts=1)
    done = [one for several in download(urls, DownloadStore(str(tmp_path)), policy, resolve=nobody) for one in several]
    assert sorted(one.url for one in done) == sorted(urls)
    assert {one.code for one in done if "given up" not in one.detail} == {
        RejectCode.BAD_URL,
        RejectCode.DNS,
        RejectCode.PRIVATE_ADDRESS,
    }
    assert all(one.detail.isprintable() for one in done)


def test_no_redirect_is_a_bug():
    chance = random.Random(16)
    locations = [url.encode("utf-8", "surrogatepass") for url in hostile_urls(1000) if "\n" not in url]
    locations = [where for where in locations if len(where) < 60_000]  # a longer head is refused as one
    for number in range(0, len(locations), 3):  # bytes that are no text
        place = chance.randrange(len(locations[number]) + 1)
        locations[number] = locations[number][:place] + bytes([chance.randrange(128, 256)]) + locations[number][place:]
    with running_server() as server, fetching(resolve=nobody) as fetch:
        server.locations = locations
        errors = []
        for number in range(len(locations)):
            with pytest.raises(FetchError) as caught:  # those that lead back lead to nothing
                fetch(f"{server.url}/location/{number}")
            errors.append(caught.value)
    told = collections.Counter(error.code for error in errors)
    assert set(told) == {
        RejectCode.BAD_URL,
        RejectCode.DNS,
        RejectCode.PRIVATE_ADDRESS,
        RejectCode.HTTP_STATUS,
        RejectCode.TOO_MANY_REDIRECTS,
        RejectCode.CONNECTION,
    }
    assert all(error.detail.isprintable() for error in errors)
    unfit = [where for where, error in zip(locations, errors, strict=True) if error.code is RejectCode.CONNECTION]
    assert all(set(where) & {0, 0x1B, 0x7F} for where in unfit)  # no header at all


def test_a_url_longer_than_servers_take_is_refused():
    assert parse_url("http://host.example/" + "a" * 16_000).path[-1] == "a"
    with pytest.raises(FetchError, match="100020 characters") as caught:
        parse_url("http://host.example/" + "a" * 100_000)
    assert caught.value.code is RejectCode.BAD_URL
    assert len(caught.value.detail) < 400


def test_urls_are_written_out_in_ascii():
    assert parse_url("HTTP://Bücher.example:80/ä b?q=ü&x=%20#frag").url == (
        "http://xn--bcher-kva.example/%C3%A4%20b?q=%C3%BC&x=%20"
    )
    assert parse_url("https://[2606:4700::1]:8443").url == "https://[2606:4700::1]:8443/"


@pytest.mark.parametrize("host", ["exa mple", "a\x00b", "a\\b", "a\x7fb"])
def test_host_names_that_are_none(host):
    with pytest.raises(FetchError) as caught:
        parse_url(f"http://{host}/x.jpg")
    assert caught.value.code is RejectCode.BAD_URL
