"""Tests that the body of an answer decides what it is, not what its header calls it."""

import gzip
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from beam_jobs.download.content import Unpacker
from beam_jobs.download.errors import FetchError
from pipeline.images.policy import RejectCode
from tests.beam_jobs.scripted_server import fetching


def picture(form="JPEG"):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)).save(out, form)
    return out.getvalue()


JPEG = picture()
HTML = b"<!doctype html><title>not here</title>" + b"<p>" * 1000
TEXT = b"neither page nor picture " * 100
PAGE = "Content-Type: text/html; charset=utf-8"


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def answer(body, *headers, status="200 OK"):
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def get(scripted, *parts, **limits):
    with fetching(**limits) as fetch:
        return fetch(f"{scripted([list(parts)]).url}/x")


def refused(scripted, *parts, **limits):
    with pytest.raises(FetchError) as caught:
        get(scripted, *parts, **limits)
    return caught.value


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/jpg", "jpg", "application/octetstream", "text/html", "APPLICATION/XHTML+XML", "", ";"]
    + ["video/mp4", "image", "application/json; charset=utf-8", "multipart/form-data", "\x80\xff", "x" * 5000],
)
@pytest.mark.parametrize("form", ["JPEG", "GIF"])
def test_an_image_is_one_under_any_type(scripted, kind, form):
    assert get(scripted, answer(picture(form), f"Content-Type: {kind}")) == picture(form)


@pytest.mark.parametrize("kind", ["text/html", "Text/HTML;charset=x", "application/xhtml+xml"])
@pytest.mark.parametrize("body", [HTML, HTML[:20], b"\r\n\r\n" + HTML, gzip.compress(HTML, mtime=0)])
def test_a_page_that_says_so_is_refused_as_one(scripted, kind, body):
    encoding = ["Content-Encoding: gzip"] if body[:2] == b"\x1f\x8b" else []
    error = refused(scripted, answer(body, f"Content-Type: {kind}", *encoding))
    assert error.code is RejectCode.CONTENT_TYPE
    assert f"Content-Type: {kind}" in error.detail
    assert not error.retry


@pytest.mark.parametrize("kind", ["image/jpeg", "text/plain", "application/json"])
def test_what_does_not_say_that_it_is_a_page_is_left_to_the_inspection(scripted, kind):
    assert get(scripted, answer(HTML, f"Content-Type: {kind}")) == HTML


def test_a_pages_first_bytes_may_come_one_by_one(scripted):
    data = answer(JPEG, PAGE)
    assert get(scripted, *(data[i : i + 1] for i in range(700)), data[700:]) == JPEG


@pytest.mark.parametrize("token", ["utf-8", "binary", "none", "identity", "image/jpeg", "x-gzip", "gzip", "deflate"])
@pytest.mark.parametrize("more", ["", ", br", ";q=1"])
def test_an_encoding_that_an_image_has_not_is_none(scripted, token, more):
    assert get(scripted, answer(JPEG, f"Content-Encoding: {token}{more}")) == JPEG


@pytest.mark.parametrize("token", ["utf-8", "aws-chunked", "7bit", "gzip", "x-gzip"])
def test_an_unknown_encoding_or_a_false_gzip_means_none(scripted, token):
    assert get(scripted, answer(TEXT, f"Content-Encoding: {token}")) == TEXT


PACKED = {
    "gzip": ("GZip", gzip.compress),
    "old name": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "without its header": ("deflate", raw_deflate),
    "beside unknown ones": ("utf-8, gzip, identity", gzip.compress),
    "junk behind": ("gzip", lambda data: gzip.compress(data) + b"junk" * 100),
}


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("data", [JPEG, JPEG[:100], TEXT, bytes(900_000)], ids=["image", "cut", "text", "zeros"])
def test_gzip_and_deflate_are_undone(scripted, name, data):
    token, pack = PACKED[name]
    assert get(scripted, answer(pack(data), f"Content-Encoding: {token}")) == data


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
@pytest.mark.parametrize("step", [1, 3, 511, 512, 513, 5000])
def test_pieces_of_any_size_give_the_same(pack, step):
    for data in (JPEG, bytes(258 * 3000), TEXT * 100):
        out = []
        unpacker = Unpacker("gzip" if pack is gzip.compress else "deflate", out.append)
        body = pack(data)
        for start in range(0, len(body), step):
            unpacker.feed(body[start : start + step])
        unpacker.close()
        assert b"".join(out) == data
        assert max(map(len, out)) <= 1 << 18


@pytest.mark.parametrize("token", ["br", "zstd", "compress", "gzip, gzip", "br, gzip"])
def test_an_encoding_that_nobody_asked_for_is_named(scripted, token):
    error = refused(scripted, answer(b"\x28\xb5\x2f\xfd" + TEXT, f"Content-Encoding: {token}", PAGE))
    assert error.code is RejectCode.CONTENT_TYPE
    assert f"Content-Encoding: {token}" in error.detail


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
def test_damaged_compression_is_refused(scripted, pack):
    token = "gzip" if pack is gzip.compress else "deflate"
    body = pack(picture("BMP"))
    cut = refused(scripted, answer(body[:-9], f"Content-Encoding: {token}"))
    assert (cut.code, cut.retry) == (RejectCode.CUT_BODY, True)
    if pack is not raw_deflate:  # which has no checksum
        damaged = refused(scripted, answer(body[:-9] + bytes(9), f"Content-Encoding: {token}"))
        assert (damaged.code, damaged.retry) == (RejectCode.CONTENT_TYPE, False)


def test_deflate_of_what_is_not_is_refused(scripted):
    assert refused(scripted, answer(TEXT, "Content-Encoding: deflate")).code is RejectCode.CONTENT_TYPE


def test_a_bomb_is_no_more_than_the_bytes_allowed(scripted):
    packer, bomb = zlib.compressobj(wbits=31), b""
    for _ in range(60):
        bomb += packer.compress(bytes(1 << 20))
    bomb += packer.flush()
    assert len(bomb) < 70_000

    class Counting:
        size = 0

        def write(self, data):
            self.size += len(data)

    sink = Counting()
    server = scripted([[answer(bomb, "Content-Encoding: gzip")]])
    with fetching(max_bytes=1 << 20) as fetch, pytest.raises(FetchError) as caught:
        fetch(f"{server.url}/x", sink)
    assert caught.value.code is RejectCode.TOO_MANY_BYTES
    assert sink.size <= 1 << 20


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "203 Non-Authoritative Information", "226 IM Used", "299"])
def test_any_success_with_a_body_counts(scripted, status):
    assert get(scripted, answer(JPEG, status=status)) == JPEG


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "204 No Content", "205 Reset Content"])
@pytest.mark.parametrize("header", ["Content-Type: image/jpeg", PAGE, "Content-Encoding: gzip", "Content-Encoding: br"])
def test_a_success_without_a_body_is_refused(scripted, status, header):
    error = refused(scripted, answer(b"", header, status=status))
    assert error.code is RejectCode.HTTP_STATUS
    assert error.detail == f"{status}, and the body is empty"


@pytest.mark.parametrize(
    ("content_range", "whole"),
    [
        (f"bytes 0-{len(JPEG) - 1}/{len(JPEG)}", True),
        (f"bytes 0-{len(JPEG) - 1}/*", True),
        (None, True),
        ("nonsense", True),
        (f"bytes 0-{'9' * 400}/{'9' * 401}", True),
        (f"bytes 0-{len(JPEG) - 1}/{len(JPEG) + 1}", False),
        (f"bytes 5-{len(JPEG) + 4}/*", False),
        ("BYTES 10-20/21", False),
    ],
)
def test_a_part_is_refused_where_it_says_that_it_is_one(scripted, content_range, whole):
    headers = [f"Content-Range: {content_range}"] if content_range else []
    part = answer(JPEG, *headers, status="206 Partial Content")
    if whole:
        assert get(scripted, part) == JPEG
    else:
        error = refused(scripted, part)
        assert (error.code, error.retry) == (RejectCode.CUT_BODY, True)
        assert content_range in error.detail
