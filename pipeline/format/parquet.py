"""Gives Parquet files that lie in memory to Arrow. Free of TensorFlow."""

from __future__ import annotations

from typing import Any


def parquet_source(data: bytes) -> Any:
    """Copies a file into memory of Arrow's own, to be read by `pyarrow.parquet`.

    What Arrow reads from Python's objects it gives back in threads of its own, which need the interpreter for it: where
    that is just ending, they abort the process ("terminate called without an active exception"), its work done.

    Args:
      data: the file.

    Returns:
      a `pyarrow.BufferReader`.
    """
    import pyarrow as pa  # not above: it takes 40 MB

    sink = pa.BufferOutputStream()
    sink.write(data)
    return pa.BufferReader(sink.getvalue())
