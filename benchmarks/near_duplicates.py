"""Measures the near-duplicate finder on real photos: recall and precision by kind of copy, time and memory by number.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.near_duplicates --photos=DIR [--photos=DIR2 ...] [--scale=100000]

Each photo is altered in every way listed; for each way the originals and the copies go through the builder's own
inspection and the finder together. Recall: copies grouped with their original. Precision: pairs of images in one group
that stem from the same photo, out of all pairs in one group; groups among the originals alone are listed by name, so
that a person can look whether the finder or the collection is at fault.
"""

from __future__ import annotations

import collections
import io
import itertools
import pathlib
import time
import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags
from PIL import Image, ImageEnhance, ImageOps

from beam_jobs.duplicates import lsh
from pipeline.command import UsageError, run_command
from pipeline.images import hashing
from pipeline.images.facts import ImageFacts
from pipeline.images.look import inspect
from pipeline.images.policy import PixelPolicy

_PHOTOS = flags.DEFINE_multi_string("photos", [], "Folder with photos, searched with its sub-folders.")
_LIMIT = flags.DEFINE_integer("limit", 0, "Take every n-th photo so that about this many remain; 0 for all.")
_SCALE = flags.DEFINE_integer("scale", 0, "Also time the finder on this many synthetic hashes.")


def _crop(image: Image.Image, *, left: float = 0, top: float = 0, right: float = 0, bottom: float = 0) -> Image.Image:
    width, height = image.size
    return image.crop(
        (round(width * left), round(height * top), round(width * (1 - right)), round(height * (1 - bottom)))
    )


def _scale(image: Image.Image, factor: float) -> Image.Image:
    return image.resize(
        (max(8, round(image.width * factor)), max(8, round(image.height * factor))), Image.Resampling.LANCZOS
    )


def _all_at_once(image: Image.Image) -> Image.Image:
    cropped = _crop(image, left=0.025, top=0.025, right=0.025, bottom=0.025)
    return ImageEnhance.Brightness(_scale(ImageOps.mirror(cropped), 0.7)).enhance(1.1)


# Name → (alteration, JPEG quality that the copy is saved with).
COPIES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "recompressed, quality 75": (lambda i: i, 75),
    "recompressed, quality 30": (lambda i: i, 30),
    "resized to 1/2": (lambda i: _scale(i, 0.5), 90),
    "resized to 1/4": (lambda i: _scale(i, 0.25), 90),
    "resized to 2x": (lambda i: _scale(i, 2), 90),
    "cropped 5 % (2.5 % a side)": (lambda i: _crop(i, left=0.025, top=0.025, right=0.025, bottom=0.025), 90),
    "cropped 5 % off the right": (lambda i: _crop(i, right=0.05), 90),
    "cropped 5 % off left and top": (lambda i: _crop(i, left=0.05, top=0.05), 90),
    "cropped 5 % off left, 3 % off bottom": (lambda i: _crop(i, left=0.05, bottom=0.03), 90),
    "cropped 5 % off every side": (lambda i: _crop(i, left=0.05, top=0.05, right=0.05, bottom=0.05), 90),
    "flipped": (ImageOps.mirror, 90),
    "brightness +20 %": (lambda i: ImageEnhance.Brightness(i).enhance(1.2), 90),
    "brightness -20 %": (lambda i: ImageEnhance.Brightness(i).enhance(0.8), 90),
    "contrast +30 %": (lambda i: ImageEnhance.Contrast(i).enhance(1.3), 90),
    "greyscale": (lambda i: i.convert("L"), 90),
    "cropped, flipped, x0.7, +10 %": (_all_at_once, 60),
}


def _jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _sketches(files: Sequence[bytes], *, first_id: int) -> np.ndarray:
    rows = np.zeros(len(files), lsh.SKETCH)
    for number, data in enumerate(files):
        facts = inspect(data, PixelPolicy())
        assert isinstance(facts, ImageFacts), facts
        if facts.perceptual_hash:
            rows[number]["hash"] = np.frombuffer(facts.perceptual_hash, np.uint8)
            rows[number]["id"] = np.void((first_id + number).to_bytes(lsh.ID_BYTES, "big"))
    return rows


def _groups(sketches: np.ndarray) -> list[list[int]]:
    hashed = sketches[sketches["hash"].any(axis=1)]
    members: dict[bytes, list[int]] = collections.defaultdict(list)
    for item, component in lsh.components(lsh.similar(hashed)).tolist():
        members[component].append(int.from_bytes(item, "big"))
    return [sorted(group) for group in members.values()]


def _measure(paths: Sequence[pathlib.Path]) -> None:
    originals = _sketches([path.read_bytes() for path in paths], first_id=0)
    count = len(paths)
    print(f"{count} photos, {int((~originals['hash'].any(axis=1)).sum())} of them without structure")
    pictures = np.arange(count)  # what the originals themselves repeat counts as one picture
    for group in _groups(originals):
        print("  among the originals:", "  ".join(str(paths[number]) for number in group))
        pictures[group] = group[0]
    print(f"{'copy':40s} {'recall':>7s} {'precision':>9s}")
    for name, (alter, quality) in COPIES.items():
        copies = [_jpeg(alter(Image.open(path).convert("RGB")), quality) for path in paths]
        groups = _groups(np.concatenate([originals, _sketches(copies, first_id=count)]))
        group_of = {member: number for number, group in enumerate(groups) for member in group}
        found = sum(group_of.get(n, -1) == group_of.get(n + count, -2) for n in range(count))
        pairs = [pair for group in groups for pair in itertools.combinations(group, 2)]
        true = sum(pictures[a % count] == pictures[b % count] for a, b in pairs)
        print(f"{name:40s} {found / count:7.4f} {true / max(1, len(pairs)):9.4f}", flush=True)


def _time(paths: Sequence[pathlib.Path], count: int) -> None:
    """Times the finder on `count` hashes with real photos' spectra but random signs: as many different pictures."""
    real = _sketches([path.read_bytes() for path in paths[:200]], first_id=0)["hash"]
    generator = np.random.default_rng(0)
    levels = hashing.levels(real)[generator.integers(len(real), size=count)]
    levels = (levels * generator.choice([-1, 1], size=levels.shape)).astype(np.int8)
    nibbles = (levels + 8).astype(np.uint8)
    sketches = np.zeros(count, lsh.SKETCH)
    sketches["hash"] = nibbles[:, ::2] << 4 | nibbles[:, 1::2]
    sketches["id"] = np.arange(count, dtype=">u8").repeat(2).view(f"V{lsh.ID_BYTES}")
    del levels, nibbles
    tracemalloc.start()
    start = time.process_time()
    found = lsh.similar(sketches)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    print(f"{count} hashes of different pictures, all bands in one process: {seconds:.1f} s of processor time,")
    print(f"{peak / count:.0f} bytes an image beside the {lsh.SKETCH.itemsize} of the input; {len(found)} pairs found")


def main(arguments: list[str]) -> None:
    del arguments
    paths = sorted(p for folder in _PHOTOS.value for p in pathlib.Path(folder).rglob("*.jpg"))
    if not paths:
        raise UsageError(f"--photos={','.join(_PHOTOS.value)}: no .jpg files there")
    if _LIMIT.value:
        paths = paths[:: max(1, len(paths) // _LIMIT.value)]
    _measure(paths)
    if _SCALE.value:
        _time(paths, _SCALE.value)


if __name__ == "__main__":
    run_command(main)
