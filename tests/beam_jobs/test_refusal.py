"""Tests what a refused build says and leaves behind, as a user sees it."""

import json
import pathlib

import pytest

from pipeline.command import CommandError, ExitCode
from tests.beam_jobs.image_folders import make_folder, run_build, run_command

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 1\n"


def spoil(folder: pathlib.Path, images: int) -> None:
    """Makes some images of the class cat pointers, and some empty files."""
    for number, path in enumerate(sorted((folder / "cat").iterdir())[:images]):
        path.write_text(LFS.format(number) if number % 2 else "")


def test_three_files_a_reason_are_named_and_all_stand_in_a_file_beside_the_root(tmp_path):
    make_folder(tmp_path / "in", images=10)
    spoil(tmp_path / "in", 9)
    done = run_command(tmp_path / "in", tmp_path / "new/data")
    first, *lines, last = done.stderr.splitlines()
    assert done.returncode == ExitCode.DATA
    assert first.startswith("error: 9 of 20 images refused (45.0%), more than --max_reject_fraction=0.1 allows")
    assert "Traceback" not in done.stderr
    assert [line.strip() for line in lines if line.endswith(":")] == ["5 not_an_image:", "4 unreadable:"]
    assert sum("a Git LFS pointer, not the image; git lfs pull" in line for line in lines) == 3
    (rejected,) = (tmp_path / "new").iterdir()  # no root: this build had made it
    assert rejected.name.startswith("data-rejected-")
    assert last.endswith(str(rejected))
    codes = [json.loads(line)["code"] for line in rejected.read_text().splitlines()]
    assert sorted(codes) == ["not_an_image"] * 5 + ["unreadable"] * 4


@pytest.mark.slow
def test_a_root_that_was_there_stays_and_keeps_the_file(tmp_path):
    make_folder(tmp_path / "in", images=10)
    first = run_build(tmp_path / "in", tmp_path / "data")
    spoil(tmp_path / "in", 9)
    with pytest.raises(CommandError, match="9 of 20 images refused") as caught:
        run_build(tmp_path / "in", tmp_path / "data")
    (rejected,) = (tmp_path / "data").glob("rejected-*.jsonl")
    assert str(rejected) in str(caught.value)
    assert len(rejected.read_text().splitlines()) == 9
    assert (tmp_path / "data/CURRENT").read_text().strip() == first.version
    assert not list((tmp_path / "data/.build/runs").iterdir())


def test_what_is_refused_by_the_listing_leaves_nothing(tmp_path):
    (tmp_path / "in/cat").mkdir(parents=True)
    (tmp_path / "in/dog").mkdir()
    (tmp_path / "in/cat/1.txt").write_text("")
    for number in range(4):
        (tmp_path / f"in/dog/{number}.jpg").symlink_to(tmp_path / "nowhere")
    done = run_command(tmp_path / "in", tmp_path / "data")
    assert (done.returncode, done.stderr.count("\n")) == (ExitCode.DATA, 1)
    assert "holds no images with a label (4 links lead nowhere (git annex get, " in done.stderr
    assert (
        "dog/0.jpg, dog/1.jpg, dog/2.jpg, …; 2 class folders hold no image: cat/, dog/; 1 sidecar file" in done.stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.slow
def test_downloads_are_not_thrown_away(tmp_path):
    (tmp_path / "t.csv").write_text(
        "uri,label\n" + "".join(f"http://127.0.0.1:1/{n}.jpg,{'cat' if n % 2 else 'dog'}\n" for n in range(8))
    )
    done = run_command(tmp_path / "t.csv", tmp_path / "data", "--source=csv")
    assert done.returncode == ExitCode.DATA
    assert "8 private_address:" in done.stderr
    assert "http://127.0.0.1:1/0.jpg" in done.stderr
    assert (tmp_path / "data/.build/downloads").is_dir()
    (rejected,) = (tmp_path / "data").glob("rejected-*.jsonl")
    assert len(rejected.read_text().splitlines()) == 8
