"""Writes the tables of all images, kept and refused, into a version (`rows-*.parquet`), and reads them back.

They are for people (pandas, DuckDB: `SELECT * FROM 'rows-*.parquet'`) and the next build's memory of what it need not
decode. A part a shard, and some for the refused; which ones count for another build is said by the inspection's name.
"""

from __future__ import annotations

import io
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from beam_jobs.elements import Finding, Item, Reject, Row
from pipeline.format import storage
from pipeline.format.parquet import parquet_source
from pipeline.format.rows import is_table
from pipeline.images.facts import ImageFacts
from pipeline.images.policy import Reject as Refusal
from pipeline.images.policy import RejectCode

REFUSED = "refused"  # in the name of a table, where others have their split
_INSPECTION = b"inspection"
# Column → its Arrow type.
_COLUMNS = {
    "uri": "string",
    "label": "string",
    "official_split": "string",
    "split": "string",
    "reason": "string",
    "detail": "string",
    "group": "binary",
    "stamp": "string",
    "bytes": "int64",
    "sha256": "binary",
    "pixel_sha256": "binary",
    "height": "int32",
    "width": "int32",
    "channels": "int32",
    "format": "string",
    "keeps_bytes": "bool",
    "perceptual_hash": "binary",
    "brightness": "float64",
    "sharpness": "float64",
}
_FACT_NAMES = list(_COLUMNS)[list(_COLUMNS).index("sha256") :]
_FACTS = operator.attrgetter(*_FACT_NAMES)
_NO_FACTS = (None,) * len(_FACT_NAMES)


def table_name(split: str, number: int, count: int) -> str:
    """Names a table: `rows-train-00000-of-00008.parquet`."""
    return f"{tables_of(split)}{number:05d}-of-{count:05d}.parquet"


def tables_of(split: str) -> str:
    """Returns what the names of a split's tables begin with."""
    return f"rows-{split}-"


def tables(directory: str) -> list[str]:
    """Lists the names of a version's tables; none where it cannot be listed."""
    try:
        return [entry.name for entry in storage.list_folder(directory) if is_table(entry.name)]
    except OSError:
        return []


def _values(element: Row | Reject) -> tuple[Any, ...]:
    """Lists an image's values in the order of `_COLUMNS`."""
    item, facts = element.item, element.facts
    outcome: tuple[Any, ...]
    if isinstance(element, Reject):
        outcome = None, element.code, element.detail.encode("utf-8", "backslashreplace").decode(), None
    else:
        outcome = element.split, None, None, element.group.name
    found = _NO_FACTS if facts is None else _FACTS(facts)
    digests = (digest and bytes.fromhex(digest) for digest in found[:2])
    return (item.uri, item.label, item.split, *outcome, item.stamp, element.size, *digests, *found[2:])


def table_bytes(elements: Sequence[Row | Reject], *, inspection: str) -> bytes:
    """Makes a table; the same elements in the same order give the same bytes."""
    import pyarrow as pa  # not above: most steps need none, and it takes 40 MB
    import pyarrow.parquet as pq

    schema = pa.schema([(name, getattr(pa, "bool_" if kind == "bool" else kind)()) for name, kind in _COLUMNS.items()])
    columns = list(zip(*map(_values, elements), strict=True)) or [()] * len(_COLUMNS)
    table = pa.table(
        dict(zip(_COLUMNS, columns, strict=True)), schema=schema.with_metadata({_INSPECTION: inspection.encode()})
    )
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _finding(fields: dict[str, Any]) -> Finding | None:
    """Returns what inspection had found; None for an image that could not be read."""
    result: ImageFacts | Refusal
    if fields["bytes"] is None:
        return None
    if fields["sha256"] is None:
        result = Refusal(code=RejectCode(fields["reason"]), detail=fields["detail"])
    else:
        digests = {name: fields[name].hex() for name in ("sha256", "pixel_sha256")}
        result = ImageFacts(**digests, **{name: fields[name] for name in _FACT_NAMES[2:]})
    return Finding(uri=fields["uri"], stamp=fields["stamp"], size=fields["bytes"], result=result)


def read_names(path: str) -> Iterator[tuple[str, bytes | None]]:
    """Reads (URI, id) of the images in a table; None for the id where it is not known. Raises OSError."""
    import pyarrow.parquet as pq

    table = pq.read_table(parquet_source(storage.read(path)), columns=["uri", "stamp", "sha256"])
    for batch in table.to_batches(4_096):
        for row in batch.to_pylist():
            yield row["uri"], Item(uri=row["uri"], label="", stamp=row["stamp"]).raw_id or row["sha256"]


def read_table(path: str, *, inspection: str) -> Iterator[Finding]:
    """Reads the findings of a table; none where it was made under another policy, or is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(parquet_source(storage.read(path)))
        if (table.schema.metadata or {}).get(_INSPECTION) != inspection.encode():
            return
        found: Iterable[Finding | None] = [
            _finding(row) for batch in table.to_batches(4_096) for row in batch.to_pylist()
        ]
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
        return
    yield from filter(None, found)
