"""Says what is accepted, what a record's image looks like, and, in a closed list, why something is left out."""

from __future__ import annotations

import dataclasses
import enum
from typing import IO

from pipeline.command import ExpectedError

# Pillow's own limit, above which its plug-ins refuse; also what TensorFlow's decoder can address with three channels.
HARD_MAX_PIXELS = 178_956_970
# Pillow takes microseconds for each segment, chunk, comment or box of a file, and a file has room for millions.
MAX_PARTS = 100_000


class RejectCode(enum.Enum):
    """Says why something is not in the dataset. A closed list: rejects.jsonl, the report and the tests count by it."""

    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED = "unsupported"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    TOO_MUCH_MEMORY = "too_much_memory"
    ANIMATED = "animated"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    LABEL_CONFLICT = "label_conflict"
    TRAIN_COPY_OF_TEST = "train_copy_of_test"
    SMALL_CLASS = "small_class"
    UNREADABLE = "unreadable"
    EXCLUDED = "excluded"  # by a person, image by image
    # Download failures.
    HTTP_STATUS = "http_status"
    TIMEOUT = "timeout"
    DNS = "dns"
    CONNECTION = "connection"
    TLS = "tls"
    PRIVATE_ADDRESS = "private_address"
    BAD_URL = "bad_url"
    ROBOTS = "robots"
    NOAI = "noai"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    CONTENT_TYPE = "content_type"
    CUT_BODY = "cut_body"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reject:
    """Says why an image is refused: a code to count by and a sentence for a person."""

    code: RejectCode
    detail: str


class Refused(ExpectedError):
    """Reports that an image is left out; becomes a row of rejects.jsonl.

    Attributes:
      code: the reason, out of the closed list.
      detail: what exactly happened, for a person.
    """

    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(code, detail)  # both as args: the exception crosses process borders by pickle
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code.value}: {self.detail}"

    @property
    def reject(self) -> Reject:
        return Reject(code=self.code, detail=self.detail)


class ReadError(Refused):
    """Reports that an image's source cannot be read."""


def too_many_bytes(size: int, limit: int) -> str:
    """Words the detail of a reject for `TOO_MANY_BYTES`."""
    return f"{size} bytes, at most {limit} allowed"


def too_many_parts(what: str, *, limit: int = MAX_PARTS) -> Refused:
    """Makes the refusal of a file that has more of something than any honest one."""
    return Refused(RejectCode.TOO_SLOW, f"more than {limit} {what}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelPolicy:
    """Says what is accepted and what a record's image looks like.

    Attributes:
      max_pixels: largest declared width × height; checked before anything is decoded. Decoding takes up to 12 bytes of
        memory a pixel.
      max_bytes: largest source file.
      min_side: shortest side in pixels of a record's image.
      max_side: longest side of a record's image in pixels (larger ones shrink), or None to keep all sizes.
      animated: "first_frame" takes the first frame or page, "refuse" rejects files with several.
      jpeg_quality: of the JPEGs that we encode.
      subsampling: chroma subsampling of the JPEGs that we encode, "4:2:0" or "4:4:4".
      lossless: whether pixels that are stored losslessly stay so: what comes as PNG or PPM, and need not shrink, goes
        into the record as a PNG. For sources that are pixels (CIFAR, TFDS), not photos.
      strip_metadata: whether JPEGs that are kept as they are lose EXIF (positions among it), comments and the like.
    """

    max_pixels: int = 50_000_000
    max_bytes: int = 64 << 20
    min_side: int = 8
    max_side: int | None = None
    animated: str = "first_frame"
    jpeg_quality: int = 95
    subsampling: str = "4:2:0"
    strip_metadata: bool = False
    lossless: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= HARD_MAX_PIXELS:
            raise ValueError(f"max_pixels must be 1 to {HARD_MAX_PIXELS}, got {self.max_pixels}")
        if self.max_bytes < 1 or self.min_side < 1:
            raise ValueError(f"max_bytes and min_side must be positive, got {self.max_bytes} and {self.min_side}")
        if self.max_side is not None and self.max_side < self.min_side:
            raise ValueError(f"max_side must be at least min_side ({self.min_side}), got {self.max_side}")
        if self.animated not in ("first_frame", "refuse"):
            raise ValueError(f'animated must be "first_frame" or "refuse", got {self.animated!r}')
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be 1 to 100, got {self.jpeg_quality}")
        if self.subsampling not in ("4:2:0", "4:4:4"):
            raise ValueError(f'subsampling must be "4:2:0" or "4:4:4", got {self.subsampling!r}')


def read_bounded(file: IO[bytes]) -> bytes:
    """Reads a whole file whose size is not known before; ReadError above `PixelPolicy`'s default `max_bytes`."""
    data = file.read(PixelPolicy.max_bytes + 1)
    if len(data) > PixelPolicy.max_bytes:
        raise ReadError(RejectCode.TOO_MANY_BYTES, f"more than the {PixelPolicy.max_bytes} bytes allowed")
    return data
