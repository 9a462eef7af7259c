"""Tests tables in Parquet, written by pyarrow."""

import json
import os
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.sources import open_source
from beam_jobs.sources.parquet_child import read_rows
from pipeline.command import DataError, UsageError

CORPUS = pathlib.Path(__file__).parents[2] / "fuzz" / "corpus" / "parquet"


def rows(path, **options):
    source = open_source("parquet", input_path=str(path), options={"download_dir": "unused", **options})
    return [(item.uri, item.label, item.split) for item in source.items()]


def write(place, /, *, metadata=None, **columns):
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata or {}), place, row_group_size=2)
    return place


def test_text_numbers_categories_and_empty_rows(tmp_path):
    path = write(
        tmp_path / "t.parquet",
        file_name=["a.jpg", "b.jpg", None, "c.jpg"],
        label=pa.array(["cat", "dog", None, "cat"]).dictionary_encode(),
        split=["Training", "val", None, None],
        embedding=[[0.5], [1.0], [], None],
    )
    expected = [("a.jpg", "cat", "train"), ("b.jpg", "dog", "validation"), ("c.jpg", "cat", None)]
    assert rows(path) == expected
    source = open_source("table", input_path=str(path), options={})
    assert [item.uri for item in source.items()] == ["a.jpg", "b.jpg", "c.jpg"]
    numbers = write(
        tmp_path / "n.parquet", path=pa.array(["a", "b"], pa.large_string()), label=pa.array([0, 7], pa.int8())
    )
    assert rows(numbers) == [("a", "0", None), ("b", "7", None)]


def test_numbered_classes_have_the_names_that_the_file_gives_them(tmp_path):
    feature = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    metadata = {"huggingface": json.dumps(feature)}
    assert [label for _, label, _ in rows(write(tmp_path / "t", metadata=metadata, path=["a", "b"], label=[1, 0]))] == [
        "dog",
        "cat",
    ]
    with pytest.raises(DataError, match="row 2: label -1 is none of the 2 classes"):
        rows(write(tmp_path / "t", metadata=metadata, path=["a", "b"], label=[1, -1]))
    assert rows(write(tmp_path / "t", metadata={"huggingface": "{"}, path=["a"], label=[1])) == [("a", "1", None)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a"], "kind": ["cat"]}, 'no column "label"; the columns are "path", "kind"'),
        ({"path": ["a", "b"], "label": [None, "cat"]}, 'row 1: no "label"'),
        ({"path": ["a"], "label": [0.5]}, 'row 1: "label" is 0.5, expected text'),
        ({"path": ["a"], "label": [True]}, 'row 1: "label" is true, expected text'),
        ({"path": ["a", "b", "a"], "label": ["x", "y", "z"]}, "row 3: a has another label or split than in row 1"),
        ({"image": [{"bytes": b"x", "path": "a"}], "label": [1]}, 'column "image" holds bytes .*--uri_column'),
        ({"image": [b"x"], "label": [1]}, 'column "image" holds bytes'),
    ],
)
def test_mistakes(tmp_path, columns, message):
    with pytest.raises(DataError, match=message) as caught:
        rows(write(tmp_path / "t.parquet", **columns))
    assert "t.parquet" in str(caught.value)


def test_what_is_no_parquet(tmp_path):
    path = write(tmp_path / "t", path=["a" * 50] * 100, label=["b"] * 100)
    whole = path.read_bytes()
    for content in (b"", b"uri,label\na,b\n", whole[:-20], whole[: len(whole) // 2] + whole[-8:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="no Parquet file, or damaged"):
            rows(path)
    path.write_bytes(whole)
    with pytest.raises(UsageError, match="always UTF-8"):
        rows(path, encoding="latin-1")


def test_a_column_that_is_too_large_to_be_read_at_once_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("beam_jobs.sources.parquet_child._MAX_COLUMN_BYTES", 1000)
    path = write(tmp_path / "t", path=["a" * 2000], label=["b"], other=["c" * 5000])
    with pytest.raises(DataError, match='column "path" takes .* bytes in one row group, at most 1000'):
        list(read_rows(str(path), {}, print))


def test_the_library_may_die_of_a_file(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes((CORPUS / "contradicting-histogram").read_bytes())
    with pytest.raises(DataError, match="t.parquet: damaged: the library that reads Parquet ends with SIGABRT"):
        rows(path)


def test_a_list_that_is_left_early_leaves_no_process(tmp_path):
    path = write(tmp_path / "t", path=[f"{number}.jpg" for number in range(30_000)], label=["x"] * 30_000)
    items = open_source("parquet", input_path=str(path), options={"download_dir": "unused"}).items()
    assert next(items).uri == "0.jpg"
    items.close()
    children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children")
    started = [pathlib.Path(f"/proc/{pid}/cmdline").read_text() for pid in children.read_text().split()]
    assert not [command for command in started if "parquet_child" in command]
