"""Tests tables of URIs: every kind of URI, and every kind of mistake named with its line."""

import dataclasses
import json
import pickle
import time
import uuid

import pytest

from beam_jobs.download.entry import Body
from beam_jobs.sources import RemoteSource, open_source
from pipeline.command import DataError, UsageError
from pipeline.format import storage
from pipeline.images.policy import ReadError, RejectCode


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"a")
    (tmp_path / "photos" / "b c.jpg").write_bytes(b"bb")
    return tmp_path


def table(path, text, kind="csv", **options):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(kind, input_path=str(path), options={"download_dir": str(path.parent / "store"), **options})


def rows(source):
    return [(item.uri, item.label, item.split) for item in source.items()]


def test_local_files_relative_absolute_and_as_urls(folder):
    uris = ["photos/a.jpg", "photos/b c.jpg", f"{folder}/photos/./a.jpg", f"file://{folder}/photos/b%20c.jpg"]
    source = table(folder / "t.csv", "uri,label,split\n" + "".join(f"{uri},cat,\n" for uri in uris))
    items = list(source.items())
    assert [item.uri for item in items] == uris
    assert [pickle.loads(pickle.dumps(source)).read(item) for item in items] == [b"a", b"bb", b"a", b"bb"]
    assert [item.stamp.split(":")[0] for item in items] == ["1", "2", "1", "2"]
    before = items[0].stamp
    (folder / "photos" / "a.jpg").write_bytes(b"c")
    assert next(source.items()).stamp != before


def test_csv_and_jsonl_say_the_same(folder):
    csv = table(
        folder / "t.csv",
        b"\xef\xbb\xbfsplit, label ,uri,photographer\r\n"
        b'train,"cat, big",photos/a.jpg,me\r\n\r\n,"x ""y""",photos/b c.jpg,\r\n',
    )
    lines = [
        {"uri": "photos/a.jpg", "label": "cat, big", "split": "train", "photographer": 1},
        {"uri": "photos/b c.jpg", "label": 'x "y"', "split": None},
    ]
    jsonl = table(folder / "t.jsonl", "\n\n".join(map(json.dumps, lines)), kind="jsonl")
    expected = [("photos/a.jpg", "cat, big", "train"), ("photos/b c.jpg", 'x "y"', None)]
    assert rows(csv) == rows(jsonl) == expected
    assert csv.labels() is None


@pytest.fixture(params=["memory", "gcs", "s3"])
def bucket(request):
    root = "memory://" if request.param == "memory" else f"{request.getfixturevalue(request.param)}/"
    return root + uuid.uuid4().hex


def test_files_in_a_bucket(bucket):
    storage.write_atomically(f"{bucket}/a.jpg", b"a")
    storage.write_atomically(f"{bucket}/b c.jpg", b"bb")
    storage.write_atomically(f"{bucket}/t.csv", f"uri,label\na.jpg,cat\n{bucket}/b c.jpg,dog\n{bucket}/none.jpg,dog\n")
    source = open_source("csv", input_path=f"{bucket}/t.csv", options={"download_dir": "unused"})
    items = list(source.items())
    assert [source.read(item) for item in items[:2]] == [b"a", b"bb"]
    assert items[0].stamp.startswith("1:")
    assert items[2].stamp == "absent"


def test_unknown_file_systems_are_rejects_that_name_the_fix(folder):
    source = table(folder / "t.csv", "uri,label\nnofs://bucket/a.jpg,cat\n")
    (item,) = source.items()
    with pytest.raises(ReadError, match="no such kind of store") as caught:
        source.read(item)
    assert caught.value.code is RejectCode.UNREADABLE


def test_urls_are_read_from_the_store(folder):
    source = table(folder / "t.csv", "uri,label\nhttp://x.example/1,cat\nphotos/a.jpg,cat\n")
    assert isinstance(source, RemoteSource)
    listed = next(source.items())
    assert listed.stamp == ""
    with pytest.raises(ReadError, match="not downloaded"):
        source.read(listed)
    with Body() as body:
        body.write(b"bytes")
        source.store.put(body)
    downloaded = dataclasses.replace(listed, stamp=f"sha256:{body.sha256}")
    assert source.read(downloaded) == b"bytes"
    storage.delete(source.store.root)
    with pytest.raises(ReadError, match="No such file") as caught:
        source.read(downloaded)
    assert caught.value.code is RejectCode.UNREADABLE


def test_paths_of_windows(folder):
    uris = ["photos\\a.jpg", ".\\photos\\b c.jpg", "photos/a.jpg"]
    (folder / "odd\\name.jpg").write_bytes(b"c")
    source = table(folder / "t.csv", "uri,label\n" + "".join(f"{uri},cat\n" for uri in [*uris, "odd\\name.jpg"]))
    items = list(source.items())
    # The third row is the first once more; a file that has a backslash in its name keeps it.
    assert [item.uri for item in items] == ["photos/a.jpg", "./photos/b c.jpg", "odd\\name.jpg"]
    assert [source.read(item) for item in items] == [b"a", b"bb", b"c"]


@pytest.mark.parametrize("uri", ["C:\\photos\\a.jpg", "d:/a.jpg", "\\\\nas\\photos\\a.jpg", "file:///C:/photos/a.jpg"])
def test_drives_of_windows_are_refused(folder, uri):
    with pytest.raises(DataError, match="line 3: .* lies on a drive of Windows; give paths relative") as caught:
        rows(table(folder / "t.csv", f"uri,label\nphotos/a.jpg,cat\n{uri},cat\n"))
    assert uri in str(caught.value)


def test_whole_numbers_are_labels(folder):
    text = '{"image": "photos/a.jpg", "label": 3}\n{"image": "photos/b c.jpg", "label": "3", "split": "dev"}\n'
    expected = [("photos/a.jpg", "3", None), ("photos/b c.jpg", "3", "validation")]
    assert rows(table(folder / "t.jsonl", text, kind="jsonl")) == expected
    assert rows(table(folder / "t.csv", "image,label,split\nphotos/a.jpg,03,\n")) == [("photos/a.jpg", "03", None)]


def test_a_table_is_read_as_its_name_says(folder):
    for name, text in {
        "t.CSV": "uri,label\na,b\n",
        "t.tsv": "uri\tlabel\na\tb\n",
        "t.jsonl": '{"uri":"a","label":"b"}',
    }.items():
        source = table(folder / name, text, kind="table")
        assert rows(source) == [("a", "b", None)]
        assert source.fingerprint() == ("jsonl" if name == "t.jsonl" else "csv")


@pytest.mark.parametrize("name", ["semicolon", "header_filename", "windows_paths", "split_val"])
def test_tables_of_the_field(shared_data, name):
    folder = shared_data / "field_cases" / "data" / "csv_dialects"
    source = open_source("csv", input_path=str(folder / f"{name}.csv"), options={"download_dir": "unused"})
    items = list(source.items())
    assert [(item.uri, item.label) for item in items] == [(f"img/{i:02}.jpg", ("cat", "dog")[i % 2]) for i in range(12)]
    assert all(source.read(item).startswith(b"\xff\xd8") for item in items)
    assert [item.split for item in items] == ([None] * 12, ["train"] * 8 + ["validation"] * 4)[name == "split_val"]


def test_missing_files_are_rejects(folder):
    source = table(folder / "t.csv", "uri,label\nphotos/none.jpg,cat\nphotos,cat\n")
    for item in source.items():
        with pytest.raises(ReadError) as caught:
            source.read(item)
        assert caught.value.code is RejectCode.UNREADABLE


def test_a_path_that_no_file_can_have_is_a_reject(folder):
    source = table(folder / "t.csv", "uri,label\nfile:///a%00.jpg,cat\n")
    (item,) = source.items()
    source.announce(item)
    with pytest.raises(ReadError, match="null byte") as caught:
        source.read(item)
    assert caught.value.code is RejectCode.UNREADABLE


def test_repeated_rows_count_once_and_contradictions_are_errors(folder):
    text = "uri,label,split\nphotos/a.jpg,cat,train\nphotos/a.jpg,cat,train\n"
    assert len(rows(table(folder / "t.csv", text))) == 1
    with pytest.raises(DataError, match=r"line 4: photos/a.jpg has another label or split than in line 2"):
        rows(table(folder / "t.csv", text + "photos/a.jpg,dog,train\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'line 1: no column "uri"'),
        ("a.jpg,cat\n", 'line 1: no column "uri"'),
        ("uri,lable\n", 'line 1: no column "label"'),
        ("uri,label,splt\n", 'line 1: column "splt" is unknown. Did you mean "split"'),
        ("uri,label,uri\n", 'line 1: column "uri" appears twice'),
        ("uri,label\n", "no rows"),
        ("uri,label\na.jpg\n", "line 2: 1 values for 2 columns"),
        ("uri,label\na.jpg,cat\nb.jpg,cat,dog\n", "line 3: 3 values for 2 columns"),
        ("uri,label\na.jpg,\n", 'line 2: no "label"'),
        ("uri,label\n ,cat\n", 'line 2: no "uri"'),
        (
            "uri,label,split\na.jpg,cat,tset\n",
            'line 2: split "tset" is none of train, validation, test. Did you mean "test"',
        ),
        ('uri,label\na.jpg,"cat\n', "line 2: unexpected end of data"),
        ('uri,label\na.jpg,"cat"x\n', "line 2: "),
        ("uri,label\na.jpg,c\x07t\n", 'line 2: "label" holds control characters'),
        (b"uri,label\na.jpg,caf\xe9\n", "line 2: not UTF-8"),
        ("uri,label\n" + "x" * 200_000 + ",cat\n", 'line 2: "uri" has 200000 characters, at most'),
        ('uri,label\na.jpg,"two\nlines"\n', 'line 3: "label" holds control characters'),
    ],
)
def test_mistakes_in_csv(folder, text, message):
    with pytest.raises(DataError, match=message.replace("(", r"\(").replace(".", r"\.")) as caught:
        rows(table(folder / "t.csv", text))
    assert str(folder / "t.csv") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"uri": "a", "label": "b"}\n{"uri": "a"', "line 2: not JSON"),
        ('{"uri": "a"}', 'line 1: no column "label"; the columns are "uri"'),
        ('{"uri": "a", "label": null}', 'line 1: no "label"'),
        ('["a", "b"]', "line 1: expected"),
        ('{"uri": 3, "label": "b"}', 'line 1: "uri" is 3, expected text'),
        ('{"uri": "a", "label": true}', 'line 1: "label" is true, expected text in quotes or a whole number'),
        ('{"uri": "a", "label": 1.0}', 'line 1: "label" is 1.0, expected text'),
        ('{"uri": "a", "label": NaN}', 'line 1: "label" is NaN, expected text'),
        ('{"uri": "a", "label": "b", "split": ["train"]}', 'line 1: "split" is'),
        ('{"uri": "a", "label": "\\ud800"}', 'line 1: "label" holds'),
        ('{"uri": "a", "label": "b", "split": "vald"}', 'line 1: split "vald" is none of'),
        ("[" * 100_000, "line 1: not JSON"),
    ],
)
def test_mistakes_in_jsonl(folder, text, message):
    with pytest.raises(DataError, match=message):
        rows(table(folder / "t.jsonl", text, kind="jsonl"))


def test_missing_tables(folder):
    with pytest.raises(UsageError, match="no such file"):
        rows(open_source("csv", input_path=str(folder / "none.csv"), options={}))
    with pytest.raises(UsageError, match="is a folder"):
        rows(open_source("csv", input_path=str(folder / "photos"), options={}))
    (folder / "metadata.csv").write_text("file_name,label\n")
    with pytest.raises(UsageError, match=f"is a folder; .*, perhaps --input={folder}/metadata.csv"):
        rows(open_source("csv", input_path=str(folder), options={}))
    (folder / "t.dat").write_text("uri,label\n")
    with pytest.raises(UsageError, match=r"a table of what kind\? Give --source=csv, jsonl, parquet"):
        rows(open_source("table", input_path=str(folder / "t.dat"), options={}))


def test_a_hundred_thousand_rows_list_quickly(folder):
    lines = "".join(f"http://x.example/{i},class{i % 10}\n" for i in range(100_000))
    source = table(folder / "t.csv", "uri,label\n" + lines)
    start = time.process_time()
    assert sum(1 for _ in source.items()) == 100_000
    assert time.process_time() - start < 10
