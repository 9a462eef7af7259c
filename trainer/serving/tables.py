"""Writes answers of a model as tables: CSV, JSON lines, Parquet, and a page with pictures."""

from __future__ import annotations

import abc
import collections
import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

from pipeline.pages.environment import environment
from pipeline.pages.pictures import data_uri
from trainer.serving.predict import Answer

UNSURE = "unsure"  # in place of a label
_ROWS_AT_ONCE = 1_000
_PICTURES = 1_000  # of a page: more, and a browser takes long to open it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """Says what is told of each image.

    Attributes:
      labels: names of the C labels.
      top: how many labels, the likeliest first.
      threshold: below which probability there is no answer but `UNSURE`.
      features: whether its features are told.
    """

    labels: Sequence[str]
    top: int = 1
    threshold: float = 0.0
    features: bool = False

    def ranked(self, answer: Answer) -> list[tuple[str, float]]:
        """Returns the likeliest labels and their probabilities."""
        order = (-answer.probabilities).argsort(kind="stable")[: self.top]
        return [(self.labels[at], float(answer.probabilities[at])) for at in order]

    def label(self, answer: Answer) -> str:
        """Returns the answer: the likeliest label, or that the model is unsure."""
        label, probability = self.ranked(answer)[0]
        return label if probability >= self.threshold else UNSURE


class Table(abc.ABC):
    """Takes answers, row by row."""

    @abc.abstractmethod
    def add(self, answer: Answer) -> None:
        """Adds an image that there is an answer for."""

    def close(self) -> None:  # noqa: B027 - most have nothing left to write
        """Writes what is left."""


def open_table(kind: str, file: IO[bytes], wanted: Wanted) -> Table:
    """Begins a table of a kind, see `TABLES`, in a binary file."""
    return TABLES[kind](file, wanted)


class _Csv(Table):
    """Writes file, label, probability, and for more labels label_2, probability_2 and so on."""

    def __init__(self, file: IO[bytes], wanted: Wanted) -> None:
        self._wanted = wanted
        # Names of files may be no UTF-8.
        self._text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", line_buffering=True)
        self._writer = csv.writer(self._text, lineterminator="\n")
        more = [f"{name}_{rank}" for rank in range(2, wanted.top + 1) for name in ("label", "probability")]
        self._writer.writerow(["file", "label", "probability", *more, *(["likeliest"] if wanted.threshold else [])])

    def add(self, answer: Answer) -> None:
        ranked = self._wanted.ranked(answer)
        cells = [cell for label, probability in ranked for cell in (label, f"{probability:.6f}")]
        likeliest = [ranked[0][0]] if self._wanted.threshold else []
        cells += [""] * (2 * self._wanted.top - len(cells))
        self._writer.writerow([answer.name, self._wanted.label(answer), *cells[1:], *likeliest])

    def close(self) -> None:
        self._text.detach()


def _row(answer: Answer, wanted: Wanted) -> dict[str, Any]:
    ranked = wanted.ranked(answer)
    row: dict[str, Any] = {"file": answer.name, "label": wanted.label(answer), "probability": ranked[0][1]}
    if wanted.threshold or wanted.top > 1:
        row["top"] = [{"label": label, "probability": probability} for label, probability in ranked]
    if wanted.features and answer.features is not None:
        row["features"] = [float(f"{value:.6g}") for value in answer.features.tolist()]
    return row


class _Lines(Table):
    """Writes a JSON object a line."""

    def __init__(self, file: IO[bytes], wanted: Wanted) -> None:
        self._file, self._wanted = file, wanted

    def add(self, answer: Answer) -> None:
        line = json.dumps(_row(answer, self._wanted), ensure_ascii=False)
        # A name that is no UTF-8 is escaped, as JSON's surrogates.
        self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")
        self._file.flush()


class _Parquet(Table):
    """Writes the same columns as JSON lines have."""

    def __init__(self, file: IO[bytes], wanted: Wanted) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        ranked = pa.struct([("label", pa.string()), ("probability", pa.float32())])
        columns = [("file", pa.string()), ("label", pa.string()), ("probability", pa.float32())]
        columns += [("top", pa.list_(ranked))] if wanted.threshold or wanted.top > 1 else []
        columns += [("features", pa.list_(pa.float32()))] if wanted.features else []
        self._schema, self._wanted = pa.schema(columns), wanted
        self._writer = pq.ParquetWriter(file, self._schema)
        self._rows: list[dict[str, Any]] = []

    def add(self, answer: Answer) -> None:
        row = _row(answer, self._wanted)
        self._rows.append(row | {"file": row["file"].encode("utf-8", "backslashreplace").decode()})
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()


class _Page(Table):
    """Writes a page of pictures, label by label, the least sure first."""

    def __init__(self, file: IO[bytes], wanted: Wanted) -> None:
        self._file, self._wanted = file, wanted
        self._counts: collections.Counter[str] = collections.Counter()
        self._shown: list[dict[str, Any]] = []

    def add(self, answer: Answer) -> None:
        label = self._wanted.label(answer)
        self._counts[label] += 1
        if len(self._shown) < _PICTURES:
            ranked = self._wanted.ranked(answer)
            self._shown.append({"name": answer.name, "label": label, "ranked": ranked, "uri": data_uri(answer.encoded)})

    def close(self) -> None:
        by_label: dict[str, list[dict[str, Any]]] = {label: [] for label, _ in self._counts.most_common()}
        for one in sorted(self._shown, key=lambda one: one["ranked"][0][1]):
            by_label[one["label"]].append(one)
        page = environment(__package__).get_template("answers.html.j2")
        context = {"labels": by_label, "counts": self._counts, "total": self._counts.total(), "shown": len(self._shown)}
        self._file.write(page.render(context).encode("utf-8", "backslashreplace"))


TABLES: Mapping[str, type[_Csv] | type[_Lines] | type[_Parquet] | type[_Page]] = {
    "csv": _Csv,
    "jsonl": _Lines,
    "parquet": _Parquet,
    "html": _Page,
}
