import os
import pathlib

import pytest

from beam_jobs.sources import open_source
from beam_jobs.sources.folder import FolderSource
from pipeline.command import UsageError
from pipeline.images.policy import ReadError, RejectCode


def put(root: pathlib.Path, *paths: str) -> FolderSource:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return FolderSource(str(root))


def listed(source: FolderSource) -> list[tuple[str, str, str | None]]:
    return [(item.uri, item.label, item.split) for item in source.items()]


def test_classes_are_the_sub_folders_and_deeper_folders_belong_to_them(tmp_path):
    source = put(tmp_path, "cat/1.jpg", "cat/more/2.jpg", "dog/3.png", "README.txt")
    assert listed(source) == [("cat/1.jpg", "cat", None), ("cat/more/2.jpg", "cat", None), ("dog/3.png", "dog", None)]


def test_what_operating_systems_leave_behind_is_no_image(tmp_path):
    source = put(tmp_path, "cat/1.jpg", "cat/.DS_Store", "cat/Thumbs.db", "cat/desktop.ini", ".git/x/y", "__MACOSX/a/b")
    assert listed(source) == [("cat/1.jpg", "cat", None)]


@pytest.mark.parametrize("name", ["valid", "validation", "val"])
def test_official_splits(tmp_path, name):
    source = put(tmp_path, "train/cat/1.jpg", f"{name}/cat/2.jpg", "test/dog/3.jpg")
    assert set(listed(source)) == {
        ("train/cat/1.jpg", "cat", "train"),
        (f"{name}/cat/2.jpg", "cat", "validation"),
        ("test/dog/3.jpg", "dog", "test"),
    }


def test_a_class_may_be_called_train(tmp_path):
    source = put(tmp_path, "train/1.jpg", "plane/2.jpg")
    assert {item.label for item in source.items()} == {"train", "plane"}


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        (["train/cat/1.jpg", "birds/2.jpg"], "birds/ does not"),
        (["val/cat/1.jpg", "valid/cat/2.jpg", "train/cat/3.jpg"], "same split"),
        (["train/cat/1.jpg", "test/cat/2.jpg", "test/stray.jpg"], "stray.jpg is not inside a class"),
        (["1.jpg"], "no sub-folders"),
        (["cat/.hidden"], "hold no files"),
    ],
)
def test_other_layouts_are_refused(tmp_path, paths, problem):
    with pytest.raises(UsageError, match=problem):
        listed(put(tmp_path, *paths))


def test_missing_folder_and_file_instead_of_folder(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        listed(FolderSource(str(tmp_path / "absent")))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        listed(FolderSource(str(tmp_path / "file")))


def test_links_are_followed_but_not_round_in_circles(tmp_path):
    source = put(tmp_path / "in", "cat/1.jpg")
    put(tmp_path / "elsewhere", "dogs/2.jpg")
    (tmp_path / "in" / "dog").symlink_to(tmp_path / "elsewhere" / "dogs")
    (tmp_path / "in" / "cat" / "loop").symlink_to(tmp_path / "in" / "cat")
    (tmp_path / "in" / "cat" / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    assert [uri for uri, _, _ in listed(source)] == ["cat/1.jpg", "dog/2.jpg"]


def test_reading_by_uri_and_the_stamp_follows_the_file(tmp_path):
    source = put(tmp_path, "cat/1.jpg")
    (item,) = source.items()
    assert source.read(item) == b"cat/1.jpg"
    os.utime(tmp_path / "cat/1.jpg", ns=(1, 1))
    assert next(source.items()).stamp != item.stamp
    (tmp_path / "cat/1.jpg").unlink()
    with pytest.raises(ReadError) as caught:
        source.read(item)
    assert caught.value.code is RejectCode.UNREADABLE


def test_a_name_that_is_not_utf8_is_listed_and_cannot_be_read(tmp_path):
    (tmp_path / "cat").mkdir()
    with open(os.fsencode(tmp_path) + b"/cat/caf\xe9.jpg", "wb"):
        pass
    source = FolderSource(str(tmp_path))
    (item,) = source.items()
    assert item.uri == "cat/caf\\xe9.jpg"
    with pytest.raises(ReadError):
        source.read(item)


def test_unknown_source_names_the_nearest():
    with pytest.raises(UsageError, match='Did you mean "folder"'):
        open_source("foldr", input_path="x", options={})
