"""Tests the whole build, inside this process (`run_build`) or as a command (`run_command`)."""

import collections
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import uuid

import pytest
from PIL import Image

from beam_jobs.splits import SplitFractions
from pipeline.command import CommandError, DataError, UsageError
from pipeline.format import records, storage
from pipeline.format.manifest import open_dataset
from tests.beam_jobs.image_folders import command, files_of, make_folder, run_build, run_command, save_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Makes two classes of 20 images, and the faults that folders have."""
    root = tmp_path_factory.mktemp("in") / "photos"
    make_folder(root)
    shutil.copy(root / "cat/0.png", root / "cat/copy.png")
    with Image.open(root / "cat/2.png") as image:
        image.save(root / "cat/same_pixels.bmp")
    shutil.copy(root / "cat/4.png", root / "dog/conflict.png")
    (root / "cat/text.jpg").write_text("hello")
    whole = (root / "dog/1000.png").read_bytes()
    (root / "dog/cut.png").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    """Builds the folder once."""
    return run_build(folder, tmp_path_factory.mktemp("out"))


def read_records(version: str) -> dict[str, list[records.Record]]:
    data = open_dataset(version)
    out = {}
    for split in data.manifest.splits:
        out[split] = []
        for path in data.shard_paths(split):
            with open(path, "rb") as file:
                out[split] += [records.decode_example(payload) for payload in records.read_frames(file)]
    return out


def test_every_image_is_in_one_split_or_among_the_rejects(folder, built):
    kept = [record.source for split in read_records(built.directory).values() for record in split]
    lines = pathlib.Path(built.directory, "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    rejects = [json.loads(line) for line in lines]
    assert sorted(kept + [reject["uri"] for reject in rejects]) == sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )
    assert collections.Counter(reject["code"] for reject in rejects) == {
        "duplicate": 2,
        "label_conflict": 2,
        "not_an_image": 1,
        "truncated": 1,
    }
    assert built.rejects == collections.Counter(reject["code"] for reject in rejects)
    assert {reject["label"] for reject in rejects} == {"cat", "dog"}


def test_records_hold_the_pictures_and_their_labels(folder, built):
    data = open_dataset(built.directory)
    for split in read_records(built.directory).values():
        for record in split:
            assert data.manifest.labels[record.label] == record.source.split("/")[0]
            source = folder / record.source
            if source.suffix == ".jpg":
                assert record.image == source.read_bytes()
            with Image.open(source) as image:
                assert (record.height, record.width) == (image.height, image.width)


def test_splits_are_stratified_and_the_statistics_agree(built):
    assert {split: dict(labels) for split, labels in built.examples.items()} == {
        "train": {"cat": 15, "dog": 16},
        "validation": {"cat": 2, "dog": 2},
        "test": {"cat": 2, "dog": 2},
    }
    statistics = json.loads(pathlib.Path(built.directory, "statistics.json").read_text())
    contents = read_records(built.directory)
    for split, summary in statistics["splits"].items():
        assert summary["labels"] == built.examples[split]
        assert summary["image_bytes"] == sum(len(record.image) for record in contents[split])
        assert summary["encoded_anew"] == sum(not record.source.endswith(".jpg") for record in contents[split])
    assert statistics["total"]["examples"] == 39


def test_plain_tfds_reads_it(built):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(built.directory)
    assert builder.info.features["label"].names == ["cat", "dog"]
    contents = read_records(built.directory)
    for split in ("train", "validation", "test"):
        examples = list(builder.as_dataset(split=split, shuffle_files=False).as_numpy_iterator())
        assert [e["id"].decode() for e in examples] == [record.id for record in contents[split]]
        assert [int(e["label"]) for e in examples] == [record.label for record in contents[split]]
        assert all(e["image"].shape == (e["height"], e["width"], 3) for e in examples)
    assert builder.info.splits["train"].num_examples == len(contents["train"])


def test_a_second_run_does_nothing_and_a_touched_file_changes_no_version(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "in")
    first = run_build(copy, tmp_path / "out")
    before = files_of(first.directory)
    again = run_build(copy, tmp_path / "out")
    assert (again.built, again.version) == (False, "1.0.0")
    os.utime(copy / "cat/0.png", ns=(5, 5))
    touched = run_build(copy, tmp_path / "out")
    assert (touched.built, touched.new_content, touched.version) == (True, False, "1.0.0")
    assert run_build(copy, tmp_path / "out").built is False
    assert files_of(first.directory) == before
    assert sorted(os.listdir(tmp_path / "out/versions")) == ["1.0.0"]


@pytest.mark.parametrize(
    "options",
    [
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
        pytest.param(["--direct_num_workers=3"], marks=pytest.mark.slow),
    ],
)
def test_the_runner_does_not_matter(folder, built, tmp_path, options):
    other = run_build(folder, tmp_path / "out", beam_arguments=options)
    assert files_of(other.directory) == files_of(built.directory)


@pytest.mark.slow
def test_new_images_make_a_new_version_equal_to_one_from_scratch(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "in")
    first = run_build(copy, tmp_path / "out")
    before = files_of(first.directory)
    save_image(copy / "cat/new.png", 99_999)
    second = run_build(copy, tmp_path / "out")
    assert second.version == "2.0.0"
    assert (tmp_path / "out/CURRENT").read_text() == "2.0.0\n"
    assert files_of(first.directory) == before
    fresh = run_build(copy, tmp_path / "fresh")
    shards = {name: data for name, data in files_of(second.directory).items() if ".tfrecord" in name}
    assert shards == {name: data for name, data in files_of(fresh.directory).items() if ".tfrecord" in name}
    third = run_build(copy, tmp_path / "out", seed=1, keep_versions=1)
    assert (third.version, list(third.pruned)) == ("3.0.0", ["1.0.0", "2.0.0"])


@pytest.mark.slow
def test_encoded_images_come_from_the_version_before(folder, tmp_path):
    """Only a PNG's source bytes are replaced, by ones that no decoder reads: nothing may decode it again."""
    copy = shutil.copytree(folder, tmp_path / "in")
    run_build(copy, tmp_path / "out")
    target = copy / "cat/6.png"
    stamp = target.stat()
    target.write_bytes(b"x" * stamp.st_size)
    os.utime(target, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    save_image(copy / "cat/new.png", 99_999)
    second = run_build(copy, tmp_path / "out")
    assert "cat/6.png" in {record.source for split in read_records(second.directory).values() for record in split}


@pytest.mark.slow
def test_by_hash_images_stay_in_their_splits_when_others_come(tmp_path):
    make_folder(tmp_path / "in", images=60)
    first = run_build(tmp_path / "in", tmp_path / "out", split_by="hash")
    where = {r.source: split for split, part in read_records(first.directory).items() for r in part}
    make_folder(tmp_path / "in", images=60, first=50_000)
    second = run_build(tmp_path / "in", tmp_path / "out", split_by="hash")
    later = {r.source: split for split, part in read_records(second.directory).items() for r in part}
    assert len(later) == 2 * len(where)
    assert where.items() <= later.items()
    assert collections.Counter(later.values())["train"] / len(later) == pytest.approx(0.8, abs=0.1)


def test_official_splits_stay_and_copies_of_test_images_leave_training(tmp_path):
    for number, split in enumerate(("train", "test")):
        make_folder(tmp_path / "in" / split, images=30, first=number * 10_000)
    shutil.copy(tmp_path / "in/test/cat/10000.png", tmp_path / "in/train/cat/leak.png")
    outcome = run_build(tmp_path / "in", tmp_path / "out", validation_fraction=0.0)
    assert {split: sum(labels.values()) for split, labels in outcome.examples.items()} == {"train": 60, "test": 60}
    assert outcome.rejects == {"train_copy_of_test": 1}


def test_where_the_source_has_no_validation_a_part_of_train_is_held_out_class_by_class(tmp_path):
    make_folder(tmp_path / "in/train", images=30)
    make_folder(tmp_path / "in/train", labels=("bird",), images=1, first=5_000)
    make_folder(tmp_path / "in/test", labels=("cat", "dog", "bird"), images=10, first=10_000)
    default = run_build(tmp_path / "in", tmp_path / "out")
    assert default.examples == {
        "train": {"bird": 1, "cat": 27, "dog": 27},
        "validation": {"cat": 3, "dog": 3},
        "test": {"bird": 10, "cat": 10, "dog": 10},
    }
    (note,) = default.notes
    assert note.startswith("the source has no validation split: 10% of train is held out, class by class (6 images)")
    assert "--validation_fraction=0" in note


def test_by_hash_what_is_held_out_stays_held_out_when_others_come(tmp_path):
    make_folder(tmp_path / "in/train", images=30)
    make_folder(tmp_path / "in/test", images=10, first=10_000)
    by_hash = run_build(tmp_path / "in", tmp_path / "out2", validation_fraction=0.5, split_by="hash")
    held_out = {r.source for r in read_records(by_hash.directory)["validation"]}
    make_folder(tmp_path / "in/train", images=30, first=20_000)
    more = run_build(tmp_path / "in", tmp_path / "out2", validation_fraction=0.5, split_by="hash")
    assert held_out < {r.source for r in read_records(more.directory)["validation"]}


def test_too_many_rejects_stop_the_build_and_are_counted(folder, tmp_path):
    with pytest.raises(CommandError, match=r"4 of 45 images refused .*1 not_an_image"):
        run_build(folder, tmp_path / "out", max_reject_fraction=0.01)
    assert not (tmp_path / "out/versions").exists()
    assert not (tmp_path / "out/CURRENT").exists()


def test_a_class_that_loses_its_images_stops_the_build(tmp_path):
    make_folder(tmp_path / "in")
    for i in range(5):
        shutil.copy(tmp_path / "in/cat/0.png", tmp_path / f"in/cat/{i}.copy.png")
        (tmp_path / "in/bird").mkdir(exist_ok=True)
        (tmp_path / f"in/bird/{i}.jpg").write_text("no image")
    with pytest.raises(CommandError, match='class "bird": none of its images is usable'):
        run_build(tmp_path / "in", tmp_path / "out", max_reject_fraction=1.0)


def test_a_class_with_too_few_distinct_images_stops_the_build(tmp_path):
    make_folder(tmp_path / "in")
    (tmp_path / "in/bird").mkdir()
    for i in range(5):
        shutil.copy(tmp_path / "in/cat/0.png", tmp_path / f"in/bird/{i}.png")
        save_image(tmp_path / "in/bird/own.png", 99)
    with pytest.raises(CommandError, match='class "bird": 1 distinct images for 3 splits'):
        run_build(tmp_path / "in", tmp_path / "out", max_reject_fraction=1.0)


@pytest.mark.parametrize(
    ("images", "labels", "problem"), [(5, ("cat",), "only one class"), (2, ("cat", "dog"), "2 images for 3 splits")]
)
def test_bad_folders_are_refused_before_anything_is_read(tmp_path, images, labels, problem):
    make_folder(tmp_path / "in", labels=labels, images=images)
    with pytest.raises(DataError, match=problem):
        run_build(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out/versions").exists()


def test_two_classes_and_one_split_need_one_image_each(tmp_path):
    make_folder(tmp_path / "in", images=1)
    outcome = run_build(tmp_path / "in", tmp_path / "out", fractions=SplitFractions.parse("train:1"))
    assert outcome.examples == {"train": {"cat": 1, "dog": 1}}


def test_nothing_is_left_behind_for_a_missing_folder(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        run_build(tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_flags_and_runners_that_lose_data_are_refused(tmp_path, folder):
    wrong = run_command(folder, tmp_path / "out", "--direct_num_wokers=2")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (64, 1)
    assert 'Did you mean "direct_num_workers"' in wrong.stderr
    dask = run_command(folder, tmp_path / "out", "--runner=DaskRunner")
    assert (dask.returncode, dask.stderr.count("\n")) == (64, 1)
    inside = run_command(folder, folder / "out")
    assert (inside.returncode, inside.stderr.count("\n")) == (64, 1)
    assert "lies inside" in inside.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").touch()
    taken = run_command(folder, tmp_path / "run")
    assert (taken.returncode, taken.stderr.count("\n")) == (64, 1)
    assert f"--output={tmp_path}/run: it is a training run; take a folder that is empty, or a new one" in taken.stderr
    assert len(list((tmp_path / "run").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("store", ["gcs", "s3"])
def test_photos_and_dataset_in_a_store_give_the_same_shards(request, tmp_path, folder, built, store):
    root = f"{request.getfixturevalue(store)}/{uuid.uuid4().hex}"
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            storage.write_atomically(f"{root}/photos/{path.relative_to(folder)}", path.read_bytes())
    done = run_command(f"{root}/photos", f"{root}/data")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"published {root}/data/versions/1.0.0" in done.stdout
    again = run_command(f"{root}/photos", f"{root}/data")
    assert again.stdout.startswith("nothing to do: 45 images unchanged")
    local = run_command(f"{root}/photos", tmp_path / "out")
    assert local.returncode == 0, local.stderr
    expected = {name: data for name, data in files_of(built.directory).items() if ".tfrecord-" in name}
    for directory in (f"{root}/data/versions/1.0.0", str(tmp_path / "out/versions/1.0.0")):
        names = {entry.name for entry in storage.list_folder(directory) if ".tfrecord-" in entry.name}
        assert {name: storage.read(f"{directory}/{name}") for name in names} == expected
    assert not os.path.exists("gs:")


def test_a_bucket_that_is_not_there_is_refused_before_any_image_is_read(gcs, folder):
    done = run_command(folder, "gs://no-such-bucket/data")
    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert "no such bucket" in done.stderr


def test_what_a_store_cannot_take_is_refused_in_one_line(tmp_path, folder):
    elsewhere = run_command(folder, "memory://data", "--runner=PortableRunner", "--job_endpoint=localhost:1")
    assert (elsewhere.returncode, elsewhere.stderr.count("\n")) == (64, 1)
    assert f"do not see {folder}, which lies on this machine's disk" in elsewhere.stderr
    unknown = run_command(folder, "ftp://some-host/data")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (64, 1)
    assert "no such kind of store" in unknown.stderr


def test_runners_whose_workers_see_no_local_directory_are_refused(tmp_path, folder):
    options = ("--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t")
    done = run_command(folder, tmp_path / "out", *options)
    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert "--runner=DataflowRunner: its workers do not see" in done.stderr
    assert "--workers_share_disk" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_engine_whose_workers_share_the_disk_gives_the_same_files(tmp_path, folder, built):
    """Beam's own job server, in the launcher's process, with a worker that it reaches over the network."""
    engine = ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK")
    done = run_command(folder, tmp_path / "out", *engine, "--workers_share_disk")
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(tmp_path / "out/versions/1.0.0") == files_of(built.directory)


def test_the_command_says_what_it_did_and_nothing_else(folder, tmp_path, built):
    plan = run_command(folder, tmp_path / "out", "--dry_run")
    assert plan.returncode == 0
    assert "45 images of 2 classes" in plan.stdout
    assert not (tmp_path / "out").exists()
    first = run_command(folder, tmp_path / "out", "--direct_running_mode=multi_processing")
    assert (first.returncode, first.stderr) == (0, "")
    assert "45 images: 39 kept, 6 left out" in first.stdout
    assert files_of(tmp_path / "out/versions/1.0.0") == files_of(built.directory)
    second = run_command(folder, tmp_path / "out")
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout.startswith("nothing to do: 45 images unchanged")
    _, after = second.stdout.splitlines()
    assert after == f"next, is the data all right? python -m trainer.check {tmp_path / 'out'}"


@pytest.mark.slow
def test_a_full_disk_is_one_clear_line_and_the_old_version_stays(folder, tmp_path):
    run_build(folder, tmp_path / "out")
    before = files_of(tmp_path / "out/versions/1.0.0")

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 10, 8 << 10))

    full = subprocess.run(
        command(folder, tmp_path / "out", "--seed=3"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=small_files,
    )
    assert full.returncode == 75
    assert full.stderr.count("\n") == 1
    assert "File too large; nothing was published" in full.stderr
    assert (tmp_path / "out/CURRENT").read_text() == "1.0.0\n"
    assert files_of(tmp_path / "out/versions/1.0.0") == before
    assert not (tmp_path / "out/versions/2.0.0/manifest.json").exists()
    again = run_command(folder, tmp_path / "out", "--seed=3")
    assert (again.returncode, again.stderr) == (0, "")
    assert (tmp_path / "out/CURRENT").read_text() == "2.0.0\n"


def test_workers_do_without_tensorflow():
    code = (
        "import sys, beam_jobs.graph, beam_jobs.worker, beam_jobs.build, tensorflow_datasets; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
