"""Tests that what is in the store of downloads is found, whatever happened to the process that put it there."""

import dataclasses
import hashlib
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import uuid

import pytest

from beam_jobs.download.entry import Body, Download
from beam_jobs.download.policy import DownloadPolicy, FetchPolicy
from beam_jobs.download.store import DownloadStore, settled
from pipeline.images.policy import RejectCode

POLICY = DownloadPolicy()


def url(number):
    return f"http://x.example/{number}"


def content(number):
    return hashlib.sha256(str(number).encode()).digest() * (1 + number % 7)


def put(store, address, data):
    """Stores bytes and notes it, as a batch of one."""
    with Body() as body:
        body.write(data)
        store.put(body)
        done = Download(url=address, sha256=body.sha256, size=body.size, final_url=address + "?final")
    store.note([done], batch="some")
    return done


def failed(address, **changes):
    told = {"code": RejectCode.HTTP_STATUS, "detail": "404", "policy": POLICY.fetch.digest()} | changes
    return Download(url=address, **told)


def noted(store):
    return {found.url: found for path in store.notes() for found in store.read_note(path)}


@pytest.fixture
def store(tmp_path):
    return DownloadStore(str(tmp_path / "store"))


@pytest.mark.parametrize("kind", ["local", "gcs", pytest.param("s3", marks=pytest.mark.slow)])
def test_everything_comes_back(request, tmp_path, kind):
    place = tmp_path if kind == "local" else request.getfixturevalue(kind)
    store = DownloadStore(f"{place}/{uuid.uuid4().hex}")
    assert store.notes() == []
    done = [put(store, url(number), content(number)) for number in range(10)]
    store.note([failed(url(10)), failed(url(11))], batch="other")
    for number, download in enumerate(done):
        assert download.sha256 == hashlib.sha256(content(number)).hexdigest()
        assert store.has_blob(download)
        assert store.read(download.sha256) == content(number)
    assert noted(store) == {found.url: found for found in (*done, failed(url(10)), failed(url(11)))}
    assert len(store.notes(batch="other")) == 1
    assert not store.has_blob(Download(url="u", sha256="0" * 64))
    with pytest.raises(OSError, match="0000"):
        store.read("0" * 64)


def test_odd_urls_long_details_and_large_bodies(store):
    addresses = ["http://x.example/\ud800", "http://x.example/" + "ü" * 5000, "http://x.example/\u2028\n\r"]
    large = os.urandom(3 << 20)
    for number, address in enumerate(addresses):
        put(store, address, b"%d" % number)
    with Body() as body:
        for start in range(0, len(large), 1000):
            body.write(large[start : start + 1000])
        store.put(body)
        assert store.read(body.sha256) == large
    long = failed("http://x.example/f", detail="no\n" * 3000)
    store.note([long], batch="more")
    found = noted(store)
    assert [store.read(found[address].sha256) for address in addresses] == [b"0", b"1", b"2"]
    assert found["http://x.example/f"] == long


def test_equal_bytes_are_stored_once(store):
    for number in range(5):
        put(store, url(number), b"same")
    assert len(list(pathlib.Path(store.root).glob("blobs/*/*"))) == 1


def test_a_damaged_note_costs_its_urls_only(store):
    put(store, url(1), b"1")
    put(store, url(2), b"2")
    path = pathlib.Path(store.notes()[0])
    lost = DownloadStore.read_note(str(path))[0].url
    path.write_bytes(path.read_bytes()[:-5])
    assert set(noted(store)) == {url(1), url(2)} - {lost}
    path.write_bytes(b"not a note")
    assert set(noted(store)) == {url(1), url(2)} - {lost}


def test_damage_in_a_blob_is_noticed(store):
    done = put(store, url(1), b"whole")
    (path,) = pathlib.Path(store.root).glob("blobs/*/*")
    path.write_bytes(b"who")  # a power failure
    assert not store.has_blob(done)
    assert put(store, url(1), b"whole") == done
    path.write_bytes(b"rotte")  # a bad disk
    with pytest.raises(OSError, match="is damaged; delete it"):
        store.read(done.sha256)


def test_what_counts_of_all_that_came_of_a_url(store):
    done = put(store, url(1), b"1")
    gone = Download(url=url(1), sha256="0" * 64, size=7)
    failure = failed(url(1))
    assert settled([], store, POLICY) is None
    for found in ([failure, gone, done], [done, failure], [gone, done]):
        assert settled(found, store, POLICY) == done
    assert settled([gone], store, POLICY) is None  # its bytes are not there
    assert settled([gone, failure], store, POLICY) == failure
    assert settled([failure], store, dataclasses.replace(POLICY, retry_failed=True)) is None
    assert settled([done, failure], store, dataclasses.replace(POLICY, retry_failed=True)) == done
    larger = dataclasses.replace(POLICY, fetch=FetchPolicy(max_bytes=2 << 20))
    assert settled([failure], store, larger) is None
    politer = dataclasses.replace(POLICY, fetch=FetchPolicy(per_host=1))
    assert settled([failure], store, politer) == failure


_WRITER = """
import sys
from beam_jobs.download.store import DownloadStore
from tests.beam_jobs.download.test_store import content, put, url
store = DownloadStore(sys.argv[1])
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    put(store, url(number), content(number))
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
    found = noted(store)
    assert all(store.read(found[url(number)].sha256) == content(number) for number in told)


def test_several_processes_write_at_once(store):
    processes = [writing(store, first, first + 300) for first in (0, 200, 400)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    found = noted(store)
    assert all(store.read(found[url(number)].sha256) == content(number) for number in range(700))


_LIMITED = """
import resource, signal, sys
from beam_jobs.download.store import DownloadStore
from tests.beam_jobs.download.test_store import put
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
store = DownloadStore(sys.argv[1])
put(store, "http://x.example/1", b"1" * 3000)
try:
    put(store, "http://x.example/2", b"2" * 6000)
except OSError as error:
    print("full")
put(store, "http://x.example/3", b"3" * 1000)
"""


def test_a_body_that_does_not_fit_leaves_nothing_behind(store):
    done = subprocess.run([sys.executable, "-c", _LIMITED, store.root], capture_output=True, text=True, check=True)
    assert done.stdout == "full\n"
    assert set(noted(store)) == {"http://x.example/1", "http://x.example/3"}
    assert len([path for path in pathlib.Path(store.root).rglob("*") if path.is_file()]) == 4


def test_a_store_that_was_used_travels_light(store):
    put(store, url(5), b"5")
    assert len(pickle.dumps(store)) < 1000
