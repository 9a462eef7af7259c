"""Says before a training run what in its dataset will make the result doubtful, and the remedy."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.format.manifest import TRAIN, VALIDATION, DatasetVersion
from trainer.recipes.recipe import Recipe

_IMBALANCE = 10
_FEW_TO_VALIDATE = 100


def remarks(recipe: Recipe, data: DatasetVersion) -> Iterator[str]:
    """Yields lines for a person: labels whose numbers differ much, no validation, or hardly any."""
    manifest = data.manifest
    counts = data.label_counts(TRAIN)
    fewest, most = min(counts), max(counts)
    if most > _IMBALANCE * fewest:
        common, rare = (manifest.labels[counts.index(count)] for count in (most, fewest))
        remedies = [
            f"--set={name}={value} {effect}"
            for name, value, effect in (
                ("class_weights", "balanced", "lets labels weigh alike"),
                ("selection_metric", "balanced_accuracy", "judges them alike"),
            )
            if getattr(recipe, name) != value
        ]
        yield (
            f"{TRAIN} has {most:,} images of {common} and {fewest:,} of {rare}: rare labels may never be found"
            + "".join(f"; {remedy}" for remedy in remedies)
        )
    if VALIDATION not in manifest.splits or not manifest.num_examples(VALIDATION):
        solved = any(phase.solves for phase in recipe.phases)
        yield (
            "no validation split: nothing will tell over-fitting, which epoch is better, or the right temperature; the "
            "last weights are kept"
            + ("; of the head alone cross-validation will tell" if solved else "")
            + " (a build with --validation_fraction=0.1, or with --splits=train:0.9,validation:0.1, holds some images "
            "out)"
        )
    elif (few := manifest.num_examples(VALIDATION)) < _FEW_TO_VALIDATE:
        points = 196 * (0.9 * 0.1 / few) ** 0.5
        yield f"{few} validation images: an accuracy of 90 % on them is uncertain by {points:.0f} points either way"
