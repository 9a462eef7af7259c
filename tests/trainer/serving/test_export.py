"""Tests exports against the evaluation path: without our packages, after a kill, from low precision."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline import preprocess
from pipeline.command import UsageError
from pipeline.dataset import eval_dataset
from pipeline.decode import decode_and_resize
from pipeline.format.records import decode_example, read_frames
from pipeline.modes import PREPROCESS
from pipeline.view import View
from tests import datasets
from tests.trainer import runs
from trainer.models import HeadConfig
from trainer.models.classifier import Classifier, build_classifier
from trainer.models.keras_private import all_layers
from trainer.recipes.overrides import to_dict
from trainer.rundir import load_run
from trainer.serving import export
from trainer.serving.export import export_classifier, inference_model
from trainer.serving.forms import TFLITE_FILE
from trainer.serving.litert import open_litert
from trainer.serving.signature import load_signature
from trainer.train.evaluation import Evaluator

SIZE = 96
LABELS = ["daisy", "dandelion", "roses", "Sonnenblume, groß", "tulips"]
FORMS = {
    "saved_model", "model.keras", "model.tflite", "labels.txt", "preprocess.json", "pixels.py", "ask.py", "SHA256SUMS",
}  # fmt: skip


def small(num_classes: int = 3, **changes) -> Classifier:
    settings = {"backbone": "cifar10_cnn", "weights": "none", "height": 16, "width": 20, "seed": 0}
    return build_classifier(num_classes=num_classes, **{**settings, **changes})


def export_small(classifier: Classifier, directory: pathlib.Path, labels=("a", "b", "c")) -> None:
    export_classifier(classifier, labels=labels, height=16, width=20, preprocess="unit", directory=directory)


@pytest.fixture(scope="module")
def photos(shared_data, tmp_path_factory):
    """Writes a test split of real photos of many sizes."""
    folders = sorted((shared_data / "flowers").iterdir())
    files = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.iterdir())[:8]]
    split = [datasets.record(file.read_bytes(), label) for file, label in files]
    return datasets.write_dataset(tmp_path_factory.mktemp("photos"), {"test": split}, LABELS)


@pytest.fixture(scope="module")
def lite0():
    return build_classifier(
        backbone="efficientnet_lite0",
        weights="imagenet",
        num_classes=5,
        height=SIZE,
        width=SIZE,
        head=HeadConfig(dropout=0.5),
        seed=3,
    )


@pytest.fixture(scope="module")
def exported(lite0, tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("run") / "export"
    export_classifier(lite0, labels=LABELS, height=SIZE, width=SIZE, preprocess="lite", directory=directory)
    return directory


@pytest.fixture(scope="module")
def evaluator(lite0) -> Evaluator:
    return Evaluator(
        tf.distribute.get_strategy(),
        lambda images: tf.nn.softmax(lite0.head(lite0.backbone(images, training=False), training=False)),
    )


@pytest.fixture(scope="module")
def evaluated(photos, evaluator) -> np.ndarray:
    """Computes probabilities of the test split, float32 [40, 5], as the trainer evaluates it."""
    data = eval_dataset(photos, "test", height=SIZE, width=SIZE, preprocess="lite", global_batch_size=16)
    probabilities, _ = evaluator(data, batches=3)
    return probabilities


def decoded(files) -> np.ndarray:
    """Decodes files on the evaluation path: float32 [N, SIZE, SIZE, 3], 0..255."""
    return np.stack([decode_and_resize(tf.constant(file), height=SIZE, width=SIZE) for file in files])


@pytest.fixture(scope="module")
def encoded(photos) -> list[bytes]:
    found = []
    for path in photos.shard_paths("test"):
        with open(path, "rb") as file:
            found += [decode_example(payload).image for payload in read_frames(file)]
    return found


_FOREIGN = """
import pathlib, sys
for name in ("trainer", "pipeline", "beam_jobs", "retrain"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
export, images, out = sys.argv[1:]
serve = tf.saved_model.load(export + "/saved_model").signatures["serving_default"]
results = {}
for kind in ("jpg", "png"):
    files = sorted(pathlib.Path(images).glob("*." + kind))
    answer = serve(image_bytes=tf.constant([file.read_bytes() for file in files]))
    results.update({kind + "_" + name: tensor.numpy() for name, tensor in answer.items()})
    results[kind + "_label"] = results[kind + "_label"].astype(bytes)
one = serve(image_bytes=tf.constant([files[0].read_bytes()]))
results["one"] = one["probabilities"].numpy()
import keras
model = keras.models.load_model(export + "/model.keras")
results["keras"] = model.predict(np.load(images + "/pixels.npy"), verbose=0)
np.savez(out, **results)
"""


@pytest.mark.slow
def test_serves_without_our_packages(exported, evaluated, evaluator, encoded, tmp_path):
    np.save(tmp_path / "pixels.npy", decoded(encoded))
    pngs = [tf.io.encode_png(tf.io.decode_jpeg(one, channels=3)).numpy() for one in encoded]
    for kind, files in {"jpg": encoded, "png": pngs}.items():
        for i, file in enumerate(files):
            (tmp_path / f"{i:03d}.{kind}").write_bytes(file)
    out = tmp_path / "out.npz"
    subprocess.run([sys.executable, "-c", _FOREIGN, exported, tmp_path, out], check=True, cwd=tmp_path)
    results = np.load(out)

    # A large JPEG is reduced in its DCT and a PNG by averaging, so the two differ.
    batch = {
        "image": preprocess.preprocess(decoded(pngs), "lite"),
        "label": tf.zeros(40, tf.int32),
        "weight": tf.ones(40),
    }
    of_pngs, _ = evaluator(tf.data.Dataset.from_tensors(batch), batches=1)
    assert len(set(evaluated.argmax(axis=1))) > 1  # else equal labels would say nothing
    assert results["jpg_probabilities"].dtype == np.float32
    expected = {"jpg_probabilities": evaluated, "keras": evaluated, "png_probabilities": of_pngs, "one": of_pngs[:1]}
    for name, values in expected.items():
        # The evaluator here runs the model itself, the SavedModel its lean twin: other roundings in float32.
        np.testing.assert_allclose(results[name], values, rtol=0, atol=1e-5, err_msg=name)
    for kind, values in {"jpg": evaluated, "png": of_pngs}.items():
        indices = values.argmax(axis=1)
        np.testing.assert_array_equal(results[f"{kind}_class_index"], indices)
        assert [label.decode() for label in results[f"{kind}_label"]] == [LABELS[i] for i in indices]


_RESIZED = [pytest.param(View(resize=name), marks=pytest.mark.slow) for name in ("pad", "crop")]


@pytest.mark.parametrize("view", [View(eval_centre=0.8), *_RESIZED])
def test_serves_what_evaluation_sees(photos, encoded, tmp_path, view):
    classifier = small(num_classes=5)
    sizes = {"height": 16, "width": 20, "preprocess": "unit", "view": view}
    export_classifier(classifier, labels=LABELS, directory=tmp_path / "export", **sizes)
    batch = next(iter(eval_dataset(photos, "test", global_batch_size=40, **sizes)))
    expected = tf.nn.softmax(classifier.head(classifier.backbone(batch["image"], training=False)))
    found = load_signature(tmp_path / "export")(encoded)["probabilities"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_tflite_agrees(exported, evaluated, encoded):
    content = (exported / "model.tflite").read_bytes()
    found = open_litert(content)(decoded(encoded))["probabilities"]
    np.testing.assert_allclose(found, evaluated, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def small_export(tmp_path_factory):
    directory = tmp_path_factory.mktemp("small") / "export"
    export_small(small(num_classes=5), directory, labels=LABELS)
    return directory


def test_directory_holds_all_forms_and_nothing_else(small_export):
    assert {path.name for path in small_export.iterdir()} == FORMS
    assert {path.name for path in small_export.parent.iterdir()} == {"export"}
    assert (small_export / "labels.txt").read_text(encoding="utf-8").splitlines() == LABELS


def test_the_digests_are_of_every_file_and_read_by_sha256sum(small_export):
    files = {path.relative_to(small_export).as_posix() for path in small_export.rglob("*") if path.is_file()} - {
        "SHA256SUMS"
    }
    lines = (small_export / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == files
    subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=small_export, check=True)


@pytest.mark.parametrize("mode", PREPROCESS)
def test_keras_preprocessing_equals_the_pipelines(mode):
    images = keras.Input((5, 7, 3))
    # A layer behind it, because Keras 3.12 refuses a model whose output is its input, as for "identity".
    output = keras.layers.Identity()(export._preprocess_layers(images, mode))
    model = keras.Model(images, output)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 5, 7, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(pixels), preprocess.preprocess(pixels, mode))


@pytest.fixture
def low_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(policy)


def test_low_precision_models_are_exported_in_float32(low_precision):
    classifier = small(resize_to=32, head=HeadConfig(pooling="flatten", hidden=4, dropout=0.5))
    model = inference_model(classifier, height=16, width=20, preprocess="unit")
    assert {layer.compute_dtype for layer in all_layers(model)} == {"float32"}
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 20, 3)).astype(np.float32)
    low = tf.nn.softmax(classifier.head(classifier.backbone(pixels / 255)))
    np.testing.assert_allclose(model(pixels), low, atol=0.02)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("mode", ["unit", "caffe"])
def test_exports_while_training_in_low_precision(tmp_path, low_precision, mode):
    labels = ["a", "b", "c"]
    export_classifier(small(), labels=labels, height=16, width=20, preprocess=mode, directory=tmp_path / "export")
    assert keras.config.dtype_policy().name == "mixed_bfloat16"  # the training may go on
    keras.config.set_dtype_policy("float32")  # as whoever loads it has it
    model = keras.models.load_model(tmp_path / "export" / "model.keras")
    assert {layer.compute_dtype for layer in all_layers(model)} == {"float32"}
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 20, 3)).astype(np.float32)
    lite = open_litert(str(tmp_path / "export" / TFLITE_FILE))(pixels)["probabilities"]
    np.testing.assert_allclose(model(pixels), lite, atol=1e-4)  # caffe's large pixels make large logits


def test_exports_a_model_that_lives_on_two_replicas(tmp_path):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        classifier = small(head=HeadConfig(dropout=0.5))
    export_small(classifier, tmp_path / "export")
    image = datasets.jpeg(datasets.smooth_image(np.random.default_rng(0), height=30, width=40))
    serve = tf.saved_model.load(tmp_path / "export/saved_model").signatures[export.SIGNATURE]
    pixels = decode_and_resize(tf.constant(image), height=16, width=20)[None]
    expected = tf.nn.softmax(classifier.head(classifier.backbone(preprocess.preprocess(pixels, "unit"))))
    np.testing.assert_allclose(serve(image_bytes=tf.constant([image]))["probabilities"], expected, atol=1e-6)


_EXPORT_FOR_EVER = """
import sys
from trainer.serving.export import export_classifier
from trainer.models.classifier import build_classifier
c = build_classifier(backbone="cifar10_cnn", weights="none", num_classes=3, height=16, width=20, seed=0)
export_classifier(c, labels=["x", "y", "z"], height=16, width=20, preprocess="unit", directory=sys.argv[1])
"""


@pytest.mark.slow
def test_killed_half_way_nothing_half_is_visible(tmp_path):
    target = tmp_path / "export"
    export_small(small(), target)
    for wanted in ("saved_model", "model.keras"):
        process = subprocess.Popen([sys.executable, "-c", _EXPORT_FOR_EVER, target], stderr=subprocess.DEVNULL)
        pattern = f".export.{process.pid}.*.staging/new/{wanted}"
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        (left,) = tmp_path.glob(pattern)
        os.utime(left.parents[1], (0, 0))  # long ago
        assert {path.name for path in target.iterdir()} == FORMS
        assert (target / "labels.txt").read_text() == "a\nb\nc\n"
    export_small(small(), target, labels=("x", "y", "z"))
    assert (target / "labels.txt").read_text() == "x\ny\nz\n"
    assert {path.name for path in tmp_path.iterdir()} == {"export"}


def test_upload_puts_the_file_that_servers_wait_for_last(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, content in ((source, "new"), (target, "old")):
        (folder / "saved_model" / "variables").mkdir(parents=True)
        for name in ("labels.txt", "saved_model/saved_model.pb", "saved_model/variables/variables.index"):
            (folder / name).write_text(content)
    export.upload(pathlib.Path(source), pathlib.Path(target))
    files = [path for path in target.rglob("*") if path.is_file()]
    assert {path.read_text() for path in files} == {"new"}
    assert max(files, key=lambda path: path.stat().st_ctime_ns).name == "saved_model.pb"


@pytest.mark.parametrize(
    ("labels", "message"), [(["a", "b"], "2 labels for a model of 3"), (["a", "b\nc", "d"], "not one line")]
)
def test_labels_must_fit(tmp_path, labels, message):
    with pytest.raises(UsageError, match=message):
        export_small(small(), tmp_path / "export", labels=labels)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_nothing_of_an_export_and_the_one_before(tmp_path, monkeypatch):
    def full(*args):
        (args[-1] / "model.keras").write_bytes(bytes(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "labels.txt").touch()
    monkeypatch.setattr(export, "_write", full)
    with pytest.raises(OSError, match="No space"):
        export_small(small(), tmp_path / "export", labels=["a", "b", "c"])
    assert [path.name for path in tmp_path.rglob("*")] == ["export", "labels.txt"]


@pytest.mark.slow
def test_the_command_exports_a_runs_selected_weights(tiny_data, tmp_path):
    recipe = runs.small_recipe("phases.0.duration=1ep", "phases.1.duration=1ep")
    runs.train(tiny_data, recipe, tmp_path / "run")
    settings = {"recipe": to_dict(recipe), "labels": list(tiny_data.manifest.labels), "seed": 0}
    (tmp_path / "run/config.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "trainer.export", "--unfinished", f"--run={tmp_path / 'run'}"]
    refused = subprocess.run([*command[:3], command[-1]], capture_output=True, text=True, check=False)
    assert refused.returncode == 64
    assert refused.stderr.splitlines()[-1] == (
        f"error: --run={tmp_path / 'run'}: this run has not ended; run trainer.main to its end, or --unfinished "
        "exports the best weights so far"
    )
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"exported to {tmp_path / 'run/export'}, without golden images: the run has not")

    classifier, _, _ = load_run(pathlib.Path(tmp_path / "run"))
    image = datasets.jpeg(datasets.smooth_image(np.random.default_rng(0), height=30, width=40))
    pixels = decode_and_resize(tf.constant(image), height=16, width=16)[None]
    expected = tf.nn.softmax(classifier.head(classifier.backbone(preprocess.preprocess(pixels, "unit"))))
    serve = tf.saved_model.load(tmp_path / "run/export/saved_model").signatures[export.SIGNATURE]
    np.testing.assert_allclose(serve(image_bytes=tf.constant([image]))["probabilities"], expected, atol=1e-6)

    nowhere = subprocess.run([*command[:-1], "--run=nowhere"], capture_output=True, text=True, check=False)
    assert nowhere.returncode == 64
    assert nowhere.stderr.splitlines()[-1].startswith("error: --run=nowhere: no config.json there")
