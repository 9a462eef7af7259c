"""Tells file formats by their first bytes."""

from __future__ import annotations

import re

_HEAD = 512
_SVG_HEAD = 1 << 16  # drawing programs put long comments first

# Every pattern is of a fixed length: nothing in it can be tried in two ways.
_MAGIC = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"BM", "BMP"),
    (rb"II\*\0........CR|IIU\0|IIR[OS]|MMO[RS]|FUJIFILM|\0MRM|FOVb|....ftypcrx ", "a camera's raw file"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+|MM\*\0|II\0\*", "TIFF"),  # the last two are nobody's, but Pillow reads them
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", "HEIF"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG2000"),
    (rb"P[1-6][\s#]", "PPM"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"II\xbc[\0\1]", "JPEG XR"),
    (rb"8BPS", "Photoshop"),
    (rb"%PDF", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (rb"\0\0[\1\2]\0[^\0]", "icon"),
    (rb"DDS ", "DirectDraw"),
    (rb"\x76\x2f\x31\x01", "OpenEXR"),
    (rb"P[Ff7]\s|P0CMYK|Py[PRC]", "PFM/PAM"),
    (rb"[\x8a\x8b][MJ]NG\r\n\x1a\n", "MNG/JNG"),
    (rb"qoif", "QOI"),
    (rb"SIMPLE  = ", "FITS"),
    (rb".{128}DICM", "DICOM"),
    (rb"....ftyp|\x1a\x45\xdf\xa3", "video"),
)
_PATTERNS = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _MAGIC)


def sniff(data: bytes) -> str | None:
    """Names the format that the first bytes announce, supported or not; None where they announce none."""
    head = data[:_HEAD]
    name = next((name for pattern, name in _PATTERNS if pattern.match(head)), None)
    return name or ("SVG" if _is_svg(data[:_SVG_HEAD]) else None)


def _is_svg(head: bytes) -> bool:
    """Says whether behind an XML declaration and comments stands a document type of SVG or its element."""
    at = 0
    while True:
        while head[at : at + 1].isspace():
            at += 1
        if head.startswith((b"<svg", b"<!DOCTYPE svg"), at):
            return True
        end = b"-->" if head.startswith(b"<!--", at) else b"?>" if head.startswith(b"<?xml", at) else None
        found = head.find(end, at) if end else -1
        if found < 0:
            return False
        at = found + len(end or b"")


def is_html(data: bytes) -> bool:
    return data[:_HEAD].lstrip().lower().startswith((b"<!doctype html", b"<html", b"<head"))
