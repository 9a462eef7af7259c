"""Tests that what is in the store of downloads is found, whatever happened to the process that put it there."""

import hashlib
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys

import pytest

from beam_jobs.download import pack_writer, packs
from beam_jobs.download.entry import Body, Download
from beam_jobs.download.policy import DownloadPolicy
from beam_jobs.download.store import DownloadStore, pending
from pipeline.images.policy import RejectCode

POLICY = DownloadPolicy()


def url(number):
    return f"http://x.example/{number}"


def content(number):
    return hashlib.sha256(str(number).encode()).digest() * (1 + number % 7)


def put(store, numbers):
    with store.writer() as writer:
        return [put_one(writer, url(number), content(number)) for number in numbers]


def put_one(writer, address, data):
    with Body() as body:
        body.write(data)
        return writer.put(address, body, final_url=address + "?final")


def fail(store, address, **changes):
    told = {"code": RejectCode.HTTP_STATUS, "detail": "404", "policy": POLICY.fetch.digest()} | changes
    with store.writer() as writer:
        return writer.put_failure(address, **told)


@pytest.fixture
def store(tmp_path):
    return DownloadStore(str(tmp_path / "store"))


def pack_files(store, suffix):
    return sorted(pathlib.Path(store.root).glob(f"packs/*{suffix}"))


def test_everything_comes_back(store):
    done = put(store, range(100))
    for number, download in enumerate(done):
        assert download.sha256 == hashlib.sha256(content(number)).hexdigest()
        assert store.lookup(url(number)) == download
        assert store.has_blob(download)
        assert store.read(download.sha256) == content(number)
    assert store.lookup(url(100)) is None
    assert not store.has_blob(Download(url="u", sha256="0" * 64))
    with pytest.raises(OSError, match="0000"):
        store.read("0" * 64)
    assert len(pack_files(store, "")) == 2


def test_keys_are_only_where_to_look(store, monkeypatch):
    """With keys of one digit, each stands for many URLs and many bodies."""
    for module in (packs, pack_writer):
        monkeypatch.setattr(module, "KEY_DIGITS", 1)
    test_everything_comes_back(store)


def test_odd_urls_long_details_and_large_bodies(store):
    addresses = ["http://x.example/\ud800", "http://x.example/" + "ü" * 5000, "http://x.example/\u2028\n\r"]
    large = os.urandom(3 << 20)
    with store.writer() as writer:
        for number, address in enumerate(addresses):
            put_one(writer, address, b"%d" % number)
        with Body() as body:
            for start in range(0, len(large), 1000):
                body.write(large[start : start + 1000])
            done = writer.put("http://x.example/large", body, final_url="")
    failed = fail(store, "http://x.example/f", detail="no\n" * 3000)
    assert [store.read(store.lookup(address).sha256) for address in addresses] == [b"0", b"1", b"2"]
    assert store.read(done.sha256) == large
    assert store.lookup("http://x.example/f") == failed


def test_the_last_word_counts(store):
    failed = fail(store, url(1))
    (done,) = put(store, [1])
    assert store.find(url(1)) == failed  # as of before
    store.refresh()
    assert store.find(url(1)) == done
    again = fail(store, url(1), detail="410")
    packs.packs_of.cache_clear()
    assert store.lookup(url(1)) == again


def test_a_torn_line_and_a_damaged_one_cost_their_urls_only(store):
    put(store, range(3))
    (lines,) = pack_files(store, ".jsonl")
    whole = lines.read_bytes()
    first, second, third = whole.splitlines(keepends=True)
    packs.packs_of.cache_clear()
    lines.write_bytes(first + second[:40] + b"\xff" + second[41:] + b"not a line\n" + third[:-1])
    assert pending(map(url, range(3)), store, POLICY) == [url(1), url(2)]
    put(store, [1, 2])
    assert pending(map(url, range(3)), store, POLICY) == []
    assert store.read(store.lookup(url(2)).sha256) == content(2)


def test_packs_are_of_limited_size_and_hold_each_body_once(store, monkeypatch):
    monkeypatch.setattr(pack_writer, "_MAX_PACK_BYTES", 1000)
    put(store, range(50))
    put(store, range(25, 75))
    assert all(path.stat().st_size < 1000 + 7 * 32 for path in pack_files(store, ".pack"))
    assert sum(path.stat().st_size for path in pack_files(store, ".pack")) == sum(len(content(i)) for i in range(75))
    lost = pack_files(store, ".pack")[1]
    lost.unlink()
    todo = pending(map(url, range(75)), store, POLICY)
    assert 0 < len(todo) < 75
    put(store, [int(address.rsplit("/", 1)[1]) for address in todo])
    assert pending(map(url, range(75)), store, POLICY) == []
    assert all(store.read(store.lookup(url(i)).sha256) == content(i) for i in range(75))


_WRITER = """
import sys
from beam_jobs.download.store import DownloadStore
from tests.beam_jobs.download.test_store import put_one, content, url
with DownloadStore(sys.argv[1]).writer() as writer:
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        put_one(writer, url(number), content(number))
        print(number, flush=True)
"""


def writing(store, first, last):
    command = [sys.executable, "-c", _WRITER, store.root, str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_has_stored_is_there(store):
    process = writing(store, 0, 1_000_000)
    told = [int(process.stdout.readline()) for _ in range(500)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    assert pending(map(url, told), store, POLICY) == []
    assert all(store.read(store.lookup(url(number)).sha256) == content(number) for number in told)
    put(store, range(told[-1] + 1, told[-1] + 10))
    assert pending(map(url, range(told[-1] + 10)), store, POLICY) == []


def test_several_processes_write_at_once(store):
    processes = [writing(store, first, first + 300) for first in (0, 200, 400)]
    seen = 0
    for line in processes[0].stdout:  # another process reads meanwhile
        seen = int(line)
        assert store.read(store.lookup(url(seen)).sha256) == content(seen)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert seen == 299
    assert pending(map(url, range(700)), store, POLICY) == []
    assert all(store.read(store.lookup(url(i)).sha256) == content(i) for i in range(700))


_LIMITED = """
import resource, signal, sys
from beam_jobs.download.store import DownloadStore
from tests.beam_jobs.download.test_store import put_one
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
with DownloadStore(sys.argv[1]).writer() as writer:
    put_one(writer, "http://x.example/1", b"1" * 3000)
    try:
        put_one(writer, "http://x.example/2", b"2" * 3000)
    except OSError as error:
        print("full")
    put_one(writer, "http://x.example/3", b"3" * 1000)
"""


def test_a_body_that_does_not_fit_leaves_nothing_behind(store):
    done = subprocess.run([sys.executable, "-c", _LIMITED, store.root], capture_output=True, text=True, check=True)
    assert done.stdout == "full\n"
    assert pending([f"http://x.example/{i}" for i in (1, 2, 3)], store, POLICY) == ["http://x.example/2"]
    assert store.read(store.lookup("http://x.example/3").sha256) == b"3" * 1000


def test_a_store_without_packs_is_read_where_it_is(store):
    """A file a body and a file a URL, written here as it was before there were packs."""
    root = pathlib.Path(store.root)

    def entry(address, **fields):
        name = hashlib.sha256(address.encode()).hexdigest()
        nothing = {"code": None, "detail": "", "final_url": "", "policy": "", "sha256": "", "size": 0, "url": address}
        (root / "urls" / name[:2]).mkdir(parents=True, exist_ok=True)
        (root / "urls" / name[:2] / f"{name}.json").write_text(json.dumps(nothing | fields) + "\n")

    digest = hashlib.sha256(b"old").hexdigest()
    (root / "blobs" / digest[:2]).mkdir(parents=True)
    (root / "blobs" / digest[:2] / digest).write_bytes(b"old")
    entry(url(1), sha256=digest, size=3, final_url=url(1))
    entry(url(2), code="http_status", detail="404", policy=POLICY.fetch.digest())
    entry(url(3), sha256="f" * 64, size=3)  # its blob was lost
    assert pending([url(1), url(2), url(3), url(4)], store, POLICY) == [url(3), url(4)]
    assert store.read(store.lookup(url(1)).sha256) == b"old"
    assert store.lookup(url(2)).code is RejectCode.HTTP_STATUS
    put(store, [2, 3, 4])
    assert pending(map(url, range(1, 5)), store, POLICY) == []
    assert store.lookup(url(2)).code is None
    (root / "blobs" / digest[:2] / digest).write_bytes(b"odd")
    with pytest.raises(OSError, match=f"{digest} is damaged"):
        store.read(digest)


def test_a_store_that_was_used_travels_light(store):
    put(store, range(100))
    assert store.lookup(url(5))
    assert len(pickle.dumps(store)) < 1000
