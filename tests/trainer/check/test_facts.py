"""Tests what is gathered of images besides their features."""

import io

import numpy as np
from PIL import Image

from pipeline.format.rows import KnownImages, known_images
from tests import datasets
from trainer.check.facts import gather


def _photo(make, model, seed):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = make, model
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_records_tell_their_camera_and_shape_in_file_order(tmp_path):
    photos = [
        _photo("Canon", "EOS 5D", 0),
        _photo("", "", 1),
        datasets.jpeg(np.zeros((40, 20, 3), np.uint8)),
        _photo("Canon\0", "EOS 5D", 2)[:-2] + b"\xff\xd9",
    ]
    records = [datasets.record(photo, n % 2, name=str(n)) for n, photo in enumerate(photos)]
    data = datasets.write_dataset(tmp_path, {"train": records, "test": records[:1]}, ["a", "b"])
    found = gather(data, {"train": 3, "test": 1}, known_images(data))
    assert list(found.cameras) == ["Canon EOS 5D", "", "", "Canon EOS 5D"]
    assert list(found.ids) == [records[n].id for n in (0, 1, 2, 0)]
    assert list(found.splits) == ["train"] * 3 + ["test"]
    assert found.labels.tolist() == [0, 1, 0, 0]
    assert found.numbers["aspect"].tolist() == [1.5, 1.5, 0.5, 1.5]
    assert found.numbers["bytes a pixel"][2] == len(photos[2]) / 800
    assert "brightness" not in found.numbers  # no table tells it
    assert len(set(found.groups.tolist())) == 4


def test_look_alikes_and_brightness_come_from_the_build(tmp_path):
    records = datasets.coloured_records(3, classes=3)
    data = datasets.write_dataset(tmp_path, {"train": records}, ["a", "b", "c"])
    known = KnownImages(
        ids=tuple(r.id for r in reversed(records)),
        sources=tuple(r.source for r in reversed(records)),
        labels=("c", "b", "a"),
        splits=("train",) * 3,
        groups=(b"x", b"y", b"x"),
        facts={"brightness": np.array([0.3, 0.2, 0.1]), "sharpness": np.ones(3)},
    )
    found = gather(data, {"train": 3}, known)
    assert found.numbers["brightness"].tolist() == [0.1, 0.2, 0.3]
    assert found.groups[0] == found.groups[2] != found.groups[1]
