"""Tests that the memory of a whole build grows by what is known of an image, never by its bytes or pixels."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.process_tree import peak_bytes
from tests.beam_jobs.image_folders import command

_SIZE = (160, 160)
_SMALL, _LARGE = 5_000, 15_000  # the smaller one fills the two shards that are made at a time
_ROW_BYTES = 10_000  # that Beam's local runner keeps of an image at most, about; the benchmark says 3,000


@pytest.mark.slow
def test_memory_grows_by_rows_only(tmp_path):
    peaks = []
    for images in (_SMALL, _LARGE):
        folder = tmp_path / str(images)
        for number in range(images):
            path = folder / f"{number % 3}/{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 256, (*_SIZE, 3), np.uint8)
            Image.fromarray(noise).save(path, quality=90)
        mean = sum(path.stat().st_size for path in folder.rglob("*.jpg")) / images
        assert mean > 2 * _ROW_BYTES
        peaks.append(peak_bytes(command(folder, tmp_path / f"out-{images}")))
    assert peaks[0] < 600e6, peaks
    assert peaks[1] - peaks[0] < (_LARGE - _SMALL) * _ROW_BYTES, peaks
