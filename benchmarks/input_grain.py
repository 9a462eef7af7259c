"""Measures the peer `grain` of benchmarks/input.py: grain with albumentations and OpenCV, in its own environment.

python input_grain.py FOLDER CORES SECONDS prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time

import albumentations
import cv2
import grain.python as grain
import numpy as np

SIDE, BATCH, WARM_UP_BATCHES = 224, 128, 6


class Augment(grain.MapTransform):
    """Decodes a JPEG to float32 `[SIDE, SIDE, 3]`, with the five operations of benchmarks/input.py."""

    def __init__(self) -> None:
        side = 0.4
        hole = {"hole_height_range": (side, side), "hole_width_range": (side, side), "p": 1.0}
        self.compose = albumentations.Compose(
            [
                albumentations.Resize(SIDE, SIDE),
                albumentations.HorizontalFlip(p=0.5),
                albumentations.Affine(translate_percent=(-0.1, 0.1), border_mode=cv2.BORDER_REFLECT, p=1.0),
                albumentations.ColorJitter(brightness=0, contrast=0.2, saturation=0.2, hue=0, p=1.0),
                albumentations.CoarseDropout(num_holes_range=(2, 2), **hole),
            ]
        )

    def map(self, encoded: bytes) -> np.ndarray:
        cv2.setNumThreads(0)
        image = cv2.cvtColor(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return self.compose(image=image)["image"].astype(np.float32)


def main() -> None:
    folder, cores, seconds = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    encoded = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    dataset = grain.MapDataset.source(encoded).shuffle(seed=0).repeat().map(Augment()).batch(BATCH)
    options = grain.MultiprocessingOptions(num_workers=cores)
    started = time.perf_counter()
    batches = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1)).mp_prefetch(options))
    next(batches)
    first = time.perf_counter() - started
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        next(batches)
        count += BATCH
    rate = count / (time.perf_counter() - started)
    # The work is done in other processes: all processors are taken as busy.
    print(json.dumps({"rate": rate, "core_ms": 1e3 * cores / rate, "first_batch_s": first}))


if __name__ == "__main__":
    main()
