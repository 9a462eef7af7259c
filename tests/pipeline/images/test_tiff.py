import io
import os
import pathlib
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.images.facts import ImageFacts, inspect
from pipeline.images.policy import PixelPolicy, Reject, RejectCode

_LOOK = """
import pickle, sys
from pipeline.images.facts import inspect
from pipeline.images.policy import PixelPolicy
found = [inspect(data, PixelPolicy(min_side=1)) for data in pickle.load(open(sys.argv[1], "rb"))]
pickle.dump(found, open(sys.argv[2], "wb"))
"""


def drawing(seed: int, compression: str) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.random((30, 40)) < 0.3, np.ones((8, 8), bool))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "TIFF", compression=compression)
    return out.getvalue()


def damaged(data: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    copy = bytearray(data)
    for _ in range(3):
        copy[rng.randrange(8, len(copy))] ^= 1 << rng.randrange(8)
    return bytes(copy)


def looks(files: list[bytes], folder: pathlib.Path, *, fill: int) -> list[object]:
    """Looks at the files in a process in whose fresh memory every byte is `fill`."""
    (folder / "files").write_bytes(pickle.dumps(files))
    subprocess.run(
        [sys.executable, "-c", _LOOK, str(folder / "files"), str(folder / "looks")],
        check=True,
        stderr=subprocess.DEVNULL,  # libtiff's own complaints
        env={**os.environ, "GLIBC_TUNABLES": f"glibc.malloc.perturb={fill ^ 0xFF}:glibc.malloc.tcache_count=0"},
    )
    return pickle.loads((folder / "looks").read_bytes())


@pytest.mark.skipif(sys.platform != "linux", reason="the fill of fresh memory is glibc's")
def test_damaged_tiffs_look_the_same_to_every_process(tmp_path):
    files = [
        damaged(drawing(n, c), n) for c in ("group3", "group4", "tiff_lzw", "tiff_adobe_deflate") for n in range(25)
    ]
    first, second = (looks(files, tmp_path, fill=fill) for fill in (0x5A, 0xA5))
    assert first == second
    assert sum(isinstance(found, Reject) for found in first) > 25


@pytest.mark.skipif(sys.platform != "linux", reason="the fill of fresh memory is glibc's")
def test_odd_tiffs_look_the_same_to_every_process(shared_data, tmp_path):
    paths = sorted((shared_data / "odd_images").rglob("*.tif*"))
    files = [path.read_bytes() for path in paths]
    first, second = (looks(files, tmp_path, fill=fill) for fill in (0x5A, 0xA5))
    differing = [path.name for path, one, other in zip(paths, first, second, strict=True) if one != other]
    assert len(files) > 50
    assert differing == []


def test_a_tiff_with_missing_parts_is_refused():
    found = [inspect(damaged(drawing(n, "group4"), n), PixelPolicy()) for n in range(100)]
    missing = [reject for reject in found if isinstance(reject, Reject) and "missing" in reject.detail]
    assert missing
    assert {reject.code for reject in missing} == {RejectCode.CORRUPT}


@pytest.mark.parametrize("compression", ["raw", "group3", "group4", "packbits", "tiff_lzw", "tiff_adobe_deflate"])
def test_whole_tiffs_are_accepted(compression):
    for seed in range(5):
        assert isinstance(inspect(drawing(seed, compression), PixelPolicy()), ImageFacts)
