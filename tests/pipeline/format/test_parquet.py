"""Tests that Parquet files in memory are Arrow's alone: no thread of its needs the interpreter to give them back."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.format.parquet import parquet_source


def test_the_memory_is_arrows_own():
    data = bytes(1 << 20)
    before = pa.total_allocated_bytes()
    source = parquet_source(data)
    assert pa.total_allocated_bytes() - before >= len(data)
    assert source.read() == data


def test_a_table_is_read_as_from_a_file():
    table = pa.table({"uri": ["a", "b"], "label": [0, 1]})
    file = io.BytesIO()
    pq.write_table(table, file)
    assert pq.read_table(parquet_source(file.getvalue())).equals(table)
