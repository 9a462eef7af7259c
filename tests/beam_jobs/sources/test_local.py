import os
import pathlib
import resource
import socket
import subprocess
import sys

import pytest

from beam_jobs.sources import SourceItem, open_source
from beam_jobs.sources.local import read_image
from pipeline.images.policy import ReadError, RejectCode
from tests.beam_jobs.image_folders import make_folder


def strangers(folder: pathlib.Path) -> dict[str, RejectCode]:
    """Puts what is no image file into a folder; returns name → why it is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(".", os.O_RDONLY)
        os.chdir(folder)  # a socket's path must be short
        try:
            server.bind("socket.jpg")
        finally:
            os.fchdir(here)
            os.close(here)
    (folder / "zero.jpg").symlink_to("/dev/zero")
    with open(folder / "video.jpg", "wb") as file:
        file.truncate(6 << 30)
    unreadable = dict.fromkeys(("pipe.jpg", "socket.jpg", "zero.jpg"), RejectCode.UNREADABLE)
    return unreadable | {"video.jpg": RejectCode.TOO_MANY_BYTES}


def test_what_is_no_image_file_is_refused_unread(tmp_path):
    for name, code in strangers(tmp_path).items():
        with pytest.raises(ReadError) as caught:
            read_image(str(tmp_path / name))
        assert caught.value.code is code, name


def test_bytes_come_back_up_to_the_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    assert read_image(str(tmp_path / "a"), max_bytes=4) == b"1234"
    with pytest.raises(ReadError, match="4 bytes, at most 3 allowed") as caught:
        read_image(str(tmp_path / "a"), max_bytes=3)
    assert caught.value.code is RejectCode.TOO_MANY_BYTES
    with pytest.raises(ReadError, match="No such file"):
        read_image(str(tmp_path / "b"))


def test_tables_refuse_them_too(tmp_path):
    found = strangers(tmp_path / "photos")
    (tmp_path / "t.csv").write_text("uri,label\n" + "".join(f"photos/{name},cat\n" for name in found))
    source = open_source("csv", input_path=str(tmp_path / "t.csv"), options={"download_dir": str(tmp_path / "d")})
    for item in source.items():
        assert isinstance(item, SourceItem)
        with pytest.raises(ReadError) as caught:
            source.read(item)
        assert caught.value.code is found[os.path.basename(item.uri)]


def test_a_build_leaves_them_out_within_bounded_memory_and_time(tmp_path):
    make_folder(tmp_path / "photos", labels=("cats", "dogs"), images=20)
    found = strangers(tmp_path / "photos/cats")
    command = [sys.executable, "-m", "beam_jobs.build_tfrecords", f"--input={tmp_path / 'photos'}"]
    built = subprocess.run(
        [*command, f"--output={tmp_path / 'data'}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )
    assert built.returncode == 0, built.stderr
    rejects = (tmp_path / "data/versions/1.0.0/rejects.jsonl").read_text()
    assert all(f"cats/{name}" in rejects for name in found)
    assert rejects.count("\n") == len(found)


@pytest.mark.slow
def test_a_build_needs_few_open_files(tmp_path):
    """256 is what macOS gives a process; the names are such that each folder is listed by itself."""
    for number in range(10):
        make_folder(tmp_path / "photos", labels=(f"c{number}/a", f"c{number}/b"), images=5, first=number * 3_000)
    command = [sys.executable, "-m", "beam_jobs.build_tfrecords", f"--input={tmp_path / 'photos'}"]
    built = subprocess.run(
        [*command, f"--output={tmp_path / 'data'}", "--direct_running_mode=multi_processing", "--direct_num_workers=2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
    )
    assert (built.returncode, built.stderr) == (0, "")
    assert "100 images: 100 kept" in built.stdout
