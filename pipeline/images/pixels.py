"""Decodes images of any supported format to upright "L" or "RGB" pixels, within bounds on memory and time.

Colours: pixel values are taken as stored. Colour profiles are not applied, because neither TensorFlow's decoder nor a
served model applies them, and training must see what serving sees. CMYK becomes RGB by the plain formula that
TensorFlow uses. Transparency is laid over white. 16-bit samples are scaled to 8. Of several frames or pages the first
counts.
"""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
from PIL import (
    AvifImagePlugin,  # noqa: F401 - registers the format
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from pipeline.images import boxes, gif, heap, png, pnm, remarks, tiff
from pipeline.images.colours import INVERTED, rgb_or_grey, strips
from pipeline.images.jpeg import MAX_SIDE, START, Frame, check_header, decode_whole, ends_early, plain_frame, with_end
from pipeline.images.magic import is_html, sniff
from pipeline.images.policy import PixelPolicy, Refused, RejectCode, too_many_bytes
from pipeline.images.tags import check_every_block

try:
    import pillow_heif
except ImportError:
    pass
else:
    pillow_heif.register_heif_opener()

# In the order tried. A closed list: Pillow's other plug-ins include ones that start programs (EPS) or guess.
_WANTED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
Image.preinit()  # BMP, DIB, GIF, JPEG, PNG and PPM; `init` would import all the others, too
FORMATS = tuple(name for name in _WANTED_FORMATS if name in Image.OPEN)

# Pillow gives an image's memory back to the system at once; kept for the next image, it need not be zeroed again.
Image.core.set_blocks_max(2)  # of at most 16 MB

# Damaged metadata and large sizes are our business, not the user's. Not `catch_warnings`: that is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_ORIENTATION = 0x0112
_PLAIN = (0, 1)  # like INVERTED; whether it is a whole JPEG of the kinds that every decoder reads
# A JPEG of a few kilobytes may hold thousands of scans, each over all pixels: an hour of decoding.
# Encoders write about ten.
_MAX_SCANNED_PIXELS = 4_000_000_000
# Of libtiff's remarks on what it decodes, not on tags: `Fax4Decode: Bad code word at line 1 of strip 0 (x 5).`
_TIFF_DAMAGE = re.compile(r"^\w*(?:Decode|Fill(?:Strip|Tile))\w*: ([ -~]{1,150})", re.MULTILINE)
_TIFF_FILLS = (0x55, 0xAA)  # no bit is the same


def _not_supported(name: str) -> Refused:
    return Refused(RejectCode.UNSUPPORTED, f"{name} is not supported; supported are {', '.join(FORMATS)}")


def _why_not_opened(data: bytes, error: Exception) -> Refused:
    name = sniff(data)
    if name in FORMATS:
        # Pillow's "cannot identify" names a memory address; a reject's text must be the same in every build.
        why = "" if isinstance(error, UnidentifiedImageError) else f": {error}"[:200]
        if name == "TIFF" and not why and (what := tiff.why_not_opened(data)):
            return Refused(RejectCode.UNSUPPORTED, what)
        code = RejectCode.UNSUPPORTED if "unsupported" in why.lower() else RejectCode.CORRUPT
        return Refused(code, f"{name} header not understood{why}")
    if name == "HEIF":
        return Refused(RejectCode.UNSUPPORTED, "HEIF needs the package pillow-heif (pip install tpu-retraining[heif])")
    if name:
        return _not_supported(name)
    if not data:
        what = "the file is empty"
    elif is_html(data):
        what = "an HTML page"
    else:
        what = f"no image format begins with {data[:12]!r}"
    return Refused(RejectCode.NOT_AN_IMAGE, what)


def _for_pillow(data: bytes, frame: Frame | None) -> tuple[bytes, bool]:
    """Returns what Pillow is to read in place of a file, and whether its greys have to be inverted then.

    Args:
      frame: of a JPEG that is plain.

    Raises:
      Refused: Pillow would take minutes or gigabytes, or read something else than what is meant.
    """
    name = sniff(data)
    if name == "JPEG":
        check_header(data)
        return data if frame else with_end(data), False
    if name == "TIFF":
        return tiff.for_pillow(data)
    if name == "GIF":
        return gif.first_frame(data), False
    if name == "PPM":
        return pnm.with_8_bits(data), False
    if name == "PNG":
        png.check_chunks(data)
    elif name == "WEBP":
        boxes.check_webp(data)
    elif name == "JPEG2000":
        boxes.check_jpeg2000(data)
    elif name in ("AVIF", "HEIF", "video"):  # plug-ins read more brands than we know
        check_every_block(data)
    elif name == "PFM/PAM":
        raise _not_supported(name)
    return data, False


def _check_size(data: bytes, image: Image.Image, frame: Frame | None, policy: PixelPolicy) -> None:
    width, height = image.size
    if width * height > policy.max_pixels:
        raise Refused(RejectCode.TOO_MANY_PIXELS, f"{width}x{height} pixels, at most {policy.max_pixels} allowed")
    if min(record_size(image.size, policy)) < policy.min_side:
        raise Refused(RejectCode.TOO_SMALL, f"{width}x{height} pixels, at least {policy.min_side} a side wanted")
    is_jpeg = image.format in ("JPEG", "MPO")
    if max(image.size if is_jpeg else record_size(image.size, policy)) > MAX_SIDE:
        raise Refused(RejectCode.TOO_LARGE, f"{width}x{height} pixels, a JPEG has at most {MAX_SIDE} a side")
    scans = frame.scans if frame else data.count(b"\xff\xda") if is_jpeg else 1
    if scans * width * height > _MAX_SCANNED_PIXELS:
        raise Refused(RejectCode.TOO_MANY_PIXELS, f"{scans} scans of {width}x{height} pixels would take too long")


def _refuse_animation(data: bytes, image: Image.Image) -> None:
    frames: int | str = 1
    try:
        if image.format == "GIF":
            frames = gif.count_frames(data)
        elif image.format == "TIFF":  # counting takes time in the square of the pages
            frames = "several" if image.is_animated else 1  # type: ignore[attr-defined]
        elif image.format not in ("MPO", "HEIF"):
            frames = getattr(image, "n_frames", 1)
    except Refused:
        raise
    except Exception as error:
        raise Refused(RejectCode.CORRUPT, f"the frames cannot be counted ({error})") from error
    if frames != 1:
        raise Refused(RejectCode.ANIMATED, f"{frames} frames")


def open_image(data: bytes, policy: PixelPolicy) -> Image.Image:
    """Opens an image without decoding it, and refuses what its header, scans or frames alone condemn.

    Raises:
      Refused: with the code and the reason.
      MemoryError: there is not enough for it.
    """
    if len(data) > policy.max_bytes:
        raise Refused(RejectCode.TOO_MANY_BYTES, too_many_bytes(len(data), policy.max_bytes))
    frame = plain_frame(data) if data.startswith(START) else None
    file, inverted = _for_pillow(data, frame)
    try:
        image = Image.open(io.BytesIO(file), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Refused(RejectCode.TOO_MANY_PIXELS, str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # plug-ins let every kind of error through
        raise _why_not_opened(data, error) from error
    image.info |= {INVERTED: inverted, _PLAIN: frame is not None}
    _check_size(data, image, frame, policy)
    if policy.animated == "refuse":
        _refuse_animation(data, image)
    return image


def record_size(size: tuple[int, int], policy: PixelPolicy) -> tuple[int, int]:
    """Computes the size of the record's image for an image of `size`; (width, height) both."""
    if policy.max_side is None or max(size) <= policy.max_side:
        return size
    scale = policy.max_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _orientation(image: Image.Image) -> int:
    """Reads the EXIF (or, failing that, XMP) orientation, 1 to 8; 1 where there is none or a senseless one."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return value if value in range(1, 9) else 1
    except Exception:  # damaged metadata
        return 1


def conforms(image: Image.Image, policy: PixelPolicy) -> bool:
    """Says whether the file can be the record's image as it stands. Reads markers only; decodes nothing.

    It can if it is a JPEG of the kinds that every decoder reads (baseline, extended or progressive Huffman, 8 bits,
    with its end marker), RGB or greyscale, upright, and within `max_side`.
    """
    return (
        image.format in ("JPEG", "MPO")
        and image.mode in ("L", "RGB")
        and record_size(image.size, policy) == image.size
        and bool(image.info[_PLAIN])
        and _orientation(image) == 1
    )


def surely_conforms(data: bytes, policy: PixelPolicy) -> Frame | None:
    """Returns the frame of a JPEG that conforms beyond doubt; None for all other files, which Pillow has to open.

    Most photos do; for them, this saves what Pillow takes to parse a header a second time.
    """
    frame = plain_frame(data) if data.startswith(START) and len(data) <= policy.max_bytes else None
    if frame is None or not frame.bare or frame.channels not in (1, 3):
        return None
    size, count = (frame.width, frame.height), frame.width * frame.height
    fits = policy.min_side <= min(size) and count <= policy.max_pixels and record_size(size, policy) == size
    return frame if fits and frame.scans * count <= _MAX_SCANNED_PIXELS else None


def _load_tiff(image: Image.Image) -> None:
    """Decodes an opened TIFF twice, over different contents of memory; takes twice the time and memory.

    libtiff says of wrong codes on standard error only, of missing ones nothing: then what lay in memory shows.

    Raises:
      Refused: it remarks damage; or pixels differ, so they are not the file's, which goes unnoticed without glibc.
      Exception: what Pillow raises for damaged files.
    """
    data: bytes = image.fp.getvalue()  # type: ignore[attr-defined] # open_image reads from memory
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as again:
        with remarks.heard() as heard:
            for decoded, fill in zip((image, again), _TIFF_FILLS, strict=True):
                with heap.fresh_memory(fill):
                    decoded.load()
        if damage := _TIFF_DAMAGE.search(heard.text):
            raise Refused(RejectCode.CORRUPT, f"TIFF: {damage[1]}")
        for box in strips(image):
            if image.crop(box).tobytes() != again.crop(box).tobytes():
                raise Refused(RejectCode.CORRUPT, "parts of the picture are missing")
    tiff.check_jpeg_pieces(data)


def _load_jpeg(image: Image.Image, *, shrunk: bool) -> Image.Image:
    """Decodes an opened JPEG to the size that `draft` has chosen; Refused where it is damaged."""
    data: bytes = image.fp.getvalue()  # type: ignore[attr-defined]
    pixels = decode_whole(data, channels=len(image.getbands()), shrunk_to=image.size if shrunk else None)
    if pixels is None:
        if ends_early(data, lambda file: np.asarray(Image.open(io.BytesIO(file), formats=("JPEG",)))):
            raise Refused(RejectCode.TRUNCATED, "JPEG: its coded data end early")
        image.load()
        return image
    if image.mode == "CMYK":
        return Image.frombytes("CMYK", image.size, (255 - pixels).tobytes())
    return Image.fromarray(pixels[..., 0] if image.mode == "L" else pixels)


def _load(image: Image.Image, wanted: tuple[int, int]) -> Image.Image:
    """Decodes an opened image; a JPEG no smaller than wanted, all others at full size."""
    full = image.size
    if image.format in ("JPEG", "MPO"):
        if wanted != full:
            image.draft(image.mode, wanted)
        return _load_jpeg(image, shrunk=image.size != full)
    if image.format == "TIFF":
        _load_tiff(image)
    elif image.format == "PNG":
        data: bytes = image.fp.getvalue()  # type: ignore[attr-defined]
        image.load()
        png.check_rows(data, image)
    else:
        image.load()
    return image


def decode(image: Image.Image, policy: PixelPolicy) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes an opened image fully.

    Returns:
      Its pixels, "L" or "RGB", upright; at full size, or smaller but no smaller than the record wants (JPEGs are scaled
      while they are decoded); and the record's (width, height).

    Raises:
      Refused: damaged, cut off, or of a kind without a defined meaning.
      MemoryError: there is not enough for it.
    """
    size = record_size(image.size, policy)
    try:
        decoded = _load(image, size)
        orientation = _orientation(image)
        pixels = rgb_or_grey(decoded)
        if orientation != 1:
            pixels = pixels.transpose(_UPRIGHT[orientation])
            size = size[::-1] if orientation >= 5 else size
        return pixels, size
    except Refused:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders let every kind of error through
        detail = f"{type(error).__name__}: {error}"[:200]
        cut = re.search("truncat|not enough|unexpected end|premature", detail, re.IGNORECASE)
        raise Refused(RejectCode.TRUNCATED if cut else RejectCode.CORRUPT, detail) from error


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
