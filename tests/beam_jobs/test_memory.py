"""Tests that the memory of a whole build with worker processes does not grow with the number of images."""

import pytest

from benchmarks.process_tree import peak_bytes
from tests.beam_jobs.image_folders import command, make_folder


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    mode = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    peaks = []
    for images in (3_000, 30_000):
        for label in range(3):
            make_folder(tmp_path / str(images), labels=[str(label)], images=images // 3, first=label * 10**6)
        peaks.append(peak_bytes(command(tmp_path / str(images), tmp_path / f"out-{images}", *mode)))
    assert max(peaks) < 600e6, peaks
    assert peaks[1] < 1.2 * peaks[0], peaks
