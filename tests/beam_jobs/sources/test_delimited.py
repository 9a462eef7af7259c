"""Tests tables as spreadsheets, databases and other tools write them, and those that are something else."""

import gzip
import tracemalloc

import pytest

from beam_jobs.sources.delimited import delimited_rows
from beam_jobs.sources.json_lines import json_rows
from beam_jobs.sources.rows import RowError
from pipeline.command import UsageError

EXPECTED = [("img/0.jpg", "cat", "train"), ("img/1, 2.jpg", "Löwe; groß", "test")]
ROWS = [("Image", "Class", "Set"), ("img/0.jpg", "cat", "Training"), ("img/1, 2.jpg", "Löwe; groß", "TEST")]


def text_of(delimiter=",", end="\n", rows=ROWS):
    quote = lambda value: f'"{value}"' if "," in value or ";" in value else value  # noqa: E731
    return "".join(delimiter.join(map(quote, row)) + end for row in rows)


def read(tmp_path, content, encoding="", asked=None):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(row.uri, row.label, row.split) for row in delimited_rows(str(path), asked or {}, encoding)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_and_line_ends(tmp_path, delimiter, end):
    assert read(tmp_path, text_of(delimiter, end)) == EXPECTED


@pytest.mark.parametrize(
    ("mark", "encoding", "flag"),
    [
        (b"\xef\xbb\xbf", "utf-8", ""),
        (b"\xff\xfe", "utf-16-le", ""),
        (b"\xfe\xff", "utf-16-be", ""),
        (b"\xff\xfe\0\0", "utf-32-le", ""),
        (b"", "utf-16-le", "utf-16-le"),
        (b"", "windows-1252", "windows-1252"),
        (b"", "latin-1", "latin-1"),
        (b"\xef\xbb\xbf", "utf-8", "windows-1252"),  # the mark knows better
    ],
)
def test_encodings(tmp_path, mark, encoding, flag):
    assert read(tmp_path, mark + text_of().encode(encoding), flag) == EXPECTED


def test_what_spreadsheets_leave(tmp_path):
    rows = ['"Image";Class;Set;;', "img/0.jpg;cat;training;;", ";;;;", "", '"img/1, 2.jpg";"Löwe; groß";TEST', ";;;;"]
    text = "".join(f"{row}\r\n" for row in ["sep=;", ";;;;", *rows])
    assert read(tmp_path, text) == EXPECTED
    assert read(tmp_path, "uri,label,split,note\na.jpg,cat\n") == [("a.jpg", "cat", None)]


def test_the_delimiter_is_the_one_that_shows_our_columns(tmp_path):
    assert read(tmp_path, "uri;label;size in px, note\na;b;1,2\n") == [("a", "b", None)]
    assert read(tmp_path, '"image\nfile","label"\na,b\n', asked={"uri": "image file"}) == [("a", "b", None)]


def test_a_long_text_in_another_column_is_nothing_to_us(tmp_path):
    assert read(tmp_path, f"uri,label,story\na,b,{'x' * 1_000_000}\n") == [("a", "b", None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("img/00.jpg,cat\nimg/01.jpg,dog\n", r'the columns are "img/00.jpg", "cat".*line before it that names'),
        ("shot;kind\na;b\n", r'line 1: no column "uri"; the columns are "shot", "kind".*delimiter is ";"'),
        ("\n\n", 'line 2: no column "uri"; there are no columns: the file is empty'),
        (text_of().encode("windows-1252"), r"line 3: not UTF-8 .* perhaps --encoding=windows-1252"),
        (text_of().encode("utf-16-le"), "line 1: NUL characters.* --encoding=utf-16-le"),
        (b"PAR1" + bytes(100), "give --source=parquet"),
        (b"PK\x03\x04" + bytes(100), "a workbook or a zip archive; save the sheet as CSV"),
        (gzip.compress(b"uri,label\n", mtime=0), "compressed by gzip"),
        ("uri,label\na,b\nc\nd,e\n", 'line 3: 1 values for 2 columns .the delimiter is ",".'),
        ("uri,label\na,b,c\n", "line 2: 3 values for 2 columns"),
        ('uri,label\na,b\n"c,d\ne,f\n', r"line 4: unexpected end of data .the record begins in line 3."),
        ("uri,label,set\na,b,Alpha Edition\n", r'line 2: set "Alpha Edition" is none of .*--split_column= for no'),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    with pytest.raises(RowError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize("encoding", ["klingon", "base64", "utf\0"])
def test_unknown_encodings(tmp_path, encoding):
    with pytest.raises(UsageError, match="--encoding=.* usual are utf-8"):
        read(tmp_path, text_of(), encoding)


@pytest.mark.parametrize("read_rows", [delimited_rows, json_rows])
@pytest.mark.parametrize("piece", ["x", '"' + "a" * 100 + '\n",', "["])
def test_no_file_takes_more_memory_than_a_record_may(tmp_path, read_rows, piece):
    path = tmp_path / "t"
    start = "uri,label\n" if read_rows is delimited_rows else ""
    with path.open("w") as file:
        file.write(start)
        for _ in range(30):
            file.write(piece * (1_000_000 // len(piece)))
    tracemalloc.start()
    try:
        with pytest.raises(RowError):
            list(read_rows(str(path), {}, ""))
        assert tracemalloc.get_traced_memory()[1] < 120e6
    finally:
        tracemalloc.stop()
