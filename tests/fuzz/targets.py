"""Says, a function for each kind of input from the world, what holds whatever its bytes: only the documented errors."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import pathlib
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from beam_jobs import findings, root
from beam_jobs import parts as part_files
from beam_jobs.corrections import read_corrections, unknown_names
from beam_jobs.download.content import ImageGate, Unpacker
from beam_jobs.download.errors import FetchError, parse_retry_after
from beam_jobs.download.headers import check_headers, parse_header
from beam_jobs.download.robots import RobotsFile, forbids_ai
from beam_jobs.download.store import DownloadStore
from beam_jobs.download.urls import parse_url
from beam_jobs.sources import columns, open_source
from beam_jobs.sources.cifar_batches import BatchError, read_binary, read_names, read_pickled_meta, read_python
from beam_jobs.sources.parquet_child import read_rows
from beam_jobs.sources.pickled_arrays import load_dict
from beam_jobs.sources.rows import RowError
from beam_jobs.sources.table import TableSource
from beam_jobs.sources.tar_files import tar_files
from pipeline.command import CommandError, DataError, FormatError, UsageError
from pipeline.format import storage
from pipeline.format.manifest import Manifest, open_dataset
from pipeline.format.records import RecordError, decode_example, encode_example, read_features, scan_frames
from pipeline.images.policy import ReadError, RejectCode
from tests.fuzz import image_target, seeds, shapes
from tests.fuzz.shapes import Shape

PRODUCT = "tpu-retraining"
_MAX_BODY = 1 << 20
_MAX_MEMBER = 1 << 16
_ENCODINGS = ("", "", "utf-16-le", "windows-1252", "utf-7", "shift_jis")


@functools.cache
def _folder() -> tuple[pathlib.Path, tempfile.TemporaryDirectory[str]]:
    made = tempfile.TemporaryDirectory(prefix="fuzz-")  # removed with the process, which holds it
    return pathlib.Path(made.name), made


def _file(name: str, data: bytes) -> str:
    path = _folder()[0] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def _check_line(text: str) -> None:
    assert text.strip()
    assert len(text.splitlines()) == 1, f"more than one line: {text!r}"


def _check_reject(error: FetchError, code: RejectCode) -> None:
    assert error.code is code
    _check_line(error.detail)
    error.detail.encode()  # into rejects.jsonl


@contextlib.contextmanager
def _errors_for_the_user() -> Iterator[None]:
    """Lets errors pass that end a command in one line."""
    try:
        yield
    except (UsageError, DataError) as error:
        _check_line(str(error))


def _names_a_store(source: TableSource) -> bool:
    """Says whether a table names an image in a store, which would be asked; http(s) URLs wait for a later step."""
    with contextlib.suppress(CommandError, RowError, OSError):
        return any(storage.is_remote(row.uri) and not row.uri.startswith(("http", "file")) for row in source._rows())
    return False


def _table(kind: str, data: bytes, encoding: str = "") -> None:
    options = {"download_dir": str(_folder()[0] / "downloads"), **({"encoding": encoding} if encoding else {})}
    columns.say_once.cache_clear()  # else it keeps every line
    with contextlib.redirect_stderr(io.StringIO()), _errors_for_the_user():
        source = open_source(kind, input_path=_file(f"table.{kind}", data), options=options)
        assert isinstance(source, TableSource)
        if _names_a_store(source):
            return
        for item in source.items():
            assert item.uri.strip()
            assert item.label.strip()
            assert item.split in (None, "train", "validation", "test")
            json.dumps([item.uri, item.label], ensure_ascii=False).encode()
            try:
                source.read(item)
            except ReadError as error:
                _check_line(error.detail)


def csv(data: bytes) -> None:
    """Reads a table with delimiters, in some encoding, and the images that it names."""
    _table("csv", data, _ENCODINGS[zlib.crc32(data) % len(_ENCODINGS)])


def jsonl(data: bytes) -> None:
    """Reads a table of JSON objects, and the images that it names."""
    _table("jsonl", data)


def parquet(data: bytes) -> None:
    """Reads a table in Parquet as the child does, but in this process: the library may end it, which is foreseen."""
    try:
        for row in read_rows(_file("table.parquet", data), {}, str):
            assert row.uri.strip()
            assert row.label.strip()
    except (DataError, RowError) as error:
        _check_line(str(error))


def corrections(data: bytes) -> None:
    """Reads a file of --exclude and of --relabel."""
    path = _file("corrections.csv", data)
    for exclude, relabel in ((path, None), (None, path)):
        with _errors_for_the_user():
            found = read_corrections(exclude, relabel)
            assert bool(found.digest) == bool(found.excluded or found.labels)
            assert found == read_corrections(exclude, relabel)
    with _errors_for_the_user():
        unknown_names(path, "exclude", [])


def pickle(data: bytes) -> None:
    """Reads a file of a CIFAR archive: pickled, or of the binary version."""
    with contextlib.suppress(FormatError):
        load_dict(data)
    for read in (
        lambda: read_python(data, key="labels").images(),
        lambda: read_pickled_meta(data, key="label_names"),
        lambda: read_binary(data, label_bytes=1).images(),
    ):
        with contextlib.suppress(BatchError):
            read()
    read_names(data)


def tar(data: bytes) -> None:
    """Reads the members of an archive."""
    with contextlib.suppress(FormatError):
        for member in tar_files(_file("archive.tar", data)):
            assert len(member.read(_MAX_MEMBER)) == member.size <= _MAX_MEMBER


def robots(data: bytes) -> None:
    """Asks a robots.txt about a few paths."""
    rules = RobotsFile(data, product=PRODUCT)
    for path in ("/", "/private/images/a.jpg?b=c", "/%E2%82%AC/ü*$"):
        refusal = rules.refusal(path)
        assert refusal is None or refusal.strip()


def url(data: bytes) -> None:
    """Takes a URL apart; what comes out can be sent as it is, and is the same when it is taken apart again."""
    try:
        target = parse_url(data.decode("utf-8", "surrogateescape"))
    except FetchError as error:
        _check_reject(error, RejectCode.BAD_URL)
        return
    assert target.url.isascii()
    assert target.url.isprintable()
    assert " " not in target.url
    assert 0 < target.port < 65_536
    assert parse_url(target.url) == target


def answer(data: bytes) -> None:
    """Takes a server's answer: a line `Name: value`, then a body, which comes in pieces."""
    head, _, body = data.partition(b"\n")
    text = head.decode("latin-1")
    with contextlib.suppress(ValueError):
        check_headers([parse_header(text)])
    value = text.partition(":")[2]
    wait = parse_retry_after(value, now=1e9)
    assert wait is None or wait >= 0
    assert forbids_ai([value], product=PRODUCT) in (None, "noai", "noimageai")
    taken = bytearray()
    try:
        gate = ImageGate(value, taken.extend, max_bytes=_MAX_BODY)
        unpacker = Unpacker(value, gate.feed)
        step = 1 + zlib.crc32(data) % 700
        for at in range(0, len(body), step):
            unpacker.feed(body[at : at + step])
        unpacker.close()
        gate.close()
    except FetchError as error:
        _check_reject(error, error.code)
    assert len(taken) <= _MAX_BODY


def manifest(data: bytes) -> None:
    """Opens a dataset whose manifest, or whose CURRENT, is this file."""
    _file("data/CURRENT", b"1.0.0\n")
    dataset = pathlib.Path(_file("data/versions/1.0.0/manifest.json", data)).parents[2]
    with contextlib.suppress(ValueError, TypeError):
        read = Manifest.from_json(data.decode())
        again = Manifest.from_json(read.to_json())
        assert again.to_json() == read.to_json()
        assert read.num_classes > 0
        assert read.has_png in (True, False)
    with _errors_for_the_user():
        opened = open_dataset(dataset)
        for split in opened.manifest.splits:
            assert opened.manifest.num_examples(split) >= 0
            list(opened.read(split))
    root.sound_manifest(str(dataset), "1.0.0")
    with _errors_for_the_user():
        open_dataset(pathlib.Path(_file("other/CURRENT", data)).parent)


def record(data: bytes) -> None:
    """Reads a TFRecord file, the examples in it, and the file as an example."""
    for payload in (data, *scan_frames(io.BytesIO(data))):
        if isinstance(payload, RecordError):
            _check_line(str(payload))
            continue
        with contextlib.suppress(RecordError):
            read_features(memoryview(payload), {"image", "label"})
        try:
            example = decode_example(payload)
        except RecordError as error:
            _check_line(str(error))
            continue
        assert decode_example(encode_example(example)) == example


def part(data: bytes) -> None:
    """Reads a part file that another run has left, as findings and as downloads."""
    path = _file("part-2-0.msgpack", data)
    for form in (findings._FORM, "downloads 1"):
        entries = part_files.read_part(path, form=form)
        assert isinstance(entries, tuple)
        assert all(isinstance(entry, bytes) for entry in entries)
    for finding in findings.read_findings(path):
        hash((finding.uri, finding.stamp))
    for download in DownloadStore.read_note(path):
        hash((download.url, download.stamp))
    assert part_files.entries_in(data.decode("utf-8", "replace")) >= 0


# Faults that are not mended yet, by the file of the corpus that shows them.
KNOWN_FAULTS: dict[str, str] = {}
# What the library ends its process for; tests/beam_jobs/sources/test_parquet.py reads this from outside.
ENDS_THE_PROCESS = frozenset({"parquet/contradicting-histogram"})


class Target(NamedTuple):
    """Holds what is fuzzed.

    Attributes:
      check: raises where something does not hold.
      seeds: makes sound inputs.
      shape: chooses how a file is taken apart, by its bytes.
      max_bytes: of an input.
      weight: share of the time.
      tests: inputs that the default tests try.
      start: does once what takes time and memory.
      crashes: whether a crash is foreseen, because this runs in a child of its own.
    """

    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    shape: Callable[[bytes], Shape]
    max_bytes: int = 1 << 13
    weight: float = 1.0
    tests: int = 100
    start: Callable[[], None] = lambda: None
    crashes: bool = False


def _always(shape: Shape) -> Callable[[bytes], Shape]:
    return lambda data: shape


TARGETS = {
    "image": Target(
        image_target.image, seeds.images, shapes.image_shape, weight=8.0, tests=300, start=image_target.start
    ),
    "magic": Target(image_target.magic, seeds.images, _always(shapes.TEXT), max_bytes=1 << 17, weight=0.5),
    "csv": Target(csv, seeds.delimited, _always(shapes.TEXT), weight=2.0),
    "jsonl": Target(jsonl, seeds.json_lines, _always(shapes.TEXT)),
    "parquet": Target(parquet, seeds.parquets, _always(shapes.PLAIN), weight=2.0, crashes=True),
    "corrections": Target(corrections, seeds.corrections, _always(shapes.TEXT)),
    "pickle": Target(pickle, seeds.pickles, _always(shapes.PICKLE)),
    "tar": Target(tar, seeds.archives, _always(shapes.TAR)),
    "robots": Target(robots, seeds.robots, _always(shapes.TEXT)),
    "url": Target(url, seeds.urls, _always(shapes.TEXT), max_bytes=1 << 15),
    "answer": Target(answer, seeds.answers, _always(shapes.TEXT)),
    "manifest": Target(manifest, seeds.manifests, _always(shapes.TEXT)),
    "record": Target(record, seeds.frames, _always(shapes.FRAMES)),
    "part": Target(part, seeds.parts, _always(shapes.ENTRIES)),
}
