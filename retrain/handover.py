"""Judges whether a challenger can take the champion's place in service, by what `trainer.verify` found.

Its forms must answer as the trained model did, to programs that have nothing of this project; it may be neither much
slower nor much larger than the champion; and what must stay right must stay right: photos that the configuration names,
and the champion's golden images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from retrain.limits import GateConfig

# A weak model's surest answers are not sure: an equally good one misses two of 24 in 93 % of the draws where half of
# all answers are right (`benchmarks.model_gate`). So they are missed too often only where others are missed less often.
_LEAST_MISSED, _LEVEL = 2, 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Handover:
    """Says whether a challenger can serve.

    Attributes:
      refused: sentences for people, one for each reason against it.
      told: sentences for people, for information.
      figures: for the decision log.
    """

    refused: Sequence[str]
    told: Sequence[str]
    figures: Mapping[str, Any]


def judge_handover(
    found: Mapping[str, Any], truth: Mapping[str, str], config: GateConfig, *, lost: float = 0.0
) -> Handover:
    """Judges what `trainer.verify` wrote.

    Args:
      found: its JSON.
      truth: id → name of the label, of all images that there are now. A golden image that is gone, or has another label
        now, is none any more.
      config: the limits.
      lost: share of the test images that the champion answers rightly and the challenger does not.
    """
    refused = [f"exported {form['form']}: {form['problem']}" for form in found["forms"] if form["problem"]]
    told, figures = [], {"forms": found["forms"]}
    refused += _wrong(found.get("asked", []), "a photo that must stay right")
    golden = [image for image in found.get("golden", []) if truth.get(image["id"]) == image["label"]]
    if golden:
        missed = _wrong(golden, "a golden image of the champion")
        figures["golden"] = {"images": len(golden), "missed": len(missed)}
        if too_many(len(missed), len(golden), lost):
            refused += missed
        else:
            told += [f"{one}, for information" for one in missed]
    for name, values, limit, unit, by in (
        ("latency", found.get("milliseconds"), config.latency, "ms an image", 1),
        ("size", found.get("bytes"), config.size, "MB", 1e6),
    ):
        if values:
            new, old = (value / by for value in values)
            figures[name] = {"challenger": new, "champion": old}
            text = f"{name}: {new:.1f} {unit}, the champion's {old:.1f}"
            if new > limit * old:
                enough = math.ceil(10 * new / old) / 10
                refused.append(f"{text}: more than {limit:g} times as much; if meant, gate.{name}: {enough:g}")
            else:
                told.append(f"{text}, for information")
    return Handover(refused=refused, told=told, figures=figures)


def too_many(missed: int, golden: int, lost: float) -> bool:
    """Says whether golden images are missed more often than others, by more than chance (exact binomial test)."""
    tail = sum(math.comb(golden, k) * lost**k * (1 - lost) ** (golden - k) for k in range(missed, golden + 1))
    return missed >= _LEAST_MISSED and tail <= _LEVEL


def _wrong(images: Sequence[Mapping[str, str]], what: str) -> list[str]:
    return [
        f"{what} is answered wrongly: {image['file']}, {image['label']}, is {image['predicted'] or 'not read'} to it"
        for image in images
        if image["label"] != image["predicted"]
    ]
