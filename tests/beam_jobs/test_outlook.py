"""Tests what a build says of the dataset: in the command's output, statistics.json, the card and the report."""

import html
import json
import shutil

import pytest
from PIL import Image

from beam_jobs import build
from beam_jobs.elements import Listing
from beam_jobs.sources import everything
from beam_jobs.sources.folder import FolderSource
from beam_jobs.summary import Summary, listing_of
from pipeline.command import CommandError, DataError, ExitCode
from pipeline.format.manifest import open_dataset
from tests.beam_jobs.image_folders import config, files_of, make_folder, run_build, run_command, save_image


@pytest.mark.slow
def test_what_is_left_out_is_counted_and_said_everywhere(tmp_path):
    make_folder(tmp_path / "in", images=6)
    for path in list((tmp_path / "in/cat").iterdir()):
        path.with_suffix(".xml").write_text("<box/>")
    for number in range(5):
        save_image(tmp_path / f"in/unsorted{number}.png", 500 + number)
    (tmp_path / "in/owl/deep").mkdir(parents=True)
    done = run_command(tmp_path / "in", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 images: 12 kept, 0 left out" in done.stdout
    lines = [
        "1 class folder holds no image: owl/",
        "5 files lie in no class folder: unsorted0.png, unsorted1.png, unsorted2.png, …",
        "6 sidecar files (.txt, .json, …): cat/0.xml, cat/1.xml, cat/2.xml, …",
    ]
    version = files_of(tmp_path / "out/versions/1.0.0")
    for line in lines:
        assert f"  {line}\n" in done.stdout
        assert f"- {line}\n" in version["README.md"].decode()
        assert f"<li>{html.escape(line)}</li>" in version["report.html"].decode()
    left_out = json.loads(version["statistics.json"])["left_out"]
    assert {kind: found["count"] for kind, found in left_out.items()} == {"empty_class": 1, "no_class": 5, "sidecar": 6}
    assert left_out["empty_class"]["first"] == ["owl/"]
    parallel = run_build(tmp_path / "in", tmp_path / "out2", beam_arguments=["--direct_running_mode=multi_processing"])
    assert files_of(parallel.directory) == version
    plan = run_command(tmp_path / "in", tmp_path / "out3", "--dry_run")
    assert all(f"  {line}\n" in plan.stdout for line in lines)
    (tmp_path / "in/dog/later.txt").write_text("")  # no reason to build again
    assert run_command(tmp_path / "in", tmp_path / "out").stdout.startswith("nothing to do")


def test_numbers_are_in_their_order_and_the_manifest_says_so(tmp_path):
    make_folder(tmp_path / "in", labels=[str(number) for number in range(12)], images=3)
    manifest = open_dataset(run_build(tmp_path / "in", tmp_path / "out").directory).manifest
    assert (manifest.labels, manifest.label_order) == (tuple(map(str, range(12))), "number")


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (("a\u2028b", "cat"), r"the class name 'a\u2028b' is not one line of printable text"),
        (("Cat", "cat "), "the class names 'Cat' and 'cat ' differ only in case, spaces or Unicode spelling"),
    ],
)
def test_labels_are_checked_before_any_image_is_read(tmp_path, labels, problem):
    make_folder(tmp_path / "in", labels=labels, images=3)
    with pytest.raises(DataError) as caught:
        run_build(tmp_path / "in", tmp_path / "out")
    assert problem in str(caught.value)
    rows = "".join(f'"{n}.png","{label}"\n' for n in range(3) for label in labels)
    (tmp_path / "t.csv").write_text(f"uri,label\n{rows}")
    done = run_command(tmp_path / "t.csv", tmp_path / "out", "--source=csv")
    assert done.returncode == ExitCode.DATA


@pytest.mark.slow
def test_a_class_that_no_model_can_learn_is_refused_and_one_never_tested_is_named(tmp_path):
    make_folder(tmp_path / "in/train", labels=("cat", "dog", "owl"), images=5)
    make_folder(tmp_path / "in/test", images=5, first=5_000)
    outcome = run_build(tmp_path / "in", tmp_path / "out", validation_fraction=0)
    assert list(outcome.notes) == ['warning: 1 class stands in train only: "owl"']
    make_folder(tmp_path / "in/test", labels=("emu",), images=2, first=9_000)
    with pytest.raises(DataError, match='no model can learn "emu": images of it stand in test only, none in train'):
        run_build(tmp_path / "in", tmp_path / "out")
    shutil.copytree(tmp_path / "in/test/emu", tmp_path / "in/train/emu")  # copies, which go
    with pytest.raises(CommandError, match='no model can learn "emu": no image of it is in train'):
        run_build(tmp_path / "in", tmp_path / "out")


@pytest.mark.slow
def test_splits_that_do_not_apply_are_said(tmp_path):
    make_folder(tmp_path / "in/train", images=5)
    make_folder(tmp_path / "in/test", images=5, first=5_000)
    done = run_command(tmp_path / "in", tmp_path / "out", "--splits=train:0.5,test:0.5", "--validation_fraction=0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--splits=train:0.5,test:0.5 does not apply: every image has an official split (train, test)" in done.stdout


def test_many_copies_in_a_class_are_a_warning_with_examples(tmp_path):
    make_folder(tmp_path / "in", images=20)
    for number in range(3):
        with Image.open(tmp_path / f"in/cat/{2 * number}.png") as image:
            image.save(tmp_path / f"in/cat/copy{number}.bmp")
    (tmp_path / "in/cat/odd\u2028name.jpg").write_text("no image, whose name would end a line of rejects.jsonl")
    outcome = run_build(tmp_path / "in", tmp_path / "out")
    (note,) = outcome.notes
    assert note.startswith('warning: 3 of 24 images of class "cat" are left out as copies or for contradicting labels')
    assert "same pixels as" in note
    assert "near_duplicates" not in note  # equal pixels are copies, whatever the flag says


@pytest.mark.slow
def test_small_classes_are_counted_and_can_be_kept_for_training_or_left_out(tmp_path):
    make_folder(tmp_path / "in", images=12)
    make_folder(tmp_path / "in", labels=[f"rare_{number}" for number in range(5)], images=1, first=50_000)
    refused = run_command(tmp_path / "in", tmp_path / "out")
    assert (refused.returncode, refused.stderr.count("\n")) == (ExitCode.DATA, 1)
    assert 'class "rare_0" has 1 images for 3 splits' in refused.stderr
    assert "5 of the 7 classes" in refused.stderr
    assert "--small_classes=train" in refused.stderr
    kept = run_build(tmp_path / "in", tmp_path / "out", small_classes="train", split_by="hash")
    assert kept.examples["train"].items() >= {f"rare_{number}": 1 for number in range(5)}.items()
    assert not {f"rare_{n}" for n in range(5)} & (kept.examples["test"].keys() | kept.examples["validation"].keys())
    assert kept.notes[0].startswith("5 classes are too small to be split and stand in train only: ")
    dropped = run_build(tmp_path / "in", tmp_path / "out", small_classes="drop")
    assert open_dataset(dropped.directory).manifest.labels == ("cat", "dog")
    assert dropped.rejects == {"small_class": 5}
    assert dropped.notes[0].startswith("5 classes are too small to be split and are left out: ")


def test_the_listing_does_not_depend_on_where_it_is_made(tmp_path):
    """The launcher's own sums equal those of the workers, whose bundles meet in any order."""
    make_folder(tmp_path / "in", images=4)
    (tmp_path / "in/owl").mkdir()
    source = FolderSource(str(tmp_path / "in"))
    settings = build.make_settings(source, config(tmp_path / "out"))
    found = list(everything(source))
    parts = [Summary() for _ in range(3)]
    for number, element in enumerate(reversed(found)):
        parts[number % 3].add(element)
    merged, whole = Summary(), Summary()
    merged.merge(part.sums() for part in parts)
    for element in found:
        whole.add(element)
    listing = listing_of(merged.sums(), settings)
    assert isinstance(listing, Listing)
    assert listing == listing_of(whole.sums(), settings)
    assert listing.left_out == (("empty_class", 1, ("owl/",)),)
