"""Tests what a person decides about single images: the files that say it, and builds that obey."""

import hashlib
import json
import pathlib

import pytest

from beam_jobs.corrections import MAX_ROWS, Corrections, read_corrections
from beam_jobs.inspect import Inspect
from pipeline.command import CommandError, DataError, ExitCode, UsageError
from pipeline.format import records
from pipeline.format.manifest import open_dataset
from tests.beam_jobs.image_folders import make_folder, run_build, run_command, save_image

ID = hashlib.sha256(b"x").digest()


def write(path, text):
    path.write_text(text)
    return str(path)


def kept(outcome):
    """Reads a version: URI → label."""
    data = open_dataset(outcome.directory)
    found = {}
    for split in data.manifest.splits:
        for path in data.shard_paths(split):
            with open(path, "rb") as file:
                for record in map(records.decode_example, records.read_frames(file)):
                    found[record.source] = data.manifest.labels[record.label]
    return found


def test_images_are_named_by_id_or_uri(tmp_path):
    exclude = write(tmp_path / "e.csv", f"id;source\n{ID.hex().upper()};\n;cat/0.jpg\n\n")
    relabel = write(tmp_path / "r.csv", f"sha256,path,class\n{ID.hex()},,dog\n,cat/1.jpg,cat\n,cat/1.jpg,cat\n")
    both = read_corrections(exclude, relabel)
    assert both.excludes("any", ID)
    assert both.excludes("cat/0.jpg")
    assert not both.excludes("any")
    assert not both.excludes("cat/1.jpg", bytes(32))
    assert both.label("any", ID) == "dog"
    assert both.label("cat/1.jpg", ID) == "cat"  # the URI says more than the id, which its copies share
    assert both.label("any", bytes(32)) is None
    again = read_corrections(write(tmp_path / "e2.csv", f"uri,id\ncat/0.jpg,\n,{ID.hex()}\n"), relabel)
    assert again.digest == both.digest != read_corrections(exclude, None).digest
    assert read_corrections(None, None) == Corrections()
    assert read_corrections(write(tmp_path / "none.csv", "id\n"), None).digest == ""


def test_a_table_of_label_issues_gives_the_suggested_label(tmp_path):
    table = write(
        tmp_path / "label_issues.csv",
        f"id,source,label,suggested,probability,split\n{ID.hex()},cat/0.jpg,cat,dog,0.01,train\n",
    )
    assert read_corrections(None, table).label("any", ID) == "dog"
    assert read_corrections(table, None).excludes("any", ID)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column .id. or .uri.; there are no columns: the file is empty"),
        ("name,label\na,b\n", 'line 1: no column "id" or "uri"; the columns are "name", "label"'),
        ("id,kind\na,b\n", 'line 1: no column "label"; the columns are "id", "kind"'),
        ("id,label\nabc,b\n", 'line 2: id "abc" is no sha256: 64 hexadecimal digits'),
        ("uri,label\n,b\n", "line 2: neither an id nor a URI"),
        ("uri,label\na,\n", 'line 2: no "label"'),
        ("uri,label\na,b\na,c\n", "line 3: a has another class than in line 2"),
        ("uri,label\n" + "".join(f"{i},b\n" for i in range(MAX_ROWS + 1)), f"more than {MAX_ROWS} images"),
    ],
)
def test_mistakes_in_the_files(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_corrections(None, write(tmp_path / "r.csv", text))
    assert str(caught.value).startswith(f"--relabel={tmp_path}/r.csv, line ")
    with pytest.raises(UsageError, match="--exclude=.*: no such file"):
        read_corrections(str(tmp_path / "none.csv"), None)


@pytest.fixture
def folder(tmp_path):
    make_folder(tmp_path / "photos", images=6)
    (tmp_path / "photos/cat/broken.jpg").write_text("no image")
    save_image(tmp_path / "photos/cat/stranger.png", 1002)  # a dog's picture
    return tmp_path / "photos"


def decided(tmp_path, folder):
    """Leaves out one image by its URI, one by its id and what is broken; gives two another class."""
    image_id = hashlib.sha256((folder / "dog/1001.jpg").read_bytes()).hexdigest()
    moved = hashlib.sha256((folder / "cat/1.jpg").read_bytes()).hexdigest()
    exclude = write(tmp_path / "e.csv", f"uri,id\ncat/0.png,\ncat/broken.jpg,\n,{image_id}\n")
    return exclude, write(tmp_path / "r.csv", f"uri,id,label\ncat/stranger.png,,dog\n,{moved},dog\n")


@pytest.mark.slow
def test_a_build_obeys_and_decodes_nothing_again(tmp_path, folder, monkeypatch):
    exclude, relabel = decided(tmp_path, folder)
    options = {"near_duplicates": "keep", "max_reject_fraction": 0.0}
    with pytest.raises(CommandError, match="2 label_conflict, 1 not_an_image"):
        run_build(folder, tmp_path / "out", **options)
    fresh = run_build(folder, tmp_path / "fresh", corrections=read_corrections(exclude, relabel), **options)
    first = run_build(folder, tmp_path / "out", **{**options, "max_reject_fraction": 1.0})
    assert first.rejects == {"label_conflict": 2, "not_an_image": 1}

    monkeypatch.setattr(Inspect, "process", lambda *_: pytest.fail("inspected again"))
    second = run_build(folder, tmp_path / "out", corrections=read_corrections(exclude, relabel), **options)
    found = kept(second)
    assert second.rejects == {"duplicate": 1, "excluded": 3}
    assert not found.keys() & {"cat/0.png", "cat/broken.jpg", "dog/1001.jpg"}
    assert found["cat/1.jpg"] == "dog"
    # The stranger is a copy of a dog and no conflict any more: one of the two is kept.
    assert [found[uri] for uri in ("cat/stranger.png", "dog/1002.png") if uri in found] == ["dog"]
    assert found == kept(fresh)
    statistics = json.loads(pathlib.Path(second.directory, "statistics.json").read_text())
    assert statistics["total"]["relabelled"] == sum(uri in found for uri in ("cat/1.jpg", "cat/stranger.png"))
    assert "corrections" in open_dataset(second.directory).manifest.build

    # Taken back in part: known is what was left out by its URI, too.
    less = read_corrections(write(tmp_path / "less.csv", "uri\ncat/broken.jpg\n"), relabel)
    monkeypatch.setattr(Inspect, "process", lambda _, item: pytest.fail(f"{item.uri} is inspected again"))
    third = run_build(folder, tmp_path / "out", corrections=less, **options)
    assert {"cat/0.png", "dog/1001.jpg"} <= kept(third).keys()
    assert run_build(folder, tmp_path / "out", corrections=less, **options).built is False


@pytest.mark.slow
def test_a_class_that_is_none_is_refused_before_anything_is_inspected(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(Inspect, "process", lambda *_: pytest.fail("inspected"))
    typo = read_corrections(None, write(tmp_path / "r.csv", "uri,label\ncat/0.png,dgo\n"))
    with pytest.raises(CommandError, match='--relabel: "dgo" is none of the 2 classes. Did you mean "dog"') as caught:
        run_build(folder, tmp_path / "out", corrections=typo)
    assert caught.value.exit_code is ExitCode.DATA


@pytest.mark.slow
def test_the_command_says_what_came_of_it(tmp_path, folder):
    exclude, relabel = decided(tmp_path, folder)
    with open(exclude, "a") as file:
        file.write("cat/nobody.png,\n" + f",{'0' * 64}\n")
    flags = [f"--exclude={exclude}", f"--relabel={relabel}", "--near_duplicates=keep"]
    planned = run_command(folder, tmp_path / "out", *flags, "--dry_run")
    assert "of these 2 left out by --exclude, 1 given another class" in planned.stdout, planned.stderr
    done = run_command(folder, tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    planned = run_command(folder, tmp_path / "out", *flags, "--seed=1", "--dry_run")
    assert "of these 3 left out by --exclude, 2 given another class" in planned.stdout, planned.stderr
    assert "  left out         3  excluded\n" in done.stdout
    assert "images have the class that --relabel gives them" in done.stdout
    assert (
        f"warning: --exclude={exclude}: 2 of its rows name no image that is read here, like cat/nobody" in done.stderr
    )
    again = run_command(folder, tmp_path / "out", *flags)
    assert "nothing to do" in again.stdout
