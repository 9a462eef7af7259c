import collections
import os
import pathlib

import pytest

from beam_jobs.sources import open_source
from beam_jobs.sources.folder import FolderSource
from beam_jobs.sources.left_out import LeftOut
from pipeline.command import DataError, UsageError
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


def left_out(source: FolderSource) -> dict[str, list[str]]:
    """Returns kind → URIs, sorted."""
    found = collections.defaultdict(list)
    for one in source.listing():
        if isinstance(one, LeftOut):
            found[one.kind].append(one.uri)
    return {kind: sorted(uris) for kind, uris in found.items()}


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


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Testing", "test"),
        ("training_set", "test_set", "test"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("Train", "Val", "validation"),
        ("TRAIN", "dev", "validation"),
        ("train", "eval", "validation"),
        ("train/train", "holdout", "test"),
        ("my train", "my-test", "test"),
    ],
)
def test_split_folders_have_many_names(tmp_path, train, other, split):
    source = put(tmp_path, f"{train}/cat/1.jpg", f"{other}/cat/2.jpg")
    assert set(listed(source)) == {(f"{train}/cat/1.jpg", "cat", "train"), (f"{other}/cat/2.jpg", "cat", split)}
    as_classes = FolderSource(str(tmp_path), {"folders": "classes"})
    assert {item.label for item in as_classes.items()} == {train.split("/")[0], other.split("/")[0]}


def test_splits_within_the_classes(tmp_path):
    source = put(tmp_path, "cat/train/1.jpg", "cat/test/more/2.jpg", "dog/train/3.jpg", "dog/test/4.jpg")
    assert [(label, split) for _, label, split in listed(source)] == [
        ("cat", "test"), ("cat", "train"), ("dog", "test"), ("dog", "train"),
    ]  # fmt: skip
    assert left_out(source) == {"empty_class": ["cat/", "dog/"]}  # unless an image of the class is listed


def test_a_folder_of_unlabelled_images_beside_the_splits_is_left_out(tmp_path):
    source = put(tmp_path, "seg_train/a/1.jpg", "seg_test/a/2.jpg", "seg_pred/seg_pred/3.jpg")
    assert {uri for uri, *_ in listed(source)} == {"seg_train/a/1.jpg", "seg_test/a/2.jpg"}
    assert left_out(source)["other_split"] == ["seg_pred/"]


@pytest.mark.parametrize("path", ["photos/{}", "photos/photos/{}", "photos/train/{}", "photos/photos/test_set/{}"])
def test_needless_folders_around_everything_are_seen_through(tmp_path, path):
    put(tmp_path, *(path.format(name) for name in ("cat/1.jpg", "dog/2.jpg", "cat/train/3.jpg")))
    source = FolderSource(str(tmp_path / "photos"))
    assert {label for _, label, _ in listed(source)} == {"cat", "dog"}


def test_a_name_in_two_unicode_spellings_is_one_class_in_two_splits_and_a_fault_within_one(tmp_path):
    composed, decomposed = "L\u00f6wenzahn", "Lo\u0308wenzahn"
    source = put(tmp_path, f"train/{composed}/1.jpg", f"test/{decomposed}/2.jpg")
    assert {(label, split) for _, label, split in listed(source)} == {(composed, "train"), (composed, "test")}
    assert f"test/{decomposed}/2.jpg" in {uri for uri, *_ in listed(source)}
    put(tmp_path, f"train/{decomposed}/3.jpg")
    with pytest.raises(DataError, match=r"'train/L\\xf6wenzahn' .*same name in two Unicode"):
        listed(source)


def test_what_is_left_out_is_named(tmp_path):
    source = put(
        tmp_path,
        *("cat/1.jpg", "cat/1.txt", "cat/deep/1.JSON", "cat/.DS_Store", "cat/._1.jpg", "cat/Icon\r", "cat/.hidden.png"),
        *("cat/.2.jpg.icloud", "cat/3.jpg.dvc", "cat/more.zip", "@eaDir/1.jpg", "#recycle/2.jpg", "dog/Thumbs.db"),
        *("$RECYCLE.BIN/x", "__MACOSX/cat/1.jpg", "stray.jpg", "README.md", ".git/config"),
    )
    (tmp_path / "cat" / "annexed.jpg").symlink_to(tmp_path / ".git/annex/objects/xy")
    assert listed(source) == [("cat/1.jpg", "cat", None)]
    assert left_out(source) == {
        "sidecar": ["README.md", "cat/1.txt", "cat/deep/1.JSON"],
        "system": ["#recycle", "$RECYCLE.BIN", "@eaDir", "__MACOSX", "cat/.DS_Store", "cat/._1.jpg", "cat/Icon\r",
                   "dog/Thumbs.db"],
        "hidden": [".git", "cat/.hidden.png"],
        "placeholder": ["cat/.2.jpg.icloud", "cat/3.jpg.dvc"],
        "archive": ["cat/more.zip"],
        "dangling_link": ["cat/annexed.jpg"],
        "no_class": ["stray.jpg"],
        "empty_class": ["cat/", "dog/"],
    }  # fmt: skip


def test_images_beside_the_classes_of_a_split_are_left_out(tmp_path):
    source = put(tmp_path, "train/cat/1.jpg", "train/stray.jpg", "test/flat.jpg")
    assert listed(source) == [("train/cat/1.jpg", "cat", "train")]
    assert left_out(source)["no_class"] == ["test/flat.jpg", "train/stray.jpg"]


@pytest.mark.parametrize(
    ("content", "tool"),
    [("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"), ("/annex/objects/S", "git annex")],
)
def test_a_pointer_in_an_image_s_place_is_refused_by_name(tmp_path, content, tool):
    source = put(tmp_path, "cat/1.jpg")
    (tmp_path / "cat/1.jpg").write_text(content)
    with pytest.raises(ReadError, match=tool):
        source.read(next(source.items()))


def test_a_class_may_be_called_train(tmp_path):
    source = put(tmp_path, "train/1.jpg", "plane/2.jpg")
    assert {item.label for item in source.items()} == {"train", "plane"}


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        (["train/cat/1.jpg", "birds/2.jpg"], "birds/ does not"),
        (["val/cat/1.jpg", "valid/cat/2.jpg", "train/cat/3.jpg"], "same split"),
        (["1.jpg"], "no sub-folders, and 1 files directly in it; --source=folder expects"),
        ([f"IMG_{n}.jpg" for n in range(9)], "no sub-folders, and 9 files directly in it; --source=folder expects"),
        ([f"{name}.{n}.jpg" for name in ("cat", "dog") for n in range(3)], r"classes \(cat.0.jpg: cat\): move .*csv"),
        (["Training/1.jpg", "test_set/2.jpg"], "Training/ and test_set/ look like splits but hold no class folders"),
        (["train/cat/1.jpg", "birds/2.jpg"], "--folders=classes"),
        (["photos.zip"], r"holds photos.zip and no class folders; unpack it \(unzip photos.zip"),
        (["photos.tar.gz", "b.tar"], r"unpack it \(tar -xf b.tar"),
        (["labels.csv", "1.jpg"], "--source=csv --input=.*/labels.csv"),
        (
            ["stuff/cat/1.jpg", "stuff/dog/2.jpg"],
            r"one folder is around .*, stuff/; if cat/ and dog/ .* --input=.*/stuff$",
        ),
        (
            ["pets/images/a_1.jpg", *(f"pets/annotations/{name}.txt" for name in ("list", "trainval", "test"))],
            "Oxford-IIIT Pet in its official layout; run .* --source=oxford_pets --input=.*/pets --output=DATA",
        ),
        (["images/a_1.jpg", *(f"annotations/{name}.txt" for name in ("list", "trainval", "test"))], "oxford_pets"),
        (["cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/test_batch"], "--source=cifar10 --input=.*/cifar"),
        (["train", "test", "meta"], "is CIFAR-100"),
        (["dataset_info.json", "features.json", "x.tfrecord"], "--source=tfds"),
        (["CURRENT", "versions/1.0.0/x"], "is a dataset that has been built"),
    ],
)
def test_other_layouts_are_refused(tmp_path, paths, problem):
    with pytest.raises(UsageError, match=problem):
        listed(put(tmp_path, *paths))


def test_the_images_of_oxford_pets_are_told_from_others(tmp_path):
    put(tmp_path, *(f"images/{name}_1.jpg" for name in ("Abyssinian", "Bengal")))
    with pytest.raises(UsageError, match=f"give --source=oxford_pets --input={tmp_path}$"):
        listed(FolderSource(str(tmp_path / "images")))


def test_missing_folder_and_file_instead_of_folder(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        listed(FolderSource(str(tmp_path / "absent")))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        listed(FolderSource(str(tmp_path / "file")))
    for name, advice in (
        ("a.zip", "unzip .*a.zip"),
        ("a.tar.gz", "tar -xf .*a.tar.gz"),
        ("a.csv", "--source=csv"),
        ("cifar-100-binary.tar.gz", "--source=cifar100"),
    ):
        (tmp_path / name).write_text("")
        with pytest.raises(UsageError, match=advice):
            listed(FolderSource(str(tmp_path / name)))


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


def test_names_that_are_not_utf8_or_look_like_it_are_read_by_their_bytes(tmp_path):
    names = {
        b"caf\xe9.jpg": r"caf\xe9.jpg",
        rb"caf\xe9.jpg": r"caf\x5cxe9.jpg",
        rb"\xzz\\": r"\x5cxzz\\",
        "é\\".encode() + b"\xff\\xff": r"é\\xff\x5cxff",
        rb"C:\plain.jpg": r"C:\plain.jpg",
    }
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in names:
        with open(folder + b"/" + name, "wb") as file:
            file.write(name)
    items = list(FolderSource(str(tmp_path)).items())
    assert {item.label for item in items} == {r"caf\xe9"}
    assert {item.uri for item in items} == {rf"caf\xe9/{name}" for name in names.values()}
    for item in items:
        assert names[FolderSource(str(tmp_path)).read(item)] == item.uri.partition("/")[2]


def test_unknown_source_names_the_nearest():
    with pytest.raises(UsageError, match='Did you mean "folder"'):
        open_source("foldr", input_path="x", options={})
