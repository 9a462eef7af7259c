import ctypes
import mmap
import os

import pytest

from beam_jobs.reading import read_ahead
from beam_jobs.sources import SourceItem, local
from beam_jobs.sources.folder import FolderSource
from beam_jobs.sources.table import CsvSource

ITEMS = [SourceItem(uri=str(number), label="cat") for number in range(100)]


class Announced:
    """Notes what it hears and what is read, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def items(self):
        return iter(ITEMS)

    def read(self, item):
        self.events.append(("read", int(item.uri)))

    def labels(self):
        return None

    def fingerprint(self):
        return ""

    def announce(self, item):
        self.events.append(("announce", int(item.uri)))


def test_every_image_is_announced_once_well_before_its_turn():
    source = Announced()
    for item in read_ahead(ITEMS, source):
        source.read(item)
    announced = [number for what, number in source.events if what == "announce"]
    assert announced == list(range(100))
    assert [number for what, number in source.events if what == "read"] == list(range(100))
    reads_before = {
        number: sum(what == "read" for what, _ in source.events[:at])
        for at, (what, number) in enumerate(source.events)
        if what == "announce"
    }
    assert all(number - reads_before[number] >= 16 for number in range(16, 100))
    assert all(number - reads_before[number] <= 64 for number in range(100)), "too many would not stay in memory"


def _resident(path: str) -> float:
    """Measures which part of the file's pages is in memory (mincore(2))."""
    size = os.path.getsize(path)
    found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    with open(path, "rb") as file:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), found) == 0
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return sum(page & 1 for page in found) / len(found)


def _cold(path: str, size: int) -> None:
    with open(path, "wb") as file:
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if _resident(path):
        pytest.skip("this file system keeps its files in memory")


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs posix_fadvise and mincore (Linux)")
@pytest.mark.parametrize("source_of", ["folder", "csv"])
def test_an_announced_file_comes_to_memory(tmp_path, source_of):
    (tmp_path / "cats").mkdir()
    path = tmp_path / "cats/a.jpg"
    _cold(str(path), 200_000)
    if source_of == "folder":
        source, uri = FolderSource(str(tmp_path)), "cats/a.jpg"
    else:
        source, uri = CsvSource(str(tmp_path / "t.csv"), {"download_dir": str(tmp_path / "d")}), "cats/a.jpg"
    source.announce(SourceItem(uri=uri, label="cats"))
    for _ in range(1000):
        if _resident(str(path)) == 1:
            break
        os.sched_yield()
    assert _resident(str(path)) == 1


def test_announcing_what_cannot_be_read_says_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("absent", "pipe", "", "name\0null"):
        local.announce(str(tmp_path / path))
