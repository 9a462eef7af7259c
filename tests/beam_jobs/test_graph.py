"""Tests the one graph against the builder that it replaces: the same bytes, on every engine, killed or not."""

import json
import pathlib
import shutil

import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image

from beam_jobs import build
from beam_jobs.graph_build import build_with_graph
from beam_jobs.sources import open_source
from beam_jobs.sources.folder import FolderSource
from beam_jobs.splits import SplitFractions
from pipeline.images.policy import PixelPolicy
from tests.beam_jobs.image_folders import config, files_of, make_folder, save_image

# Besides the shards, what must be equal byte for byte.
_EQUAL = ("rejects.jsonl", "duplicates.jsonl", "statistics.json", "features.json", "dataset_info.json", "label.labels.txt",
          "manifest.json", "README.md", "report.html")  # fmt: skip


def same_bytes(version: str, other: str) -> None:
    """Asserts that two versions hold equal shards, and the same beside them; tables and claims are the graph's own."""
    files, expected = files_of(version), files_of(other)
    shards = {name for name in expected if ".tfrecord-" in name}
    assert shards
    assert {name for name in files if ".tfrecord-" in name} == shards
    for name in (*sorted(shards), *_EQUAL):
        assert files[name] == expected[name], name
    own = set(files) - set(expected)
    assert all(name == "claim" or name.startswith("rows-") for name in own)


def compare(source, tmp_path: pathlib.Path, *, runner=None, beam_arguments=(), **changes) -> build.Outcome:
    """Builds by both and compares."""
    old = build.build(source, config(tmp_path / "old", **changes), ())
    new = build_with_graph(source, config(tmp_path / "new", **changes), beam_arguments, runner=runner)
    same_bytes(new.directory, old.directory)
    for field in ("version", "built", "new_content", "examples", "rejects", "total"):
        assert getattr(new, field) == getattr(old, field), field
    return new


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Makes two classes of 40 images with copies, near copies, and the faults that folders have."""
    root = tmp_path_factory.mktemp("in") / "photos"
    make_folder(root, images=40)
    shutil.copy(root / "cat/0.png", root / "cat/copy.png")
    with Image.open(root / "cat/2.png") as image:
        image.save(root / "cat/same_pixels.bmp")
        image.resize((64, 48)).save(root / "cat/larger.jpg", quality=90)
    with Image.open(root / "cat/6.png") as image:
        image.convert("RGB").save(root / "dog/near_conflict.jpg", quality=97)
    with Image.open(root / "dog/1002.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "dog/mirrored.png")
    shutil.copy(root / "cat/4.png", root / "dog/conflict.png")
    (root / "cat/text.jpg").write_text("hello")
    whole = (root / "dog/1000.png").read_bytes()
    (root / "dog/cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "dog/deep/er").mkdir(parents=True)
    save_image(root / "dog/deep/er/7.png", 77_777)
    (root / "dog/deep/link").symlink_to(root / "dog")
    (root / "dog/dead.png").symlink_to(root / "nowhere")
    (root / "cat/.hidden.png").write_bytes(whole)
    return root


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"near_duplicates": "keep"},
        {"near_duplicates": "drop"},
        {"policy": PixelPolicy(max_side=16)},
        {"split_by": "hash"},
        {"seed": 7, "fractions": SplitFractions.parse("train:0.5,test:0.5")},
    ],
    ids=str,
)
def test_a_folder_gives_the_same_bytes(folder, tmp_path, changes):
    outcome = compare(FolderSource(str(folder)), tmp_path, **changes)
    assert {"not_an_image", "truncated", "label_conflict", "duplicate"} <= set(outcome.rejects)
