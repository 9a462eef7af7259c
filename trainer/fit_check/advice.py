"""Says what a learning-rate sweep tells about a model that does not learn, in words and as flags."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence

from trainer.fit_check.sweep import Trial

_RATES = 7  # three factors of ten, half a one apart
_GRID = [float(f"{digit}e{exponent}") for exponent in range(-12, 3) for digit in (1, 3)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
    """Says what to do next.

    Attributes:
      fits: whether the model fits the sample at any of the rates.
      text: lines for a person.
      flags: for trainer.main.
    """

    fits: bool
    text: tuple[str, ...]
    flags: tuple[str, ...]


def fitting_accuracy(most_frequent: float) -> float:
    """Returns the training accuracy that counts as fitting: 95 %, and at most a tenth of the errors of guessing.

    Args:
      most_frequent: share of the most frequent label.
    """
    return max(0.95, 1 - (1 - most_frequent) / 10)


def fits(trial: Trial, fits_at: float) -> bool:
    return not trial.diverged and trial.accuracies[-1] >= fits_at


def rates_to_try(*, lowest_loss_at: float) -> list[float]:
    """Picks seven rates of the series 1, 3, 10, 30, …, the highest the first that is not below `lowest_loss_at`."""
    top = bisect.bisect_left(_GRID, lowest_loss_at) + 1
    return _GRID[max(0, top - _RATES) : top]


def with_own(rates: Sequence[float], own: float) -> list[float]:
    """Sorts the rates and puts the recipe's own (where it is not 0) among them, unless one is nearly equal."""
    known = any(math.isclose(own, rate, rel_tol=0.05) for rate in rates)
    return sorted(rates if known or not own else [*rates, own])


def next_rate(rate: float) -> float:
    """Returns the next rate of the series 1, 3, 10, 30, …"""
    return _GRID[bisect.bisect_right(_GRID, rate * 1.05)]


def best_trial(trials: Sequence[Trial], fits_at: float) -> Trial | None:
    """Picks the trial that fits first, of several that of lowest loss; if none fits, the trial of lowest loss."""
    finished = [trial for trial in trials if trial.losses and not trial.diverged]
    fitting = [trial for trial in finished if fits(trial, fits_at)]
    if fitting:
        return min(fitting, key=lambda trial: (len(trial.losses), trial.losses[-1]))
    return min(finished, key=lambda trial: trial.losses[-1], default=None)


def advise(
    trials: Sequence[Trial], *, own: float, lr_min: float, phase: int, epochs: int, images: int, most_frequent: float
) -> Advice:
    """Puts the outcome of a sweep into words and flags.

    Args:
      trials: of the sweep.
      own: the recipe's lr_max.
      lr_min: the recipe's.
      phase: index of the phase that was tried.
      epochs: the longest a trial could last.
      images: of the sample.
      most_frequent: share of the most frequent label.
    """
    fits_at = fitting_accuracy(most_frequent)
    best = best_trial(trials, fits_at)
    if best is None:
        return Advice(
            fits=False,
            text=(
                f"The loss diverges at every rate, even at {trials[0].rate:g}.",
                "Clip the gradient (--set=optimizer.clip_norm=1), and look at the images that the model gets "
                "(python -m pipeline.preview).",
            ),
            flags=("--set=optimizer.clip_norm=1",),
        )
    flags = [f"--set=phases.{phase}.lr_max={best.rate:g}"]
    if best.rate < lr_min:
        flags.append(f"--set=phases.{phase}.lr_min={best.rate / 10:g}")
    if fits(best, fits_at):
        text = _fitting(trials, best, own=own, images=images, fits_at=fits_at, flags=flags)
    else:
        text = _not_fitting(best, epochs=epochs, most_frequent=most_frequent, fits_at=fits_at, flags=flags)
    return Advice(fits=fits(best, fits_at), text=tuple(text), flags=tuple(flags))


def _fitting(
    trials: Sequence[Trial], best: Trial, *, own: float, images: int, fits_at: float, flags: Sequence[str]
) -> list[str]:
    rates = [trial.rate for trial in trials if fits(trial, fits_at)]
    where = f"at learning rates from {rates[0]:g} to {rates[-1]:g}, soonest at {best.rate:g}"
    if len(rates) == 1:
        where = f"at learning rate {best.rate:g} only"
    lines = [f"The model fits the {images} images {where} (in epoch {len(best.losses)})."]
    if any(math.isclose(rate, own, rel_tol=0.05) for rate in rates):
        lines.append(
            f"The recipe's own rate, {own:g}, is among them: where a run does not learn, it is not for its rate. "
            "Look at augmentation, dropout and the number of steps."
        )
    else:
        lines.append(f"The recipe's own rate, {own:g}, is not among them.")
    lines.append(f"Recommended: {' '.join(flags)}, with augmentation and dropout as the recipe has them;")
    lines.append("where the run then fits less well than here, take those back one by one.")
    return lines


def _not_fitting(best: Trial, *, epochs: int, most_frequent: float, fits_at: float, flags: Sequence[str]) -> list[str]:
    lines = [
        f"The model does not fit the sample at any rate: accuracy {best.accuracies[-1]:.3f} after {epochs} epochs at "
        f"{best.rate:g}, where {fits_at:.3f} is wanted and always guessing the most frequent label gives "
        f"{most_frequent:.3f}."
    ]
    halfway = best.losses[len(best.losses) // 2]
    if best.accuracies[-1] < most_frequent + 0.25 * (1 - most_frequent):
        lines.append(
            "It learns next to nothing. Are the labels right, can a person tell the images apart (python -m "
            "pipeline.preview), is nearly everything frozen (trainable of the phase), are the weights the right ones?"
        )
    if best.losses[-1] < 0.9 * halfway:
        lines.append(f"The loss was still falling: try --epochs={3 * epochs}.")
    else:
        lines.append(
            "The loss no longer falls, so more epochs will not help. Give it more to train: fewer frozen layers, "
            "--set=head.hidden=256, a larger --backbone or a larger image_size."
        )
    lines.append(f"Best so far: {' '.join(flags)}")
    return lines
