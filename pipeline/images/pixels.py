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
from collections.abc import Callable

import numpy as np
from PIL import (
    AvifImagePlugin,  # noqa: F401 - registers the format
    Image,
    ImageCms,
    Jpeg2KImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from pipeline.images import heap
from pipeline.images.jpeg import plain_frame
from pipeline.images.policy import PixelPolicy, Refused, RejectCode, too_many_bytes

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
_BITS_PER_SAMPLE = 258
# A progressive JPEG of a few kilobytes may hold thousands of scans, each over all pixels: an hour of decoding.
# Encoders write about ten.
MAX_SCANNED_PIXELS = 4_000_000_000
_STRIP_PIXELS = 1 << 20
_TIFF_FILLS = (0x55, 0xAA)  # no bit is the same

_MAGIC = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"BM", "BMP"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", "HEIF"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG2000"),
    (rb"P[1-6]\s", "PPM"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"8BPS", "Photoshop"),
    (rb"%PDF", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (rb"\0\0[\1\2]\0[^\0]", "icon"),
    (rb"DDS ", "DirectDraw"),
    (rb"\x76\x2f\x31\x01", "OpenEXR"),
    (rb"P[Ffy7]\s", "PFM/PAM"),
    (rb"....ftyp|\x1a\x45\xdf\xa3", "video"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg", "SVG"),
)


def sniff(data: bytes) -> str | None:
    """Names the format that the first bytes announce, supported or not; None where they announce none."""
    head = data[:512]
    return next((name for pattern, name in _MAGIC if re.match(pattern, head, re.DOTALL)), None)


def _why_not_opened(data: bytes, error: Exception) -> Refused:
    name = sniff(data)
    if name in FORMATS:
        # Pillow's "cannot identify" names a memory address; a reject's text must be the same in every build.
        why = "" if isinstance(error, UnidentifiedImageError) else f": {error}"[:200]
        code = RejectCode.UNSUPPORTED if "unsupported" in why.lower() else RejectCode.CORRUPT
        return Refused(code, f"{name} header not understood{why}")
    if name == "HEIF":
        return Refused(RejectCode.UNSUPPORTED, "HEIF needs the package pillow-heif (pip install tpu-retraining[heif])")
    if name:
        return Refused(RejectCode.UNSUPPORTED, f"{name} is not supported; supported are {', '.join(FORMATS)}")
    head = data[:512].lstrip().lower()
    if not data:
        what = "the file is empty"
    elif head.startswith((b"<!doctype html", b"<html", b"<head")):
        what = "an HTML page"
    else:
        what = f"no image format begins with {data[:12]!r}"
    return Refused(RejectCode.NOT_AN_IMAGE, what)


def open_image(data: bytes, policy: PixelPolicy) -> Image.Image:
    """Opens an image without decoding it, and refuses what its header, scans or frames alone condemn.

    Raises:
      Refused: with the code and the reason.
      MemoryError: there is not enough for it.
    """
    if len(data) > policy.max_bytes:
        raise Refused(RejectCode.TOO_MANY_BYTES, too_many_bytes(len(data), policy.max_bytes))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Refused(RejectCode.TOO_MANY_PIXELS, str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # plug-ins let every kind of error through
        raise _why_not_opened(data, error) from error
    width, height = image.size
    if width * height > policy.max_pixels:
        raise Refused(RejectCode.TOO_MANY_PIXELS, f"{width}x{height} pixels, at most {policy.max_pixels} allowed")
    if min(record_size(image.size, policy)) < policy.min_side:
        raise Refused(RejectCode.TOO_SMALL, f"{width}x{height} pixels, at least {policy.min_side} a side wanted")
    if "progressive" in image.info and (scans := data.count(b"\xff\xda")) * width * height > MAX_SCANNED_PIXELS:
        raise Refused(RejectCode.TOO_MANY_PIXELS, f"{scans} scans of {width}x{height} pixels would take too long")
    if policy.animated == "refuse" and image.format not in ("MPO", "HEIF"):
        try:
            frames = getattr(image, "n_frames", 1)
        except Exception as error:
            raise Refused(RejectCode.CORRUPT, f"the frames cannot be counted ({error})") from error
        if frames > 1:
            raise Refused(RejectCode.ANIMATED, f"{frames} frames")
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


def conforms(data: bytes, image: Image.Image, policy: PixelPolicy) -> bool:
    """Says whether the file can be the record's image as it stands. Reads markers only; decodes nothing.

    It can if it is a JPEG of the kinds that every decoder reads (baseline, extended or progressive Huffman, 8 bits,
    with its end marker), RGB or greyscale, upright, and within `max_side`.
    """
    return (
        image.format in ("JPEG", "MPO")
        and image.mode in ("L", "RGB")
        and record_size(image.size, policy) == image.size
        and plain_frame(data) is not None
        and _orientation(image) == 1
    )


def _by_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Converts a strip at a time, so that intermediate copies stay small."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if image.height <= rows:
        return convert(image)
    out = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        out.paste(convert(strip), (0, top))
    return out


def _over_white(image: Image.Image) -> Image.Image:
    mode = "L" if image.mode in ("L", "1", "LA", "La") else "RGB"
    transparent = image.info.get("transparency")

    def convert(strip: Image.Image) -> Image.Image:
        if transparent is not None:
            strip.info["transparency"] = transparent
        flat = Image.new("RGBA", strip.size, "white")
        flat.alpha_composite(strip.convert("RGBA"))
        return flat.convert("RGB").getchannel("R") if mode == "L" else flat.convert("RGB")

    return _by_strips(image, mode, convert)


def _wide_grey(image: Image.Image, *, white: int) -> Image.Image:
    """Converts 16-bit greyscale to 8 bits; `white` is the largest sample value. Pillow's own way clips at 255."""
    transparent = image.info.get("transparency")

    def convert(strip: Image.Image) -> Image.Image:
        wide = np.asarray(strip).astype(np.int64)
        narrow = (np.clip(wide, 0, white) * 255 + white // 2) // white
        if isinstance(transparent, int):
            narrow[wide == transparent] = 255
        return Image.fromarray(narrow.astype(np.uint8))

    return _by_strips(image, "L", convert)


def _bits(image: Image.Image) -> int:
    """Reads how many bits a sample of an "I;16" image has: TIFFs with 9 to 15 are unpacked without scaling."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])
    return 16


def _to_rgb_or_grey(image: Image.Image, *, format: str | None, bits: int) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _wide_grey(image, white=(1 << bits) - 1)
    if image.mode == "I" and format == "PPM":
        return _wide_grey(image, white=65535)
    if image.mode in ("I", "F"):
        raise Refused(RejectCode.UNSUPPORTED, "32-bit samples: which value is white is not defined")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
        return _by_strips(image, "RGB", lambda strip: ImageCms.applyTransform(strip, transform) or strip)
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return _over_white(image)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _load_tiff(image: Image.Image) -> None:
    """Decodes an opened TIFF twice, over different contents of memory; takes twice the time and memory.

    libtiff says nothing when it could not fill its buffer, and what lay in memory shows.

    Raises:
      Refused: pixels differ, so they are not the file's. Without glibc this goes unnoticed.
      Exception: what Pillow raises for damaged files.
    """
    data: bytes = image.fp.getvalue()  # type: ignore[attr-defined] # open_image reads from memory
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as again:
        for decoded, fill in zip((image, again), _TIFF_FILLS, strict=True):
            with heap.fresh_memory(fill):
                decoded.load()
        rows = max(1, _STRIP_PIXELS // image.width)
        for top in range(0, image.height, rows):
            box = 0, top, image.width, min(image.height, top + rows)
            if image.crop(box).tobytes() != again.crop(box).tobytes():
                raise Refused(RejectCode.CORRUPT, "parts of the picture are missing")


def decode(image: Image.Image, policy: PixelPolicy) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes an opened image fully.

    Returns:
      Its pixels, "L" or "RGB", upright; at full size, or smaller but no smaller than the record wants (JPEGs are scaled
      while they are decoded); and the record's (width, height).

    Raises:
      Refused: damaged, cut off, or of a kind without a defined meaning.
      MemoryError: there is not enough for it.
    """
    size, form = record_size(image.size, policy), image.format
    try:
        if size != image.size:
            image.draft(image.mode, size)
        bits = _bits(image)
        if form == "TIFF":
            _load_tiff(image)
        else:
            image.load()
        orientation = _orientation(image)
        pixels = _to_rgb_or_grey(image, format=form, bits=bits)
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
