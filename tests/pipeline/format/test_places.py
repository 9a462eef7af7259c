"""Tests the look at places that are to be written, on real disks and stores."""

import os
import pathlib

import pytest

from pipeline.command import UsageError
from pipeline.format import kinds, storage
from pipeline.format.places import check_file, check_folder, check_nothing_is_lost


def test_a_folder_that_can_be_made_is_not_made(tmp_path):
    check_folder(str(tmp_path / "a" / "b"), flag="workdir", needs=1)
    check_folder(str(tmp_path), flag="workdir")
    check_file(str(tmp_path / "file"), flag="output")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("below", ["", "run", "run/deeper"])
def test_a_file_on_the_way_is_named(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"--workdir=.*: {tmp_path}/file is a file, not a folder"):
        check_folder(os.path.join(tmp_path / "file", below), flag="workdir")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="link is a link that leads nowhere, not a folder"):
        check_folder(os.path.join(tmp_path / "link", below), flag="workdir")


@pytest.mark.parametrize("place", ["/proc", "/proc/run", "/sys/kernel/run"])  # where not even root writes
def test_a_place_that_cannot_be_written_is_named(place):
    with pytest.raises(UsageError, match=f"--workdir={place}: nothing can be written in /"):
        check_folder(place, flag="workdir")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="nothing can be written .*Permission denied"):
        check_folder(str(tmp_path / "run"), flag="workdir")


def test_a_disk_without_room_is_refused_with_the_figures(tmp_path):
    with pytest.raises(UsageError, match=r"[\d,]+ MiB are free on its disk, and about 8,388,608 are needed \(x\)"):
        check_folder(str(tmp_path), flag="workdir", needs=1 << 43, for_what="x")


def test_what_a_run_has_written_counts(tmp_path):
    with open(tmp_path / "checkpoint", "wb") as file:
        file.truncate(1 << 43)  # takes no room
    check_folder(str(tmp_path), flag="workdir", needs=1 << 43)


def test_files(tmp_path):
    with pytest.raises(UsageError, match="a folder; give the name of a file"):
        check_file(str(tmp_path), flag="output")
    with pytest.raises(UsageError, match=f"there is no folder {tmp_path}/none; make it"):
        check_file(str(tmp_path / "none" / "x.jsonl"), flag="output")
    check_file("memory://places/x.jsonl", flag="output")


def test_a_store_is_written_to_and_left_as_it_was():
    check_folder("memory://places/run", flag="workdir")
    assert not storage.exists("memory://places/run")
    with pytest.raises(UsageError, match="no such kind of store"):
        check_folder("ftp://places/run", flag="workdir")


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


def test_what_is_of_the_kind_goes_on_and_strangers_names_are_no_matter(tmp_path):
    run = make(tmp_path / "run", "config.json", "checkpoints/1", "report.html")
    check_nothing_is_lost(run, flag="run", kind=kinds.RUN, writes=["report.html"])
    logs = make(tmp_path / "logs", "slurm-1.out", "events.txt")
    check_nothing_is_lost(logs, flag="run", kind=kinds.RUN, writes=["report.html"])
    check_nothing_is_lost(str(tmp_path / "new"), flag="run", kind=kinds.RUN, writes=["report.html"])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["roses/1.jpg"], "it is a folder of images"),
        (["1.JPEG"], "it is a folder of images"),
        (["CURRENT"], "it is a dataset"),
        (["quickstart.json", "index.html"], "it is what a quickstart has made"),
        (["notes.txt", "report.html"], "report.html lies there, which would be lost"),
    ],
)
def test_what_would_be_lost_is_named(tmp_path, names, says):
    folder = make(tmp_path / "given", *names)
    with pytest.raises(UsageError) as raised:
        check_nothing_is_lost(folder, flag="run", kind=kinds.RUN, writes=["report.html"])
    assert str(raised.value) == f"--run={folder}: {says}; take a folder that is empty, or a new one"


def test_what_replaces_a_folder_spares_everything_that_it_would_not_write(tmp_path):
    of_export = {"saved_model", "labels.txt"}
    export = make(tmp_path / "export", "saved_model/saved_model.pb", "labels.txt")
    texts = make(tmp_path / "texts")
    for folder in (export, texts):
        check_nothing_is_lost(folder, flag="output", kind=kinds.MODEL, replaces=of_export)
        make(pathlib.Path(folder), "thesis.docx")
        with pytest.raises(UsageError, match=r"thesis.docx lies there, which would be lost"):
            check_nothing_is_lost(folder, flag="output", kind=kinds.MODEL, replaces=of_export)
