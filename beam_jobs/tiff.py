"""TIFFs with missing parts: libtiff says nothing when it could not fill its buffer, and what lay in memory shows."""

from __future__ import annotations

import io

from PIL import Image

from beam_jobs import heap
from beam_jobs.policy import Refused, RejectCode

_STRIP_PIXELS = 1 << 20
_FILLS = (0x55, 0xAA)  # no bit is the same


def load_whole(image: Image.Image) -> None:
    """Decodes an opened TIFF twice, over different contents of memory; takes twice the time and memory.

    Raises:
      Refused: pixels differ, so they are not the file's. Without glibc this goes unnoticed.
      Exception: what Pillow raises for damaged files.
    """
    data: bytes = image.fp.getvalue()  # type: ignore[attr-defined] # open_image reads from memory
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as again:
        for decoded, fill in zip((image, again), _FILLS, strict=True):
            with heap.fresh_memory(fill):
                decoded.load()
        rows = max(1, _STRIP_PIXELS // image.width)
        for top in range(0, image.height, rows):
            box = 0, top, image.width, min(image.height, top + rows)
            if image.crop(box).tobytes() != again.crop(box).tobytes():
                raise Refused(RejectCode.CORRUPT, "parts of the picture are missing")
