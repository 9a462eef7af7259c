r"""Classifies image files with an exported model; CSV on stdout, what could not be read on stderr.

    python -m trainer.predict --run=RUN PHOTO.jpg FOLDER… > predictions.csv
    python -m trainer.predict --model=MODELS/champion FOLDER…

A folder stands for all files below it. Every image goes through the pixel policy of the dataset builder (orientation,
colour modes, formats), so that the model sees what it was trained on. Exit code 0 if at least one image could be read,
65 if none.
"""

from __future__ import annotations

import concurrent.futures
import csv
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from absl import flags
from etils import epath
from tqdm import tqdm

from pipeline.command import DataError, UsageError, run_command
from pipeline.images.encode import render
from pipeline.images.facts import inspect
from pipeline.images.policy import PixelPolicy, ReadError, Reject, read_bounded

FLAGS = flags.FLAGS

_BATCH = 32
_READERS = 4  # Pillow decodes without the interpreter's lock
_POLICY = PixelPolicy()

# Encoded images → {"label": [B] of bytes, "probabilities": float32 [B, C]}, or ValueError.
Signature = Callable[[Sequence[bytes]], dict[str, np.ndarray]]
Answer = tuple[str, float] | str  # (label, its probability), or why the image cannot be read


def find_files(arguments: Iterable[str]) -> list[str]:
    """Replaces every folder by the files below it, sorted, but for hidden ones; all else is left as it is."""
    found = []
    for argument in arguments:
        if not os.path.isdir(argument):
            found.append(argument)
            continue
        for folder, folders, files in os.walk(argument):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = [os.path.join(folder, name) for name in sorted(files) if not name.startswith(".")]
            # A pipe would be waited for; a broken link is reported when it is read.
            found += [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    return found


def read_image(path: str) -> bytes | str:
    """The file as the JPEG that the builder would make of it, or (a str) why it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = read_bounded(file)  # not all of a video
    except OSError as error:
        return error.strerror or str(error)
    except ReadError as error:
        return error.detail
    facts = inspect(data, _POLICY)
    return facts.detail if isinstance(facts, Reject) else render(data, _POLICY)


def load_signature(model: epath.PathLike) -> Signature:
    """Loads the serving signature of an export directory, or of the SavedModel in it.

    Raises:
      UsageError: there is none.
    """
    import tensorflow as tf  # takes seconds: --help and mistakes in the arguments should not

    from trainer.export import INPUT, SAVED_MODEL, SIGNATURE

    directory = epath.Path(model)
    if not (directory / "saved_model.pb").exists():
        directory = directory / SAVED_MODEL
    if not (directory / "saved_model.pb").exists():
        raise UsageError(
            f"{model}: no exported model there; make one with python -m trainer.export --run=RUN, "
            "or give --model the directory that holds saved_model/"
        )
    loaded = tf.saved_model.load(str(directory))
    if SIGNATURE not in loaded.signatures or INPUT not in loaded.signatures[SIGNATURE].structured_input_signature[1]:
        raise UsageError(f"{directory}: not exported by trainer.export (no signature {SIGNATURE} of {INPUT})")

    def run(encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        try:
            result = loaded.signatures[SIGNATURE](**{INPUT: tf.constant(encoded)})
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(f"TensorFlow cannot decode it: {error.message.splitlines()[0]}") from error
        return {name: tensor.numpy() for name, tensor in result.items()}

    return run


def classify(signature: Signature, encoded: Sequence[bytes]) -> list[Answer]:
    """Answers for all images, also if the signature refuses some."""
    if not encoded:
        return []
    try:
        result = signature(encoded)
    except ValueError as error:
        if len(encoded) == 1:
            return [str(error)]
        return [answer for one in encoded for answer in classify(signature, [one])]
    best = result["probabilities"].max(axis=-1)
    return [(label.decode(), float(p)) for label, p in zip(result["label"], best, strict=True)]


def predict(signature: Signature, files: Sequence[str]) -> Iterator[tuple[str, Answer]]:
    """Yields (file, answer) in the order of `files`."""
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            read = list(pool.map(read_image, batch))
            answers = iter(classify(signature, [one for one in read if isinstance(one, bytes)]))
            for file, one in zip(batch, read, strict=True):
                yield file, one if isinstance(one, str) else next(answers)


def _write_csv(signature: Signature, files: Sequence[str]) -> int:
    """Writes the CSV to stdout and failures to stderr; returns how many images could be read."""
    out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", errors="surrogateescape", line_buffering=True)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["file", "label", "probability"])
    read = 0
    quiet = len(files) <= _BATCH or not sys.stderr.isatty()
    for file, answer in tqdm(predict(signature, files), total=len(files), unit="img", disable=quiet):
        if isinstance(answer, str):
            tqdm.write(f"{file}: {answer}", file=sys.stderr)
            continue
        read += 1
        writer.writerow([file, answer[0], f"{answer[1]:.6f}"])
    out.detach()
    return read


def main(arguments: list[str]) -> int | None:
    if not arguments:
        raise UsageError("no images; give files or folders: python -m trainer.predict --run=RUN PHOTOS")
    if bool(FLAGS.run) == bool(FLAGS.model):
        raise UsageError("give either --run=RUN or --model=DIR")
    warnings.filterwarnings("ignore", module="PIL")  # on damaged files, which are reported in one line each
    signature = load_signature(FLAGS.model or epath.Path(FLAGS.run) / "export")
    files = find_files(arguments)
    try:
        read = _write_csv(signature, files)
    except BrokenPipeError:  # `… | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None
    if not read:
        raise DataError(f"none of {len(files)} files could be read as an image")
    return None


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "A finished run, the --workdir of trainer.main: its export is used.")
    flags.DEFINE_string("model", None, "An export directory, or a SavedModel directory.")
    run_command(main, accepts_arguments=True)
