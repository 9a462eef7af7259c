"""Reads what a check is asked for. Free of TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.command import UsageError, nearest
from trainer.recipes.recipe import Recipe


def find_phase(recipe: Recipe, name: str | None) -> int:
    """Finds a phase's index by its name, the last one if None.

    Raises:
      UsageError: there is no such phase (names the nearest), or it takes no steps.
    """
    names = [phase.name for phase in recipe.phases]
    if name is not None and name not in names:
        raise UsageError(
            f"--phase={name}: recipe {recipe.name} has the phases {', '.join(names)}.{nearest(name, names)}"
        )
    index = len(names) - 1 if name is None else names.index(name)
    if recipe.phases[index].solves:
        raise UsageError(
            f"phase {names[index]} of recipe {recipe.name} solves for the head at once: it has no learning rate to be "
            f"checked, unless --set=phases.{index}.method=descent with an lr_max and a duration"
        )
    return index


def parse_rates(texts: Sequence[str]) -> list[float]:
    """Reads and sorts learning rates; UsageError if one is not a number above 0."""
    rates = []
    for text in texts:
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf"):
            raise UsageError(f"--rates: {text} is no learning rate; write numbers above 0, e.g. --rates=1e-4,3e-4,1e-3")
        rates.append(rate)
    return sorted(rates)
