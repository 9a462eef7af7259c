import dataclasses
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from pipeline import reader
from pipeline import verify as command
from pipeline.augment.config import AugmentConfig
from pipeline.command import DataError
from pipeline.contact_sheet import contact_sheet, first_records, render_epochs
from pipeline.dataset import eval_dataset, example_ids, train_dataset
from pipeline.decode import why_unusable
from pipeline.format import records, verify
from pipeline.format.manifest import DatasetVersion, open_dataset
from pipeline.view import View
from tests.datasets import random_records, write_dataset
from trainer.train.guards import named_errors

LABELS = ["a", "b", "c"]
SHARD = "test-train.tfrecord-00000-of-00002"


@pytest.fixture
def data(tmp_path):
    return write_dataset(tmp_path / "data", {"train": random_records(20, classes=3)}, LABELS)


def _flip_bytes(data, offset, count=4):
    path = pathlib.Path(data.path) / SHARD
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(255 - b for b in content[offset : offset + count])
    path.write_bytes(bytes(content))


def _frame_starts(data):
    starts, at = [], 0
    with (pathlib.Path(data.path) / SHARD).open("rb") as file:
        for payload in records.read_frames(file):
            starts.append(at)
            at += records.FRAME_BYTES + len(payload)
    return starts


def _replace(data, number, **changes):
    """Rewrites one record of the first shard, frames intact."""
    with (pathlib.Path(data.path) / SHARD).open("rb") as file:
        payloads = list(records.read_frames(file))
    changed = dataclasses.replace(records.decode_example(payloads[number]), **changes)
    payloads[number] = records.encode_example(changed)
    (pathlib.Path(data.path) / SHARD).write_bytes(b"".join(records.frame(p) for p in payloads))


def _break_payload(data):
    _flip_bytes(data, _frame_starts(data)[3] + 100)


def _truncate(data):
    path = pathlib.Path(data.path) / SHARD
    path.write_bytes(path.read_bytes()[: _frame_starts(data)[3] + 100])


def _break_header(data):
    _flip_bytes(data, _frame_starts(data)[3])


def _no_label(data):
    with (pathlib.Path(data.path) / SHARD).open("rb") as file:
        payloads = list(records.read_frames(file))
    payloads[3] = payloads[3].replace(b"label", b"lable")
    (pathlib.Path(data.path) / SHARD).write_bytes(b"".join(records.frame(p) for p in payloads))


def _wrong_label(data):
    _replace(data, 3, label=17)


def _broken_image(data):
    _replace(data, 3, image=b"\xff\xd8\xff\xe0 not a JPEG")


# What was done → (what is reported, records left of 20).
DAMAGES = {
    _break_payload: ("record 3: checksum mismatch", 19),
    _truncate: ("record 3: truncated", 13),
    _break_header: ("record 3: damaged header", 13),
    _no_label: ('record 3: no feature "label"', 19),
    _wrong_label: ("record 3: label 17 is out of range, there are 3 classes", 19),
    _broken_image: ("record 3: its image does not decode", 19),
}


def _train(data, cache):
    arguments = {"height": 24, "width": 32, "preprocess": "tf", "global_batch_size": 4, "cache": cache}
    dataset = train_dataset(data, "train", augment=AugmentConfig(flip=True), seed=0, epoch=0, **arguments)
    return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damage_is_named_in_training_and_left_out_on_demand(data, damage, tmp_path):
    damage(data)
    reason, left = DAMAGES[damage]
    for cache in ("none", "bytes"):
        with pytest.raises(DataError) as raised, named_errors(data, "train"):
            _train(data, cache)
        assert f"{SHARD}, {reason}" in str(raised.value)
        assert "--skip_bad_records" in str(raised.value)
    assert reason.partition(": ")[2] in verify.log_problems(data, why_unusable)[0].reason
    cleaned = verify.copy_good_records(data, tmp_path / "clean", why_unusable)
    assert open_dataset(tmp_path / "clean") == cleaned
    assert cleaned.manifest.num_examples("train") == left == len(example_ids(cleaned, "train"))
    assert list(verify.problems(cleaned, "train", why_unusable)) == []
    batches = _train(cleaned, "none")
    assert sum(batch["weight"].sum() for batch in batches) == left


def test_a_whole_dataset_has_no_problems(data):
    assert list(verify.problems(data, "train", why_unusable)) == []
    assert verify.log_problems(data, why_unusable) == []


def test_records_that_the_manifest_does_not_know_of_are_a_problem(data):
    shards = data.manifest.splits["train"]
    fewer = dataclasses.replace(shards[0], examples=8, sha256="0" * 64)
    manifest = dataclasses.replace(data.manifest, splits={"train": (fewer, shards[1])})
    found = [str(p) for p in verify.problems(DatasetVersion(path=data.path, manifest=manifest), "train", why_unusable)]
    assert found == [f"{SHARD}: holds 10 records, the manifest says 8", f"{SHARD}: its sha256 is not the manifest's"]


def test_an_error_that_is_not_the_data_s_passes_unchanged(data):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match="mine"), named_errors(data, "train"):
        raise tf.errors.InvalidArgumentError(None, None, "mine")


@pytest.fixture
def parsed():
    flags.FLAGS.mark_as_parsed()
    yield
    flags.FLAGS.unparse_flags()


@pytest.mark.usefixtures("parsed")
def test_the_command(data, capsys):
    flags.FLAGS.data = str(data.path)
    assert command.main([]) == 0
    assert "all good" in capsys.readouterr().out
    _wrong_label(data)
    assert command.main([]) == 65
    assert "label 17 is out of range" in capsys.readouterr().out


@pytest.mark.usefixtures("parsed")
def test_deep_finds_images_that_decoders_pass_over(tmp_path, capsys):
    """As builders before made them: cut off, with an end marker all the same."""
    whole = random_records(20, classes=3, height=96, width=128)
    cut = dataclasses.replace(whole[13], image=whole[13].image[: len(whole[13].image) * 2 // 3] + b"\xff\xd9")
    data = write_dataset(tmp_path / "data", {"train": [*whole[:13], cut, *whole[14:]]}, LABELS)

    flags.FLAGS.data = str(data.path)
    assert command.main([]) == 0
    capsys.readouterr()
    with flagsaver.flagsaver(deep=True):
        assert command.main([]) == 65
    out, err = capsys.readouterr()
    problems = [line for line in out.splitlines() if line.startswith("test-train")]
    assert len(problems) == 1
    assert problems[0].startswith("test-train.tfrecord-00001-of-00002, record 3: its image is truncated")
    assert cut.id in problems[0]
    assert cut.source in problems[0]
    assert not err, "a bar is for terminals"


@pytest.mark.usefixtures("parsed")
def test_in_a_log_lines_tell_the_rate_and_what_is_left(data, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.progress._SECONDS_BETWEEN_LINES", 0.0)
    with flagsaver.flagsaver(data=str(data.path)):
        command.main([])
    images = data.manifest.num_examples("train")
    lines = [line for line in capsys.readouterr().err.splitlines() if " train: " in line]
    assert len(lines) == images
    assert re.fullmatch(rf"[-\d]+ [:\d]+ train: {images} of {images} images, [\d.]+/s, 10 s left", lines[-1]), lines


@pytest.mark.usefixtures("parsed")
def test_damage_is_mended_by_a_build_into_the_root(data, capsys):
    _break_header(data)
    with flagsaver.flagsaver(data=str(data.path)):
        assert command.main([]) == 65
    root = pathlib.Path(data.path).parents[1]
    assert f" --output={root} --repair\n" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"record 3: damaged header; `python -m pipeline.verify .* lists all"):
        list(data.read("train"))


def test_preview_shows_what_training_sees(data, tmp_path):
    config = AugmentConfig(flip=True, shift=0.2, saturation=0.5, cutout_count=1, cutout_size=0.3)
    serialized = first_records(data, "train", 20)
    pixels, captions = render_epochs(
        data, serialized, config=config, height=24, width=32, view=View(eval_centre=0.8), seed=5, epochs=2
    )
    sizes = {
        "height": 24,
        "width": 32,
        "preprocess": "identity",
        "global_batch_size": 20,
        "view": View(eval_centre=0.8),
    }
    evaluated = next(eval_dataset(data, "train", **sizes).as_numpy_iterator())["image"]
    np.testing.assert_array_equal(pixels[:, 0], np.round(evaluated))
    for epoch in (0, 1):
        dataset = train_dataset(data, "train", augment=config, seed=5, epoch=epoch, **sizes)
        seen = next(dataset.as_numpy_iterator())["image"]
        positions = reader.train_order(
            data.manifest, "train", batch_size=20, seed=5, epoch=epoch
        ).batches_of_positions()[0][0]
        assert np.abs(seen - pixels[positions, 1 + epoch]).max() <= 0.51  # the sheet holds whole numbers
    assert captions[0][0] == "a"
    assert "saturation" in captions[0][1]
    assert contact_sheet(pixels, captions).size[0] == 3 * (4 * 32 + 4)


@pytest.mark.slow
def test_the_preview_command_writes_the_sheet(data, tmp_path):
    out = tmp_path / "sheets" / "preview.png"
    command = [sys.executable, "-m", "pipeline.preview", f"--data={data.path}", "--recipe=quick", f"--out={out}"]
    result = subprocess.run([*command, "--images=2", "--epochs=1"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
