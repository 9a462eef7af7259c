"""Tests the graph: the same bytes on every engine, killed or not, and nothing published where something is lost."""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image

from beam_jobs import build, graph, listing
from beam_jobs.duplicates import near
from beam_jobs.findings import read_findings
from beam_jobs.sources import open_source
from beam_jobs.sources.folder import FolderSource
from beam_jobs.splits import SplitFractions
from beam_jobs.version import write
from pipeline.command import CommandError, DataError, UsageError
from pipeline.format import records, storage
from pipeline.format.manifest import current_version
from pipeline.format.rows import is_table
from pipeline.images.guarded import Decoder
from pipeline.images.policy import PixelPolicy
from tests.beam_jobs.image_folders import config, files_of, make_folder, save_image

# What each shard held when a builder of another design wrote it; not the images' bytes, which depend on the encoder.
_GOLDEN = json.loads(pathlib.Path(__file__).with_name("golden.json").read_text())


def contents(version: str) -> dict[str, str]:
    """Returns shard → sha256 of the fields of its records, in order."""
    found = {}
    for path in sorted(pathlib.Path(version).glob("*.tfrecord-*")):
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for record in map(records.decode_example, records.read_frames(file)):
                fields = record.id, record.source, record.label, record.height, record.width
                digest.update(repr(fields).encode())
        found[path.name] = digest.hexdigest()
    return found


def check_golden(name: str, source, output: pathlib.Path, **changes) -> build.Outcome:
    """Builds, and compares with what was written down."""
    outcome = build.build(source, config(output, **changes))
    assert {"shards": contents(outcome.directory), "rejects": dict(sorted(outcome.rejects.items()))} == _GOLDEN[name]
    return outcome


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
    ("name", "changes"),
    [
        ("default", {}),
        pytest.param("keep", {"near_duplicates": "keep"}, marks=pytest.mark.slow),
        pytest.param("drop", {"near_duplicates": "drop"}, marks=pytest.mark.slow),
        ("max_side", {"policy": PixelPolicy(max_side=16)}),
        pytest.param("hash", {"split_by": "hash"}, marks=pytest.mark.slow),
        pytest.param(
            "seed", {"seed": 7, "fractions": SplitFractions.parse("train:0.5,test:0.5")}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_folder_gives_what_it_gave(folder, tmp_path, name, changes):
    check_golden(f"folder {name}", FolderSource(str(folder)), tmp_path, **changes)


def test_photos_give_what_they_gave(shared_data, tmp_path):
    check_golden("flowers", FolderSource(str(shared_data / "flowers")), tmp_path)


@dataclasses.dataclass(frozen=True)
class Some:
    """Offers every so-manieth image of a source."""

    source: object
    step: int

    def __getattr__(self, name):
        return getattr(object.__getattribute__(self, "source"), name)

    def items(self):
        return itertools.islice(self.source.items(), 0, None, self.step)

    def __reduce__(self):
        return Some, (self.source, self.step)


@pytest.mark.slow
def test_cifar10_gives_what_it_gave(shared_data, tmp_path):
    source = open_source(
        "cifar10", input_path=str(shared_data / "cifar-10-python.tar.gz"), options={"work_dir": str(tmp_path / "work")}
    )
    changes = {"source_name": "cifar10", "max_reject_fraction": 0.5, "validation_fraction": 0.0}
    check_golden("cifar10, every tenth", Some(source, 10), tmp_path / "out", **changes)


def test_oxford_pets_gives_what_it_gave(shared_data, tmp_path):
    source = open_source("oxford_pets", input_path=str(shared_data / "oxford_pets_100"), options={})
    check_golden("oxford_pets", source, tmp_path, source_name="oxford_pets", validation_fraction=0.2, split_by="hash")


@pytest.mark.slow
def test_a_set_of_tfds_is_built(tmp_path):
    from tests.beam_jobs.sources.test_tfds import SmallShapes

    SmallShapes(data_dir=tmp_path / "tfds").download_and_prepare(file_format="tfrecord")
    spec = {"spec": "small_shapes", "tfds_data_dir": str(tmp_path / "tfds")}
    source = open_source("tfds:small_shapes", input_path="", options=spec)
    outcome = build.build(source, config(tmp_path / "out", source_name="tfds:small_shapes"))
    assert outcome.total == sum(1 for _ in source.items())


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory) -> str:
    """Builds the folder in memory; returns the version."""
    return build.build(FolderSource(str(folder)), config(tmp_path_factory.mktemp("out"))).directory


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        {"runner": lambda: FnApiRunner(bundle_repeat=1)},
        {"runner": lambda: FnApiRunner(use_state_iterables=True)},
        {"beam_arguments": ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]},
    ],
    ids=["bundle_repeat", "use_state_iterables", "multi_processing"],
)
def test_the_engine_does_not_matter(folder, expected, tmp_path, engine):
    runner = engine["runner"]() if "runner" in engine else None
    source = FolderSource(str(folder))
    outcome = build.build(source, config(tmp_path), engine.get("beam_arguments", ()), runner=runner)
    assert files_of(outcome.directory) == files_of(expected)


def test_how_the_search_is_partitioned_does_not_matter(folder, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(near, "part_bits", lambda images, images_per_search: 2)
    outcome = build.build(FolderSource(str(folder)), config(tmp_path))
    assert files_of(outcome.directory) == files_of(expected)


def test_input_and_output_in_a_store_give_the_same_bytes(folder, expected, tmp_path):
    bucket = f"memory://{tmp_path.name}"
    for path in folder.rglob("*"):
        if path.is_file() and not {".hidden.png", "link"} & set(path.parts):
            storage.write_atomically(f"{bucket}/photos/{path.relative_to(folder)}", path.read_bytes())
    settings = dataclasses.replace(config(tmp_path), output=f"{bucket}/data")
    outcome = build.build(FolderSource(f"{bucket}/photos"), settings)
    known = files_of(expected)
    shards = {name for name in known if ".tfrecord-" in name}
    for name in (*shards, "rejects.jsonl", "duplicates.jsonl"):
        assert storage.read(f"{outcome.directory}/{name}") == known[name], name
    there, here = json.loads(storage.read(f"{outcome.directory}/statistics.json")), json.loads(known["statistics.json"])
    assert set(here.pop("left_out")) == {"dangling_link", "hidden"}  # which were not copied
    assert there.pop("left_out") == {}
    assert there == here
    assert storage.read_text(f"{settings.output}/CURRENT") == "1.0.0\n"
    assert not build.build(FolderSource(f"{bucket}/photos"), settings).built


def counted(monkeypatch, module, name) -> list:
    """Counts the calls of a function of a module, in this process."""
    calls, real = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: (calls.append(args), real(*args, **kwargs))[1])
    return calls


def decoded(monkeypatch) -> list:
    """Collects the images that are given to decoders to inspect."""
    images, real = [], Decoder.inspect
    monkeypatch.setattr(Decoder, "inspect", lambda self, several: (images.extend(several), real(self, several))[1])
    return images


@pytest.mark.slow
def test_what_is_published_is_not_decoded_again(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "in", symlinks=True)
    source = FolderSource(str(copy))
    first = build.build(source, config(tmp_path / "out"))
    before = files_of(first.directory)
    looks = decoded(monkeypatch)
    again = build.build(source, config(tmp_path / "out"))
    assert (again.built, again.version, len(looks)) == (False, "1.0.0", 0)
    os.utime(copy / "cat/0.png", ns=(5, 5))
    touched = build.build(source, config(tmp_path / "out"))
    assert (touched.built, touched.new_content, touched.version, len(looks)) == (True, False, "1.0.0", 1)
    assert not build.build(source, config(tmp_path / "out")).built
    save_image(copy / "cat/new.png", 99_999)
    second = build.build(source, config(tmp_path / "out"))
    assert (second.version, len(looks)) == ("2.0.0", 2)
    assert (tmp_path / "out/CURRENT").read_text() == "2.0.0\n"
    assert files_of(first.directory) == before
    fresh = build.build(source, config(tmp_path / "fresh"))
    shards = {name: data for name, data in files_of(second.directory).items() if ".tfrecord" in name}
    assert shards == {name: data for name, data in files_of(fresh.directory).items() if ".tfrecord" in name}
    third = build.build(source, config(tmp_path / "out", seed=1, keep_versions=1))
    assert (third.version, list(third.pruned)) == ("3.0.0", ["1.0.0", "2.0.0"])


def test_the_table_names_every_image_listed(expected):
    parquet = pytest.importorskip("pyarrow.parquet")
    tables = [path for path in pathlib.Path(expected).iterdir() if is_table(path.name)]
    rows = [row for path in tables for row in parquet.read_table(path).to_pylist()]
    statistics = json.loads(pathlib.Path(expected, "statistics.json").read_text())
    refused = [row for row in rows if row["split"] is None]
    assert len(rows) == statistics["total"]["examples"] + sum(statistics["rejects"].values())
    assert all(row["reason"] and row["detail"] for row in refused)
    assert len(refused) == sum(statistics["rejects"].values())
    assert all(row["sha256"] and row["group"] for row in rows if row["split"])


_CHILD = """
import sys, time
from beam_jobs import build, inspect
from beam_jobs.version import write
from beam_jobs.sources.folder import FolderSource
from tests.beam_jobs.image_folders import config
import pathlib
what, photos, output = sys.argv[1:]
inspect.TOGETHER, inspect._FINDINGS = 8, 16
read, make = FolderSource.read, write.WriteShard._make
if what == "inspecting":
    FolderSource.read = lambda self, item: (time.sleep(0.02), read(self, item))[1]
else:
    made = []
    def slowly(self, *args):
        if made:
            time.sleep(60)
        made.append(1)
        return make(self, *args)
    write.WriteShard._make = slowly
build.build(FolderSource(photos), config(pathlib.Path(output)))
"""


def kill_when(condition, *arguments) -> None:
    """Starts a build and kills it when something is there."""
    process = subprocess.Popen([sys.executable, "-c", _CHILD, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < end, "the build did not get going"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_killed_while_inspecting_it_decodes_only_what_it_had_not(folder, expected, tmp_path, monkeypatch):
    out = tmp_path / "out"
    parts = lambda: list(out.glob(".build/findings/*/part-*.msgpack"))  # noqa: E731
    kill_when(lambda: len(parts()) >= 2, "inspecting", folder, out)
    known = {finding.uri for path in parts() for finding in read_findings(str(path))}
    assert len(known) >= 32
    assert not list(out.glob("versions/*"))
    looks = decoded(monkeypatch)
    outcome = build.build(FolderSource(str(folder)), config(out))
    assert len(looks) == outcome.total - len(known)
    assert files_of(outcome.directory) == files_of(expected)
    assert not parts()


@pytest.mark.slow
def test_killed_while_writing_it_finds_its_whole_shards(folder, expected, tmp_path, monkeypatch):
    out = tmp_path / "out"
    whole = lambda: list(out.glob(".build/shards/1.0.0/*.json"))  # noqa: E731
    kill_when(whole, "writing", folder, out)
    assert current_version(out) is None
    assert not list(out.glob("versions/*/manifest.json"))
    (out / "versions/1.0.0/.photos-train.tfrecord-00000-of-00001.1.b.tmp").write_text("half")
    looks, made = decoded(monkeypatch), counted(monkeypatch, write.WriteShard, "_make")
    outcome = build.build(FolderSource(str(folder)), config(out))
    assert (len(looks), len(made)) == (0, 2)
    assert files_of(outcome.directory) == files_of(expected)


def nothing_shows(output: pathlib.Path) -> None:
    assert current_version(output) is None
    assert not list(output.glob("versions/*/manifest.json"))


def lose_one(item, listing):
    """Stands for a runner that loses an item on its way."""
    if item.uri != "cat/8.png":
        yield item


def lose_all(item, listing):
    """Stands for a runner that loses everything on its way."""
    yield from ()


def test_a_runner_that_loses_images_publishes_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "unless_published", lose_one)
    with pytest.raises(CommandError, match="the Beam runner lost images: 88 of 89 arrived; nothing was published"):
        build.build(FolderSource(str(folder)), config(tmp_path))
    nothing_shows(tmp_path)


def test_a_runner_that_loses_all_images_publishes_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "unless_published", lose_all)
    with pytest.raises(CommandError, match="the Beam runner lost images: 0 of 89 arrived; nothing was published"):
        build.build(FolderSource(str(folder)), config(tmp_path))
    nothing_shows(tmp_path)


def test_a_runner_that_loses_images_on_their_way_to_shards_publishes_nothing(folder, tmp_path, monkeypatch):
    real = graph.written
    losing = lambda rows, *rest: real(rows | beam.Filter(lambda row: row.item.uri != "cat/8.png"), *rest)  # noqa: E731
    monkeypatch.setattr(graph, "written", losing)
    with pytest.raises(CommandError, match="lost images: .* are in its shards; nothing was published"):
        build.build(FolderSource(str(folder)), config(tmp_path))
    nothing_shows(tmp_path)


def see_nothing(_, source):
    """Stands for a worker that does not see the launcher's disk."""
    return []


def test_workers_that_see_nothing_publish_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "list_classes", see_nothing)
    with pytest.raises(CommandError, match="the workers found no images") as caught:
        build.build(FolderSource(str(folder)), config(tmp_path))
    assert caught.value.exit_code == 64
    nothing_shows(tmp_path)


def test_an_image_that_changes_between_inspection_and_writing_ends_the_build(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "in", symlinks=True)
    make = write.WriteShard._make

    def changing(*args):
        save_image(copy / "cat/8.png", 4_711)
        return make(*args)

    monkeypatch.setattr(write.WriteShard, "_make", changing)
    with pytest.raises(CommandError, match="cat/8.png changed while the build ran") as caught:
        build.build(FolderSource(str(copy)), config(tmp_path / "out"))
    assert caught.value.exit_code == 75
    nothing_shows(tmp_path / "out")


def test_bad_input_is_refused_in_one_line(folder, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        build.build(FolderSource(str(tmp_path / "absent")), config(tmp_path / "out"))
    with pytest.raises(CommandError, match="only one class") as caught:
        build.build(FolderSource(str(folder / "dog")), config(tmp_path / "out"))
    assert caught.value.exit_code == DataError.exit_code
    with pytest.raises(CommandError, match="refused .*nothing was published.*not_an_image") as caught:
        build.build(FolderSource(str(folder)), config(tmp_path / "out", max_reject_fraction=0.0))
    assert caught.value.exit_code == DataError.exit_code
    with pytest.raises(UsageError, match="Beam loses rows"):
        build.build(FolderSource(str(folder)), config(tmp_path / "out"), ["--direct_running_mode=multi_threading"])
    nothing_shows(tmp_path / "out")


def test_a_crowd_is_found_by_a_sample_of_the_images(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(near, "_CROWD", 1)
    monkeypatch.setattr(near, "_SAMPLED", 1)
    monkeypatch.setattr(near, "part_bits", lambda images, images_per_search: 2)
    seen: set[int] = set()

    def seeing(sketches, bits, crowded):
        seen.update(crowded.values())
        return partitions_of(sketches, bits, crowded)

    partitions_of = near.partitions_of
    monkeypatch.setattr(near, "partitions_of", seeing)
    build.build(FolderSource(str(folder)), config(tmp_path))
    assert seen
