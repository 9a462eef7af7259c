"""Tests `python -m trainer.predict` on real, odd and broken files."""

import contextlib
import csv
import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.command import UsageError
from pipeline.decode import decode_and_resize
from pipeline.images.guarded import Decoder, ImageBudget
from pipeline.images.policy import PixelPolicy
from pipeline.preprocess import preprocess
from trainer.models.classifier import build_classifier
from trainer.serving.export import export_classifier
from trainer.serving.loading import find_model, load_parts
from trainer.serving.photos import find_images
from trainer.serving.predict import classify, predict, read_images
from trainer.serving.prepare import Prepared
from trainer.serving.signature import load_signature

LABELS = ("one", "two, or more", "three")
SIZE = 32
SPEC = {"height": SIZE, "width": SIZE, "resize": "stretch", "eval_centre": 0.0}


@pytest.fixture(scope="module")
def classifier():
    classifier = build_classifier(
        backbone="cifar10_cnn", weights="none", num_classes=3, height=SIZE, width=SIZE, seed=0
    )
    # Random weights hardly tell images apart; larger logits do.
    for variable in classifier.head.trainable_variables:
        variable.assign(variable * 20)
    return classifier


@pytest.fixture(scope="module")
def model(classifier, tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("run") / "export"
    export_classifier(classifier, labels=LABELS, height=SIZE, width=SIZE, preprocess="unit", directory=directory)
    return directory


@pytest.fixture(scope="module", params=["saved_model", "model.tflite"])
def parts(model, request):
    return load_parts(find_model(str(model / request.param)), abreast=2)


@pytest.fixture(scope="module")
def saved_model(model):
    return load_parts(find_model(str(model / "saved_model")))


def probabilities(classifier, jpeg: bytes) -> np.ndarray:
    pixels = decode_and_resize(tf.constant(jpeg), height=SIZE, width=SIZE)
    return tf.nn.softmax(classifier.head(classifier.backbone(preprocess(pixels, "unit")[None]))).numpy()[0]


def run(*arguments: str | os.PathLike) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "trainer.predict", *map(os.fspath, arguments)]
    return subprocess.run(command, capture_output=True, check=False)


@pytest.mark.slow
def test_command_on_a_mixed_folder(model, classifier, shared_data, tmp_path):
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    photos = sorted((shared_data / "flowers/roses").iterdir())[:40]  # more than one batch
    for i, photo in enumerate(photos):
        (folder / "deeper" / f"{i:02d}.jpg").write_bytes(photo.read_bytes())
    whole = photos[0].read_bytes()
    (folder / ".hidden" / "photo.jpg").write_bytes(whole)
    (folder / 'a, "quoted".jpg').write_bytes(whole)
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(whole)
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no image")
    Image.open(photos[0]).convert("CMYK").save(folder / "print.tif")

    done = run(f"--model={model}", folder, tmp_path / "absent.jpg", photos[1])

    assert done.returncode == 0
    rows = list(csv.DictReader(io.StringIO(os.fsdecode(done.stdout))))
    found = [str(folder / name) for name in ('a, "quoted".jpg', os.fsdecode(b"caf\xe9.jpg"), "print.tif")]
    found += [str(folder / "deeper" / f"{i:02d}.jpg") for i in range(40)]
    assert [row["file"] for row in rows] == [*found, str(photos[1])]
    errors = os.fsdecode(done.stderr)
    for name in ("cut.jpg: ", "notes.txt: ", "absent.jpg: No such file"):
        assert sum(f"/{name}" in line for line in errors.splitlines()) == 1, name
    for row, photo in zip(rows[3:], [*photos, photos[1]], strict=True):
        expected = probabilities(classifier, photo.read_bytes())
        assert row["label"] == LABELS[expected.argmax()]
        assert float(row["probability"]) == pytest.approx(expected.max(), abs=1e-5)
    assert len({row["label"] for row in rows}) > 1


@pytest.mark.slow
def test_nothing_readable_exits_65(model, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    done = run(f"--model={model / 'saved_model'}", tmp_path)
    assert done.returncode == 65
    assert done.stdout == b"file,label,probability\n"
    assert done.stderr.decode().splitlines()[-1] == "error: none of 1 files could be read as an image"


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_error(model, shared_data):
    command = (
        f'"{sys.executable}" -m trainer.predict --run="{model.parent}" "{shared_data / "flowers/roses"}" | head -2'
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run=nowhere"], "no images; give files or folders"),
        (["photo.jpg"], "give either --run=RUN or --model=DIR"),
        (["--run=a", "--model=b", "photo.jpg"], "give either --run=RUN or --model=DIR"),
    ],
)
def test_usage_mistakes_are_told_before_tensorflow_is_loaded(arguments, message):
    done = run(*arguments)
    assert done.returncode == 64
    assert done.stderr.decode().startswith(f"error: {message}")


def test_a_directory_without_a_model_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="trainer.export --run=RUN"):
        load_signature(tmp_path)


def test_another_saved_model_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(UsageError, match="not exported by trainer.export"):
        load_signature(tmp_path)


@pytest.fixture
def decoder():
    with contextlib.closing(Decoder(PixelPolicy(), ImageBudget())) as opened:
        yield opened


def test_orientation_is_applied(decoder, shared_data):
    """The same photo in all EXIF orientations gives the model the same pixels."""
    folder = shared_data / "odd_images" / "exif_orientation"
    files = sorted(file for file in folder.iterdir() if file.name.startswith("Landscape_"))
    assert len(files) == 9

    def thumbnail(encoded: bytes) -> np.ndarray:
        return decode_and_resize(tf.constant(encoded), height=SIZE, width=SIZE).numpy()

    upright = thumbnail(files[1].read_bytes())
    for file in files:
        (read,) = read_images(decoder, [str(file)], spec=None)
        assert isinstance(read, Prepared)
        assert np.abs(thumbnail(read.encoded) - upright).mean() < 3
    assert np.abs(thumbnail(files[3].read_bytes()) - upright).mean() > 30  # upside down without it


def test_pipes_and_videos_in_a_folder_cost_neither_time_nor_memory(decoder, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    with open(tmp_path / "video.jpg", "wb") as file:
        file.truncate(1 << 40)
    paths = list(find_images([str(tmp_path)]))
    answers = dict(zip(map(os.path.basename, paths), read_images(decoder, paths, spec=SPEC), strict=True))
    assert answers == {
        "gone.jpg": "No such file or directory",
        "video.jpg": f"more than the {64 << 20} bytes allowed",
    }


def test_every_odd_file_is_answered_or_refused(parts, shared_data):
    files = list(find_images([str(shared_data / "odd_images" / "tensorflow_testdata")]))
    files += list(find_images([str(shared_data / "odd_images" / "pillow")]))[::16]
    answers = list(predict(parts, files, batch_size=7))
    assert [answer.name for answer in answers] == files
    read = [answer for answer in answers if not answer.problem]
    assert len(read) > len(files) // 3
    for answer in read:
        assert answer.probabilities.shape == (3,)
        assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert answer.encoded


def test_what_tensorflow_refuses_costs_only_itself(saved_model, shared_data):
    good = next((shared_data / "flowers/roses").iterdir()).read_bytes()
    contents = {"first": good, "broken": b"\xff\xd8\xff no jpeg", "last": good}
    images = [(name, Prepared(encoded=content, shown=content)) for name, content in contents.items()]
    first, broken, last = classify(saved_model, images)
    assert broken.problem.startswith("TensorFlow cannot decode it")
    assert (first.name, broken.name, last.name) == ("first", "broken", "last")
    np.testing.assert_array_equal(first.probabilities, last.probabilities)
    assert first.probabilities.shape == (3,)
