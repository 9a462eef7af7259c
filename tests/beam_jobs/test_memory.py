"""Memory of a whole build with worker processes, which must not grow with the number of images."""

import contextlib
import os
import pathlib
import subprocess
import time

import pytest

from tests.beam_jobs.image_folders import command, make_folder


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parent = int(pathlib.Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def peak_bytes(arguments: list[str]) -> int:
    """Largest sum of resident memory over the build's processes."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = 0
    while process.poll() is None:
        total = 0
        for pid in descendants(process.pid):
            with contextlib.suppress(OSError):
                total += int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        peak = max(peak, total)
        time.sleep(0.05)
    assert process.returncode == 0, process.communicate()
    return peak


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
