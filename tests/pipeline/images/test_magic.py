import itertools
import random

import pytest

from pipeline.images.magic import sniff
from pipeline.images.policy import RejectCode
from tests.pipeline.images.files import refused

PIECES = (b"<!--", b"-->", b"<?xml", b"?>", b">", b"<", b" ", b"\n", b"<!DOCTYPE", b" svg", b"<svg", b"x", b"-")


@pytest.mark.parametrize(
    "drawing",
    [
        b"<svg xmlns=''></svg>",
        b"\n <svg>",
        b'<?xml version="1.0"?>\n<svg>',
        b'<?xml version="1.0"?><!-- made by a program -->\n<!-- > -- > --><svg>',
        b'<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" [<!ENTITY a "b">]>\n<svg>',
        b"<!--" + b"a licence " * 500 + b"-->\n<svg>",
    ],
)
def test_drawings_are_known(drawing):
    assert sniff(drawing) == "SVG"
    assert refused(drawing)[0] == RejectCode.UNSUPPORTED


@pytest.mark.parametrize(
    "head",
    [
        b"<!--" * 128,
        b"<!---->" * 10_000,
        b"<!-- -->\n" * 10_000 + b"<!--",
        b" " * 70_000,
        b'<?xml version="1.0"?>' * 5_000,
        b"<?xml" + b" " * 70_000,
        b"<?xml" + b"<!--" * 20_000 + b"-->",
    ],
)
def test_no_text_keeps_it_busy(head):
    """Runs for ever where a pattern tries each way to read it."""
    assert sniff(head) is None
    assert sniff(head + b"<sv") is None


def test_no_mixture_of_its_words_keeps_it_busy():
    generator = random.Random(0)
    for _ in range(300):
        sniff(b"".join(generator.choices(PIECES, k=300)))
    for pieces in itertools.product(PIECES, repeat=2):
        sniff(b"".join(pieces) * 100)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "a camera's raw file"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file"),
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw file"),
        (b"IIU\0\x18\0\0\0", "a camera's raw file"),
        (b"IIRO\x08\0\0\0", "a camera's raw file"),
        (b"II\xbc\1\x08\0\0\0", "JPEG XR"),
        (b"qoif\0\0\0\1", "QOI"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\x8bJNG\r\n\x1a\n", "MNG/JNG"),
    ],
)
def test_what_we_do_not_read_is_called_unsupported(head, name):
    code, detail = refused(head)
    assert code == RejectCode.UNSUPPORTED
    assert name in detail
