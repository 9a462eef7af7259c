"""Classifies image files with an exported model, each brought into shape by the builder's pixel policy."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from tqdm import tqdm

from pipeline.images.guarded import Decoder, DecoderPool, Decoders, ImageBudget
from pipeline.images.policy import PixelPolicy, ReadError, Reject, read_bounded
from trainer.serving.records import as_record
from trainer.serving.signature import Signature

_BATCH = 32
_READERS = 4

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


def read_image(decoder: Decoder, path: str) -> bytes | str:
    """Returns the file as the JPEG that the builder would make of it, or (a str) why it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = read_bounded(file)  # not all of a video
    except OSError as error:
        return error.strerror or str(error)
    except ReadError as error:
        return error.detail
    found = as_record(decoder, data)
    return found.detail if isinstance(found, Reject) else found[1]


def classify(signature: Signature, encoded: Sequence[bytes]) -> list[Answer]:
    """Returns answers for all images, also if the signature refuses some."""
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
    pool = DecoderPool(PixelPolicy(), ImageBudget())
    with contextlib.closing(pool), contextlib.closing(Decoders(_READERS, pool)) as decoders:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            read = list(decoders.map(read_image, batch))
            answers = iter(classify(signature, [one for one in read if isinstance(one, bytes)]))
            for file, one in zip(batch, read, strict=True):
                yield file, one if isinstance(one, str) else next(answers)


def write_csv(signature: Signature, files: Sequence[str]) -> int:
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
