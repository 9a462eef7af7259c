"""Holds what a model answered to images that it was evaluated on, in its export: `reference.npz`. NumPy only.

What it is asked in service is compared with these by `retrain.drift`, wherever the dataset is by then.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.command import DataError, first_line
from pipeline.format import storage

REFERENCE_FILE = "reference.npz"
_FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Holds answers to N images that were drawn at random from a split.

    Attributes:
      dataset: its name and version.
      split: name.
      labels: of the model, C, in order.
      truth: int [N], the true labels; −1 where the model does not know the label.
      probabilities: float32 [N, C].
      features: float32 [N, F], of the layer before the head; kept as float16. None of a model that does not give them.
      facts: name → float64 [N], see `KnownImages.facts`; only what images in service can be compared by.
    """

    dataset: str
    split: str
    labels: Sequence[str]
    truth: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray | None
    facts: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        count = len(self.truth)
        columns = [*self.facts.values(), *([] if self.features is None else [self.features])]
        if self.probabilities.shape != (count, len(self.labels)) or any(len(column) != count for column in columns):
            raise ValueError(
                f"{count} true labels and {len(self.labels)} names do not go with probabilities "
                f"{self.probabilities.shape} and {[column.shape for column in columns]}"
            )

    def to_bytes(self) -> bytes:
        """Returns the file's content; equal references give equal bytes."""
        arrays = {
            "format": np.array(_FORMAT),
            "dataset": np.array(self.dataset, str),
            "split": np.array(self.split, str),
            "labels": np.array(self.labels, str),
            "truth": self.truth.astype(np.int32),
            "probabilities": self.probabilities.astype(np.float32),
            "fact_names": np.array(list(self.facts), str),
            "facts": np.array(list(self.facts.values()), np.float64).reshape(len(self.facts), len(self.truth)),
        }
        if self.features is not None:
            arrays["features"] = half(self.features)
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        return content.getvalue()


def half(features: np.ndarray) -> np.ndarray:
    """Returns features as float16, the few that it cannot hold as the largest that it can."""
    largest = float(np.finfo(np.float16).max)
    return np.clip(features, -largest, largest).astype(np.float16)


def read_reference(export: storage.Path) -> Reference | None:
    """Reads the reference of an export; None where it has none.

    Raises:
      DataError: it is damaged.
    """
    file = storage.join(export, REFERENCE_FILE)
    try:
        content = storage.read(file)
    except FileNotFoundError:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            if int(arrays["format"]) != _FORMAT:
                raise ValueError(f"of format {int(arrays['format'])}, which this version does not know")
            return Reference(
                dataset=str(arrays["dataset"]),
                split=str(arrays["split"]),
                labels=tuple(arrays["labels"].tolist()),
                truth=arrays["truth"],
                probabilities=arrays["probabilities"],
                features=arrays["features"].astype(np.float32) if "features" in arrays else None,
                facts=dict(zip(arrays["fact_names"].tolist(), arrays["facts"], strict=True)),
            )
    except Exception as error:  # zipfile and NumPy have a dozen ways to refuse bytes
        fix = "python -m trainer.export with the run makes an export anew"
        raise DataError(f"{file}: damaged ({first_line(error)}); {fix}") from error
