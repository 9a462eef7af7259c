"""Makes small sound files of everything that is fuzzed: what mutations begin with."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from beam_jobs import findings
from beam_jobs.coders import finding_bytes
from beam_jobs.download import store
from beam_jobs.download.entry import Download
from beam_jobs.elements import Finding
from pipeline.format.manifest import Manifest, Shard
from pipeline.format.packing import pack
from pipeline.format.records import Record, encode_example, frame
from pipeline.images.look import inspect
from pipeline.images.pixels import FORMATS
from pipeline.images.policy import PixelPolicy, Reject, RejectCode
from tests.pipeline.images.files import png_chunk, save, tags_block, tiff

_SIDE = 16
_GREY_RAMP = bytes(range(0, 256, 16)) * _SIDE


def _photo(mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[:_SIDE, :_SIDE]
    planes = np.stack([x * 16, y * 16, 127 + 90 * np.sin(x / 3) * np.cos(y / 2)], -1)
    return Image.fromarray(planes.astype(np.uint8)).convert(mode)


def _exif(order: str = "<") -> bytes:
    """Makes an EXIF block: turned by a quarter, with a maker, an EXIF directory and a position."""
    entries = [(271, 2, 6, None), (274, 3, 1, 6), (34665, 4, 1, 8), (34853, 4, 1, 8)]
    return tags_block(entries, b"Maker\0", order=order)


def _jpegs() -> Iterator[bytes]:
    photo = _photo()
    yield save(photo, "JPEG", quality=50)
    yield save(photo, "JPEG", progressive=True, subsampling="4:4:4", quality=50)
    yield save(photo, "JPEG", restart_marker_blocks=1, comment=b"a comment", quality=50)
    yield save(photo, "JPEG", exif=b"Exif\0\0" + _exif(), quality=50)
    yield save(photo, "JPEG", exif=b"Exif\0\0" + _exif(">"), icc_profile=b"x" * 40, quality=50)
    yield save(_photo("L"), "JPEG", quality=50)
    yield save(_photo("CMYK"), "JPEG", quality=50)
    yield save(photo, "MPO", save_all=True, append_images=[photo], quality=50)


def _interlaced_png() -> bytes:
    header = b"\0\0\0\x08\0\0\0\x08\x08\0\0\0\x01"
    rows = b"".join(bytes(1 + columns) * rows for columns, rows in ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4)))
    content = zlib.compress(rows + b"".join(b"\0" + bytes(range(8)) for _ in range(4)))
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", content) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _pngs() -> Iterator[bytes]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield save(_photo().convert(mode))
    yield save(Image.frombytes("I;16", (_SIDE, _SIDE), _GREY_RAMP * 2))
    yield save(_photo("P"), transparency=3)
    yield save(_photo(), transparency=(0, 0, 127), exif=_exif(), icc_profile=b"x" * 40)
    yield save(_photo("P"), save_all=True, append_images=[_photo("P").rotate(90)])
    yield _interlaced_png()
    profile = b"\nexif\n  %d\n%s\n" % (len(_exif()), _exif().hex().encode())
    text = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
    whole = save(_photo("L"))
    yield whole[:33] + text + png_chunk(b"tEXt", b"Comment\0of two words") + whole[33:]


def _gifs() -> Iterator[bytes]:
    palette = _photo("P")
    yield save(palette, "GIF")
    yield save(palette, "GIF", transparency=3, comment=b"a comment")
    frames = [palette.rotate(angle) for angle in (90, 180)]
    yield save(palette, "GIF", save_all=True, append_images=frames, loop=0, duration=20, disposal=2)


def _bmps() -> Iterator[bytes]:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield save(_photo().convert(mode), "BMP")
    yield save(_photo(), "DIB")
    coded = b"".join(bytes([2, row, 2, 255 - row, 0, 0]) for row in range(4)) + b"\0\1"  # by run lengths
    head = b"BM" + (1078 + len(coded)).to_bytes(4, "little") + bytes(4) + (1078).to_bytes(4, "little")
    sizes = b"".join(number.to_bytes(4, "little") for number in (40, 4, 4, 1 | 8 << 16, 1, len(coded), 0, 0, 256, 0))
    yield head + sizes + b"".join(bytes([grey, grey, grey, 0]) for grey in range(256)) + coded


def _tiffs() -> Iterator[bytes]:
    photo = _photo()
    for compression in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        yield save(photo, "TIFF", compression=compression)
    yield save(_photo("1"), "TIFF", compression="group4")
    for mode in ("L", "P", "LA", "RGBA", "CMYK"):
        yield save(photo.convert(mode), "TIFF")
    yield save(Image.frombytes("LAB", photo.size, photo.tobytes()), "TIFF")
    turned = Image.Exif()
    turned[274] = 8
    yield save(photo, "TIFF", big_tiff=True, exif=turned)
    yield save(photo, "TIFF", save_all=True, append_images=[photo])
    yield tiff(_GREY_RAMP, _SIDE, _SIDE, order=">")
    yield tiff(_GREY_RAMP * 2, _SIDE, _SIDE, bits=16, photometric=0)
    yield tiff(_GREY_RAMP * 2, _SIDE, _SIDE, bits=16, order=">")
    yield tiff(_GREY_RAMP[:192], _SIDE, 8, bits=12)
    sizes = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    tiles = [(322, 3, 1, 16), (323, 3, 1, 16), (324, 4, 1, None), (325, 4, 1, 256)]
    yield tags_block(sizes + tiles, _GREY_RAMP)
    planes = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, None)]
    yield tags_block([*planes, (277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, 48), (284, 3, 1, 2)], _GREY_RAMP[:48] * 3)


def _pnms() -> Iterator[bytes]:
    yield b"P1\n# a comment\n4 2\n1 0 1 0\n0101\n"
    yield b"P2\n4 2 15\n0 1 2 3\n# a comment\n15 14 13 12\n"
    yield b"P3\n2 2\n255\n255 0 0  0 255 0\n0 0 255  9 9 9\n"
    yield b"P4\n16 4\n" + bytes(range(8))
    yield b"P5 16 16 255\n" + _GREY_RAMP
    yield b"P5\n8 8\n65535\n" + bytes(range(128))
    yield b"P6\n#x\n4 4\n254\n" + bytes(range(48))


def _others() -> Iterator[bytes]:
    photo = _photo()
    if "WEBP" in FORMATS:
        yield save(photo, "WEBP", quality=50)
        yield save(_photo("RGBA"), "WEBP", lossless=True, exif=_exif())
        yield save(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)], duration=20)
    if "JPEG2000" in FORMATS:
        yield save(photo, "JPEG2000")
        yield save(_photo("L"), "JPEG2000", no_jp2=True, tile_size=(8, 8))
    if "AVIF" in FORMATS:
        yield save(photo, "AVIF", quality=50, speed=10)
        yield save(_photo("RGBA"), "AVIF", quality=50, speed=10, exif=_exif())
    if "HEIF" in FORMATS:
        yield save(photo, "HEIF", quality=50)
        yield save(_photo("RGBA"), "HEIF", quality=50, exif=_exif())


@functools.cache
def images() -> tuple[bytes, ...]:
    """Returns images of every format that is read, and what is often taken for one."""
    drawn = b'<?xml version="1.0"?><!-- drawn --><svg xmlns="http://www.w3.org/2000/svg"/>'
    strange = (b"", drawn, b"<!DOCTYPE html><html>", b"%PDF-1.4", b"\0\0\1\0\1\0", b"8BPS\0\1")
    return (*_jpegs(), *_pngs(), *_gifs(), *_bmps(), *_tiffs(), *_pnms(), *_others(), *strange)


def delimited() -> tuple[bytes, ...]:
    """Returns tables of text with delimiters."""
    text = "uri,label,split\na.jpg,cat,train\nb/ü.jpg,dog,test\n\n"
    return (
        text.encode(),
        text.encode("utf-16"),
        text.encode("utf-8-sig").replace(b"\n", b"\r\n"),
        b'sep=;\n"image";"class"\n"a ""b"".jpg";1\n;;\n',
        b"path\tcategory\tsubset\nimg\\00.jpg\tx y\tval\n",
        b"file_name|label\nhttp://h.example/a.jpg?b=c|x\nfile:///nowhere/d.jpg|y\n",
        b'url,"la\nbel"\nhttps://h.example/a.jpg,x\n',
        "filename,class\nCaf\xe9.jpg,caf\xe9\n".encode("windows-1252"),
        b"",
    )


def json_lines() -> tuple[bytes, ...]:
    """Returns tables of one JSON object a line."""
    return (
        b'{"uri": "a.jpg", "label": "cat", "split": "train"}\n{"uri": "b.jpg", "label": 7, "split": null}\n',
        b'{"file_name": "\\u00fc.jpg", "class": "x", "objects": {"bbox": [[1.5, -2e3]]}, "ok": true}\n\n',
        '{"image": "a.jpg", "label": "Löwenzahn"}\n'.encode("utf-16"),
        b'{"uri": "http://h.example/a.jpg", "label": "\\ud83d\\ude00"}\r\n',
        b"[1, 2]\n",
    )


@functools.cache
def parquets() -> tuple[bytes, ...]:
    """Returns tables in Parquet: text and numbered classes, plain, in dictionaries, compressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def written(table: pa.Table, **options: Any) -> bytes:
        out = io.BytesIO()
        pq.write_table(table, out, **options)
        return out.getvalue()

    text = pa.table({"uri": ["a.jpg", "b.jpg"], "label": ["cat", "dog"]})
    names = json.dumps({"info": {"features": {"label": {"names": ["x", "y"], "_type": "ClassLabel"}}}})
    numbered = pa.table({"image": ["a.jpg", None], "label": pa.array([1, None], pa.int64())})
    return (
        written(text, use_dictionary=False, compression="none", store_schema=False),
        written(text, compression="snappy", write_statistics=False),
        written(numbered.replace_schema_metadata({"huggingface": names}), compression="zstd"),
        written(pa.table({"path": ["a"], "label": [[1, 2]], "split": ["val"]}), compression="gzip"),
    )


@functools.cache
def pickles() -> tuple[bytes, ...]:
    """Returns files of CIFAR archives, as Python 2 and 3 pickle them, and the binary version's."""
    planes = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
    small = {"data": np.arange(8, dtype=np.uint8).reshape(2, 4), "labels": [0, 9], "filenames": ["a.png", "b.png"]}
    by_python_2 = b"\x80\x02}q\x01(U\x04dataq\x02U\x03abcU\x06labelsq\x03]q\x04(K\x01K\x02eu."
    return (
        *(pickle.dumps(small, protocol) for protocol in (2, 3, 4, 5)),
        pickle.dumps({"data": planes[:1, :], "labels": [3]}, 4),
        pickle.dumps({"label_names": ["cat", "dog"], "num_vis": 3072, "num_cases_per_batch": 10_000}, 2),
        pickle.dumps({b"data": np.arange(3, dtype=np.int64), b"labels": np.arange(3, dtype=np.int32)}, 2),
        by_python_2,
        b"\x01" + planes[0].tobytes(),
    )


@functools.cache
def archives() -> tuple[bytes, ...]:
    """Returns tar archives of the usual formats, with links and long names, plain and compressed."""
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for name, kind in (("a/b", tarfile.REGTYPE), ("c", tarfile.SYMTYPE), ("d", tarfile.DIRTYPE)):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "a/b" if kind == tarfile.SYMTYPE else ""
                info.size = 9 if kind == tarfile.REGTYPE else 0
                archive.addfile(info, io.BytesIO(b"some data"))
            if form != tarfile.USTAR_FORMAT:
                archive.addfile(tarfile.TarInfo("n" * 120 + "ü"))
        made.append(out.getvalue()[:5120])
    return (*made, gzip.compress(made[1], mtime=0), bz2.compress(made[0]), b"\xfd7zXZ\0", b"")


def robots() -> tuple[bytes, ...]:
    """Returns robots.txt files."""
    return (
        b"User-agent: *\nDisallow: /private/\nAllow: /private/images/*.jpg$\nCrawl-delay: 5\n",
        b"\xef\xbb\xbfuser-agent: tpu-retraining\r\nUSER AGENT : o/2.0\r\nDisallow:\r\n\r\nuseragent *\nDisallow: /\n",
        b"Sitemap: https://h.example/map.xml\nHost: h.example\nRequest-rate: 1/5 0800-1000\nVisit-time: 0600-0845\n",
        b"# nothing\nUser-agent: a\nDisallow: /*?*&x=%E2%82%AC$\nNoindex: /x\n",
    )


def urls() -> tuple[bytes, ...]:
    """Returns URLs."""
    return (
        b"http://h.example/a.jpg",
        b"https://H.example:8443/a%20b/c;d=1?e=f&g=%e4#h",
        "https://bücher.example/ü?q=ß".encode(),
        b"http://[::1]:80/a",
        b"http://user:secret@h.example/",
        b" http://1.2.3.4/a\\b c ",
        b"//h.example/x",
    )


def answers() -> tuple[bytes, ...]:
    """Returns answers of servers: a line `Name: value`, then the body."""
    page = b"<!DOCTYPE html><html></html>"
    deflated = zlib.compress(page)
    jpeg = images()[0]
    return (
        b"Content-Encoding: gzip\n" + gzip.compress(page * 40, mtime=0),
        b"Content-Encoding: deflate\n" + deflated,
        b"Content-Encoding: deflate, \n" + deflated[2:-4],
        b"Content-Encoding: gzip\n" + jpeg,
        b"Content-Encoding: br, utf-8\n" + page,
        b"Content-Type: text/html; charset=utf-8\n" + page,
        b"Content-Type: application/xhtml+xml\n" + jpeg,
        b"Retry-After: 120\n",
        b"Retry-After: Wed, 21 Oct 2065 07:28:00 GMT\n",
        b"X-Robots-Tag: unavailable_after: 25 Jun 2010, bot: noai, noimageai\n",
        b"Referer: https://h.example/\n",
    )


def manifests() -> tuple[bytes, ...]:
    """Returns manifests."""
    shard = Shard(name="d-train.tfrecord-00000-of-00001", examples=2, bytes=512, sha256="0" * 64)
    manifest = Manifest(
        name="d",
        version="1.0.0",
        labels=("cat", "dog"),
        splits={"train": (shard,), "test": ()},
        source_fingerprint="0" * 64,
        build={"policy.lossless": False, "splits": "train:1"},
        code_version="0.1.0",
        max_height=16,
        max_width=16,
    )
    return (manifest.to_json().encode(), b"1.0.0\n", b"{}", b'"1.0.0"')


def _record(source: str = "a.jpg") -> bytes:
    return encode_example(Record(image=b"\xff\xd8\xff\xd9", label=1, id="0" * 64, source=source, height=16, width=300))


def frames() -> tuple[bytes, ...]:
    """Returns TFRecord files, and single examples."""
    packed = b"\x0a\x0e\x0a\x0c\x0a\x05label\x12\x03\x1a\x01\x07"  # int64_list with packed values, as protobuf writes
    return (frame(_record()) + frame(_record("http://h.example/ü")), frame(packed), frame(b""), _record(), packed, b"")


@functools.cache
def parts() -> tuple[bytes, ...]:
    """Returns part files: findings and downloads."""
    facts = inspect(images()[0], PixelPolicy(min_side=1))
    refusal = Reject(code=RejectCode.CORRUPT, detail="damaged")
    found = [
        finding_bytes(Finding(uri=uri, stamp="1:2", size=3, result=result))
        for uri, result in (("a.jpg", facts), ("b\udce4.jpg", refusal))
    ]
    fetched = [
        Download(url="http://h.example/a", sha256="0" * 64, size=3, final_url="http://h.example/b").to_bytes(),
        Download(url="http://h.example/c", code=RejectCode.DNS, detail="no such name").to_bytes(),
    ]
    return pack((findings._FORM, found)), pack((store._FORM, fetched)), pack((findings._FORM, [])), b""


def corrections() -> tuple[bytes, ...]:
    """Returns files of --exclude and --relabel."""
    return (
        b"id\n" + b"0" * 64 + b"\n",
        b"uri,label\na.jpg,cat\n" + "b.jpg,Löwenzahn\n".encode(),
        b"id;label\n" + b"AB" * 32 + b";dog\n",
        b"source,sha256,class\na.jpg,,x\n,%s,y\n" % (b"1f" * 32),
    )
