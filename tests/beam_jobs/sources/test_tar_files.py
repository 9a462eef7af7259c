"""Tests archives made to harm: in a process with little memory, each ends in one line that says what is wrong."""

import bz2
import contextlib
import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from beam_jobs.sources.pickled_arrays import load_dict
from beam_jobs.sources.tar_files import tar_files
from pipeline.command import FormatError

GIBIBYTE = 1 << 30
BATCH = "cifar-10-batches-py/data_batch_1"

CHILD = """
import json, resource, sys
from beam_jobs.sources import open_source
from pipeline.command import DataError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
found = {}
for path in sys.argv[1:]:
    try:
        list(open_source("cifar10", input_path=path, options={"work_dir": path + ".work"}).items())
    except DataError as error:
        found[path] = str(error)
print(json.dumps(found))
"""


def header(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def packed(name, data):
    return header(name, len(data)) + data + bytes(-len(data) % 512)


def sparse_without_end():
    start = bytearray(header(BATCH, 0, tarfile.GNUTYPE_SPARSE))
    start[482] = 1  # a block of the map follows
    checksum = sum(start[:148]) + 8 * 32 + sum(start[156:])
    start[148:156] = b"%06o\0 " % checksum
    block = bytearray(512)
    block[504] = 1
    return bytes(start) + bytes(block) * 40_000


def sparse_of_gigabytes():
    records = b""
    for key, value in {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(8 * GIBIBYTE),
    }.items():
        line = f" {key}={value}\n".encode()
        size = len(line) + 2
        records += b"%d" % size + line
    return packed("pax", records).replace(header("pax", len(records)), header("pax", len(records), tarfile.XHDTYPE)) + (
        packed(BATCH, b"1\n0\n1\n".ljust(512, b"\0"))
    )


PICKLES = {
    "an index of gigabytes": (b"\x80\x02}r\xf0\xff\xff\xff.", "expected|no "),
    "bytes of a terabyte": (b"\x80\x04}C\x04data\x8e" + struct.pack("<Q", 1 << 40) + b"xs.", "truncated"),
    "a bytearray of a terabyte": (b"\x80\x05}C\x04data\x96" + struct.pack("<Q", 1 << 40) + b"xs.", "truncated"),
    "a frame of a terabyte": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"}.", 'no "data"'),
    "tuples that double": (b"\x80\x02}Nq\x00" + b"h\x00h\x00\x86q\x00" * 64 + b"Ns.", "deeper than in any"),
    "tuples in tuples": (b"\x80\x02)" + b"\x85" * 500_000 + b".", "deeper than in any"),
    "a wide tuple, again and again": (
        b"\x80\x02(" + b"N" * 200_000 + b"tq\x00" + b"h\x00\x85" * 100_000 + b".",
        "a tuple of",
    ),
    "dictionaries without end": (b"\x80\x02" + b"}" * 20_000_000, "more than 1000000 operations"),
    "marks without end": (b"\x80\x02" + b"(" * 20_000_000, "more than 1000000 operations"),
    "lists of themselves": (b"\x80\x02]q\x00" + b"h\x00a" * 10 + b".", "a list of other things"),
    "a text encoded again and again": (
        b"\x80\x02c_codecs\nencode\nq\x00X\0\0\x10\0" + b"x" * (1 << 20) + b"q\x01X\x06\0\0\0latin1q\x02"
        + b"h\x00h\x01h\x02\x86R" * 5_000 + b".",
        "used more than once",
    ),
    "a name for values of many dictionaries": (
        b"\x80\x02U\xfa" + b"\xff" * 250 + b"q\x00" + b"}h\x00Ns" * 190_000 + b".",
        "bytes of text",
    ),
    "an array of petabytes": (
        b"\x80\x05cnumpy.core.numeric\n_frombuffer\n(C\x01xcnumpy\ndtype\nX\x02\0\0\0u1\x85R"
        b"\x8a\x07\xff\xff\xff\xff\xff\xff\x7f\x8a\x07\xff\xff\xff\xff\xff\xff\x7f\x86X\x01\0\0\0CtR.",
        "from other than as many bytes",
    ),
}  # fmt: skip
TARS = {
    "a long name of gigabytes": (header("x", 8 * GIBIBYTE - 1, tarfile.GNUTYPE_LONGNAME) + bytes(10_000), "a header"),
    "PAX records of gigabytes": (header("x", 8 * GIBIBYTE - 1, tarfile.XHDTYPE) + bytes(10_000), "a header"),
    "a PAX record that is slow to read": (
        header("x", 65_536, tarfile.XHDTYPE) + b"1" * 65_536 + packed("y", b""),
        "a header|damaged",
    ),
    "a member of gigabytes": (header(BATCH, 8 * GIBIBYTE - 1) + bytes(10_000), "8589934591 bytes, at most 268435456"),
    "a member of gigabytes that is passed over": (header("x", 8 * GIBIBYTE - 1) + bytes(10_000), "bytes unpacked"),
    "a map without end": (sparse_without_end(), "a header or member of 512 bytes, at most"),
    "a sparse file of gigabytes": (sparse_of_gigabytes(), None),
    "members without end": (packed("x", b"") * 5_000, "more than 1000 members"),
    "names of names": (packed("x", b"y").replace(header("x", 1), header("x", 1, tarfile.GNUTYPE_LONGNAME)) * 5_000, ""),
    "names without end": (packed("cifar-10-batches-py/batches.meta", bytes(3 << 20)), "at most 1048576 are allowed"),
    "a batch of a thousand digits": (packed(BATCH + "1" * 90, b"x"), None),
}  # fmt: skip


def test_archives_made_to_harm_take_no_memory(tmp_path):
    expected = {}
    for number, (raw, message) in enumerate(PICKLES.values()):
        path = tmp_path / f"pickle{number}.tar.gz"
        path.write_bytes(gzip.compress(packed(BATCH, raw) + bytes(1024), 1))
        expected[str(path)] = message
    for number, (raw, message) in enumerate(TARS.values()):
        if message is not None:
            path = tmp_path / f"tar{number}.tar.gz"
            path.write_bytes(gzip.compress(raw + bytes(1024), 1))
            expected[str(path)] = message
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, *expected]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    names = dict(
        zip(expected, [*PICKLES, *(name for name, (_, message) in TARS.items() if message is not None)], strict=True)
    )
    for path, message in expected.items():
        assert path in found, names[path]
        assert found[path].startswith(path), names[path]
        assert "\n" not in found[path]
        assert not message or any(part in found[path] for part in message.split("|")), (names[path], found[path])


@pytest.mark.parametrize("name", [name for name, (_, message) in TARS.items() if message is None])
def test_what_is_no_member_of_ours_is_passed_over(tmp_path, name):
    path = tmp_path / "a.tar"
    path.write_bytes(TARS[name][0] + packed("z", b"last") + bytes(1024))
    assert [(member.name, member.read(10)) for member in tar_files(str(path))][-1] == ("z", b"last")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_archives_are_read_as_tarfile_reads_them(tmp_path, pack):
    files = {"a": b"1" * 512, "deep/b": b"2" * 70_000, "c" * 200: b"3", "d": b""}
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path = tmp_path / "a.tar"
    path.write_bytes(pack(raw.getvalue()))
    assert {member.name: member.read(100_000) for member in tar_files(str(path))} == files
    assert [member.name for member in tar_files(str(path))] == list(files)  # passed over, not read
    with pytest.raises(FormatError, match="70000 bytes, at most 600 are allowed"):
        [member.read(600) for member in tar_files(str(path))]
    path.write_bytes(raw.getvalue()[:3000])
    with pytest.raises(FormatError, match="damaged, or no tar archive"):
        [member.read(100_000) for member in tar_files(str(path))]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_dictionaries_are_read_as_pickle_reads_them(protocol):
    fortran = np.asfortranarray(np.arange(24, dtype=np.int32).reshape(4, 6))
    values = {
        "data": np.random.default_rng(0).integers(0, 256, (40, 3072), np.uint8),
        "labels": list(range(300)) + [-1, 70_000, 1 << 40, True, None, 0.5],
        "names": ["é" * 3000, "x", "", "\udc80"],
        b"bytes": b"\xff" * 10_000,
        "fortran": fortran,
        "empty": np.zeros((0, 3072), np.uint8),
    }
    if protocol == 2:  # in which `pickle` spells no bytes as a call
        del values["empty"]
    loaded = load_dict(pickle.dumps(values, protocol))
    assert len(loaded) == len(values)
    assert loaded["labels"] == values["labels"]
    assert loaded["names"][1:] == values["names"][1:]
    assert bytes(loaded["bytes"]) == values[b"bytes"]
    for name in values.keys() & {"data", "fortran", "empty"}:
        assert loaded[name].dtype == values[name].dtype
        assert np.array_equal(loaded[name], values[name])


def test_no_change_of_a_byte_ends_in_another_error():
    whole = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1, 2], "name": "x"}, 2)
    chance = np.random.default_rng(0)
    for _ in range(3_000):
        raw = bytearray(whole)
        for at in chance.integers(0, len(raw), 3):
            raw[int(at) if chance.random() < 0.1 else int(at) % 150] = int(chance.integers(0, 256))
        with contextlib.suppress(FormatError):
            load_dict(bytes(raw))


def test_the_limits_leave_room_for_the_official_files():
    count = 50_000  # images of CIFAR-100: two labels and a file name each
    batch = {"filenames": [f"leptodactylus_pentadactylus_s_{i:06}.png" for i in range(count)]}
    batch |= {name: [i % 100 for i in range(count)] for name in ("fine_labels", "coarse_labels")}
    assert len(load_dict(pickle.dumps(batch, 2))["filenames"]) == count
