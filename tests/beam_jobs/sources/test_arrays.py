"""Tests images that come as arrays: NumPy's own files, those that the API writes, and what is neither."""

import io

import numpy as np
import pytest
from PIL import Image

from beam_jobs.sources import open_source
from pipeline.command import DataError, UsageError
from pipeline.format.arrays import write_arrays

CHANCE = np.random.default_rng(0)


def source(folder):
    return open_source("arrays", input_path=str(folder), options={})


def stack(folder, images, labels, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    if names:
        (folder / "names.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def noise(*shape):
    return CHANCE.integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(5, 9, 7, 3), (5, 9, 7), (5, 9, 7, 1)])
def test_pillow_reads_the_pixels_that_numpy_saved(tmp_path, shape):
    images = np.asfortranarray(noise(*shape))  # in whatever order
    found = source(stack(tmp_path, images, np.arange(5)))
    items = list(found.items())
    assert [item.label for item in items] == ["0", "1", "2", "3", "4"]
    for item, image in zip(items, images, strict=True):
        with Image.open(io.BytesIO(found.read(item))) as opened:
            np.testing.assert_array_equal(np.asarray(opened), image.squeeze())
    assert found.labels() is None


def test_images_of_any_size_come_back(tmp_path):
    images = [noise(8, 9, 3), noise(10, 8), noise(12, 12, 1)]
    write_arrays(str(tmp_path / "a"), zip(images, [1, 0, 1], strict=True), names=["ämber", "blue"])
    found = source(tmp_path / "a")
    items = list(found.items())
    assert [item.label for item in items] == ["blue", "ämber", "blue"]
    assert found.labels() == ["ämber", "blue"]
    for item, image in zip(items, images, strict=True):
        with Image.open(io.BytesIO(found.read(item))) as opened:
            np.testing.assert_array_equal(np.asarray(opened), image.squeeze())


def test_folders_of_splits_are_official(tmp_path):
    for split, count in {"train": 3, "test": 2}.items():
        stack(tmp_path / split, noise(count, 8, 8), np.array(["no", "yes", "no"][:count]))
    items = list(source(tmp_path).items())
    assert [(item.split, item.label, item.uri) for item in items] == [
        ("test", "no", "arrays://test/0"), ("test", "yes", "arrays://test/1"),
        ("train", "no", "arrays://train/0"), ("train", "yes", "arrays://train/1"), ("train", "no", "arrays://train/2"),
    ]  # fmt: skip


def test_stamps_follow_the_pixels_and_not_the_place(tmp_path):
    images = noise(4, 8, 8, 3)
    images[3] = images[0]
    first = [item.stamp for item in source(stack(tmp_path / "a", images, np.arange(4))).items()]
    images[1, 0, 0, 0] ^= 1
    second = [item.stamp for item in source(stack(tmp_path / "b", images, np.arange(4))).items()]
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True, True]
    assert first[0] == first[3]


def test_one_shape_is_not_another_with_the_same_pixels(tmp_path):
    write_arrays(str(tmp_path / "a"), [(np.zeros((8, 16), np.uint8), 0), (np.zeros((16, 8), np.uint8), 0)])
    first, second = source(tmp_path / "a").items()
    assert first.stamp != second.stamp


@pytest.mark.parametrize(
    ("image", "label", "said"),
    [
        (np.zeros((8, 8, 3), np.float32), 0, "image 0 is float32 [8, 8, 3]; it must be uint8"),
        (np.zeros((8, 8, 4), np.uint8), 0, "image 0 is uint8 [8, 8, 4]; it must be uint8"),
        (np.zeros((8, 0), np.uint8), 0, "image 0 is uint8 [8, 0]; it must be"),
        (np.zeros((8, 8), np.uint8), np.eye(3)[0], "one-hot labels give labels.argmax(axis=1)"),
        (np.zeros((8, 8), np.uint8), 0.5, "image 0 has the label 0.5"),
        (np.zeros((8, 8), np.uint8), 2, "image 0 has the label 2, and there are 2 names"),
        (np.zeros((8, 8), np.uint8), "c", "image 0 has the label 'c', which is none of the 2 names"),
    ],
)  # fmt: skip
def test_what_is_no_image_or_label_is_named(tmp_path, image, label, said):
    with pytest.raises(UsageError) as error:
        write_arrays(str(tmp_path / "a"), [(image, label)], names=["a", "b"])
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.zeros((2, 8, 8), np.float32), np.arange(2), "images.npy is float32 [2, 8, 8]"),
        (np.zeros((2, 8, 8, 2), np.uint8), np.arange(2), "images.npy is uint8 [2, 8, 8, 2]"),
        (np.zeros((2, 8, 8), np.uint8), np.arange(3), "images.npy has 2 images, labels.npy 3 labels"),
        (np.zeros((2, 8, 8), np.uint8), np.array([0.5, 1]), "labels.npy is float64 [2]"),
        (np.zeros((2, 8, 8), np.uint8), np.array([{}, {}]), "labels.npy is no array of numbers or text"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, images, labels, said):
    with pytest.raises(DataError) as error:
        list(source(stack(tmp_path, images, labels)).items())
    assert said in str(error.value)


def test_a_label_without_a_name_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"label 2, and names\.txt has 2 lines"):
        list(source(stack(tmp_path, noise(3, 8, 8), np.arange(3), names=["a", "b"])).items())


@pytest.mark.parametrize("shapes", [[[8, 8, 3]], [[1 << 62, 4, 3]], [[-8, -8, 3]], [[8, 8, 2]]])
def test_sizes_that_are_not_those_of_the_file_are_refused(tmp_path, shapes):
    write_arrays(str(tmp_path / "a"), [(np.zeros((8, 8), np.uint8), 0)])
    np.save(tmp_path / "a" / "shapes.npy", np.array(shapes, np.int64))
    with pytest.raises(DataError):
        list(source(tmp_path / "a").items())


def test_a_folder_without_arrays_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no arrays there; it needs images\.npy"):
        list(source(tmp_path).items())
    stack(tmp_path / "steam_train", noise(1, 8, 8), np.arange(1))
    with pytest.raises(UsageError, match=r"its folders \(steam_train\) must be"):
        list(source(tmp_path).items())
