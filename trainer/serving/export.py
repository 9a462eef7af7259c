"""Writes a trained classifier in every form that serves it: SavedModel, Keras, LiteRT; see `trainer.export`."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from pipeline import preprocess as preprocessing
from pipeline.command import CommandError, UsageError
from pipeline.decode import decode_and_resize
from pipeline.format import storage
from pipeline.format.sums import write_sums
from pipeline.images import model_pixels
from pipeline.view import STRETCH, View
from trainer.models.classifier import Classifier
from trainer.models.twin import lean_twin
from trainer.models.weights import KERAS_FILE, LABELS_FILE
from trainer.serving.forms import PREPROCESS_FILE, SAVED_MODEL, TFLITE_FILE, TOLERANCE
from trainer.serving.golden import GoldenImage, write_golden
from trainer.serving.litert import FEATURES, PROBABILITIES, open_litert, with_files
from trainer.serving.signature import INPUT, SIGNATURE
from trainer.serving.staging import staged
from trainer.serving.upright import decode_upright
from trainer.train.model import float32_policy

# They need nothing of ours.
_SCRIPTS = {"ask.py": pathlib.Path(__file__).with_name("ask.py"), "pixels.py": pathlib.Path(model_pixels.__file__)}
_PARALLEL_DECODES = 16


def export_classifier(
    classifier: Classifier,
    *,
    labels: Sequence[str],
    height: int,
    width: int,
    preprocess: str,
    directory: storage.Path,
    view: View = STRETCH,
    golden: Sequence[GoldenImage] = (),
    also: Sequence[Callable[[pathlib.Path], object]] = (),
) -> None:
    """Writes SavedModel, Keras, LiteRT, their labels, pixels and digests; `directory` appears only as a whole.

    Args:
      classifier: the live model, under any dtype policy and distribution strategy; exported in float32.
      labels: names, in the order of the logits.
      height: pixels, as the input pipeline delivers them.
      width: pixels, as the input pipeline delivers them.
      preprocess: mode of `pipeline.preprocess.preprocess`.
      view: which part of an image SavedModel sees; the others are given pixels.
      directory: local or gs://. On an object store, which cannot rename, saved_model.pb is uploaded last.
      golden: images that go along, with what the model answers to them.
      also: are called with the local folder of all this, one after the other, and add files to it.

    Raises:
      UsageError: labels and logits differ in number, or a label cannot be a line of labels.txt.
    """
    classes = classifier.head.output.shape[-1]
    if len(labels) != classes:
        raise UsageError(f"{len(labels)} labels for a model of {classes} classes")
    if broken := [label for label in labels if len(label.splitlines()) != 1]:
        raise UsageError(f"label {broken[0]!r} is not one line of text, so {LABELS_FILE} cannot hold it; rename it")
    with _staged(directory) as made:
        _write(classifier, labels, height, width, preprocess, view, golden, made)
        for add in also:
            add(made)
        write_sums(made)


@contextlib.contextmanager
def _staged(directory: storage.Path) -> Iterator[pathlib.Path]:
    """Yields a local folder, which takes the place of `directory` in the end."""
    if not storage.is_remote(directory):
        with staged(pathlib.Path(directory)) as made:
            yield made
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield pathlib.Path(temporary)
        upload(pathlib.Path(temporary), directory)


@float32_policy()
def _write(
    classifier: Classifier,
    labels: Sequence[str],
    height: int,
    width: int,
    mode: str,
    view: View,
    golden: Sequence[GoldenImage],
    directory: pathlib.Path,
) -> None:
    model = inference_model(classifier, height=height, width=width, preprocess=mode)
    _write_saved_model(model, labels, height, width, mode, view, directory / SAVED_MODEL)
    model.save(directory / KERAS_FILE)
    seen = {"height": height, "width": width, "resize": view.resize, "eval_centre": view.eval_centre}
    notes = {
        LABELS_FILE: "".join(f"{label}\n" for label in labels),
        PREPROCESS_FILE: json.dumps(seen, indent=2) + "\n",
    }
    for name, text in notes.items():
        (directory / name).write_text(text, encoding="utf-8")
    (directory / TFLITE_FILE).write_bytes(with_files(_to_litert(model), notes))
    for name, script in _SCRIPTS.items():
        shutil.copyfile(script, directory / name)
    if golden:
        seen_by = [decode_and_resize(image.encoded, height=height, width=width, view=view) for image in golden]
        write_golden(golden, model(tf.stack(seen_by), training=False).numpy(), directory)


def upload(source: pathlib.Path, target: storage.Path) -> None:
    """Copies a directory file by file, `saved_model.pb` last: TensorFlow Serving loads a directory that has it."""
    storage.delete(storage.join(target, SAVED_MODEL, "saved_model.pb"))
    files = [path for path in source.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda file: (file.name == "saved_model.pb", str(file))):
        copy = storage.join(target, *file.relative_to(source).parts)
        storage.make_folder(os.path.dirname(copy))
        storage.write_atomically(copy, file.read_bytes())


def _in_float32(layer: keras.Operation) -> keras.Operation:
    config = layer.get_config()
    if isinstance(layer, keras.layers.Layer):
        config["dtype"] = "float32"
    return layer.__class__.from_config(config)


def _preprocess_layers(images: keras.KerasTensor, mode: str) -> keras.KerasTensor:
    """Builds `pipeline.preprocess.preprocess` from Keras layers, for formats that cannot hold a TensorFlow function."""
    if mode == "identity":
        return images
    if mode == "caffe":
        minus_mean = [-value for value in preprocessing.IMAGENET_MEAN_BGR]
        return keras.layers.Rescaling(1.0, minus_mean, name="preprocess")(keras.ops.flip(images, axis=-1))
    if mode == "torch":
        return keras.layers.Rescaling(*preprocessing.torch_scale_and_offset(), name="preprocess")(images)
    scale, offset = {"tf": (1 / 127.5, -1.0), "lite": (1 / 128, -127 / 128), "unit": (1 / 255, 0.0)}[mode]
    return keras.layers.Rescaling(scale, offset, name="preprocess")(images)


@float32_policy()
def inference_model(classifier: Classifier, *, height: int, width: int, preprocess: str) -> keras.Model:
    """Builds one float32 model of copied weights, from pixels 0..255 [B, H, W, 3] to probabilities [B, C].

    Its parts are the layers "preprocess" (but for mode "identity"), "backbone", "head" and "probabilities". Called
    outside any strategy's scope, it has plain variables.
    """
    images = keras.Input((height, width, 3), dtype="float32", name="image")
    x = _preprocess_layers(images, preprocess)
    for part in (classifier.backbone, classifier.head):
        copy = keras.models.clone_model(part, clone_function=_in_float32)
        copy.set_weights(part.get_weights())
        x = copy(x, training=False)
    return keras.Model(images, keras.layers.Softmax(name="probabilities")(x), name="classifier")


def _write_saved_model(
    model: keras.Model,
    labels: Sequence[str],
    height: int,
    width: int,
    mode: str,
    view: View,
    directory: pathlib.Path,
) -> None:
    backbone, head = lean_twin(model.get_layer("backbone")), model.get_layer("head")
    module = tf.Module()
    module.model_variables = [variable.value for variable in [*backbone.variables, *head.variables]]
    image = tf.TensorSpec([height, width, 3], tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=INPUT)])
    def serve(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        # The evaluation path itself, not another version of it; only upright, as the dataset's images are already.
        pixels = tf.map_fn(
            lambda one: decode_upright(one, height=height, width=width, view=view),
            encoded,
            fn_output_signature=image,
            parallel_iterations=_PARALLEL_DECODES,
        )
        logits = head(backbone(preprocessing.preprocess(pixels, mode), training=False), training=False)
        probabilities = tf.nn.softmax(logits)
        index = tf.argmax(probabilities, axis=-1)
        return {
            "label": tf.gather(tf.constant(list(labels)), index),
            "class_index": index,
            "probabilities": probabilities,
        }

    module.serve = serve
    tf.saved_model.save(module, str(directory), signatures={SIGNATURE: serve})


@contextlib.contextmanager
def litert_converter(model: keras.Model) -> Iterator[tf.lite.TFLiteConverter]:
    """Makes a converter to LiteRT of an inference model, which also answers with its features.

    By way of Keras' own SavedModel: from concrete functions, the converter leaves Keras 3's weights out and the file
    answers nan (TF 2.21).
    """
    x = images = keras.Input(model.input.shape[1:], name="image")
    found = {}
    for part in model.operations[1:]:  # a chain, see `inference_model`
        found[part.name] = x = part(x)
    answers = {PROBABILITIES: x, FEATURES: found["backbone"]}
    with tempfile.TemporaryDirectory() as directory:
        keras.Model(images, answers).export(directory, format="tf_saved_model", verbose=False)
        yield tf.lite.TFLiteConverter.from_saved_model(directory)


def _to_litert(model: keras.Model) -> bytes:
    """Converts the model to LiteRT, and compares the probabilities for one image with the model's own."""
    with litert_converter(model) as converter:
        content: bytes = converter.convert()
    shape = (1, *model.input.shape[1:])
    image = np.linspace(0, 255, math.prod(shape), dtype=np.float32).reshape(shape)
    error = np.abs(open_litert(content)(image)[PROBABILITIES] - model(image, training=False).numpy()).max()
    if not error <= TOLERANCE:  # so put that nan fails
        raise CommandError(f"{TFLITE_FILE} differs from the model by {error:g} in a probability; TF {tf.__version__}")
    return content
