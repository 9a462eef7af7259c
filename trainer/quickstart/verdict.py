"""Decides which model is taken: the best of those on the photos as they are, if it is to replace the one before."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection

from pipeline.format import storage
from pipeline.format.manifest import TRAIN, VERSIONS_DIR, open_dataset
from pipeline.format.rows import known_images
from pipeline.predictions import from_bytes
from trainer.models.weights import LABELS_FILE
from trainer.quickstart.choice import prove
from trainer.quickstart.model import Model

Score = Callable[[Model], str]  # asks a model about the validation images of now; returns the file of its answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Says which model is to be taken, and why."""

    model: Model
    why: str


def better_of(head: Model, run: Model | None) -> Verdict:
    """Returns the fine-tuned model if the images of validation prove it to be better than its head, else the head."""
    if run is None:
        return Verdict(model=head, why=f"{head.words}; it has not been fine-tuned yet")
    proof = prove(run.answers(), head.answers())
    if proof.is_better:
        return Verdict(model=run, why=f"{run.words}, better than the head beyond chance: {proof.text}")
    return Verdict(model=head, why=f"{head.words}; {run.words} it is not better beyond chance: {proof.text}")


def successor(current: Model, found: Verdict, score: Score) -> Verdict:
    """Decides between the model that is taken now and another one that is on offer.

    Args:
      current: the one that is taken.
      found: the best of those on the photos as they are now.
      score: asks the current one about the photos of now, if it comes of others.
    """
    if current == found.model:
        return found
    return _longer(current, found) if current.version == found.model.version else _newer(current, found, score)


def _longer(current: Model, found: Verdict) -> Verdict:
    """Decides between two models of the same photos."""
    offered = found.model
    if current.is_head and current.recipe == offered.recipe:
        return found
    proof = prove(offered.answers(), current.answers())
    if (offered.is_head or current.recipe != offered.recipe) and not proof.is_better:
        why = f"{current.words} by recipe {current.recipe}; {offered.words} by {offered.recipe} it is not better beyond"
        return Verdict(model=current, why=f"{why} chance: {proof.text}")
    if proof.is_worse:
        return Verdict(model=current, why=f"{current.words}; {offered.words} it would be worse: {proof.text}")
    return Verdict(model=offered, why=f"{offered.words}, in place of {current.words}: {proof.text}")


def _newer(current: Model, found: Verdict, score: Score) -> Verdict:
    """Decides between a model of the photos before and one of the photos of now."""
    if knows_other_classes(current, found.model):
        return Verdict(model=found.model, why=f"{found.why}; the classes are others than before")
    file = score(current)
    theirs = from_bytes(storage.read(file), file=file, again="the same command, once this file is deleted,")
    proof = prove(found.model.answers(), theirs, without=_learnt(current))
    if proof.is_worse:
        return Verdict(model=current, why=f"that of the photos before, as the new one would be worse: {proof.text}")
    return Verdict(model=found.model, why=f"{found.why}; in place of that of the photos before: {proof.text}")


def knows_other_classes(one: Model, other: Model) -> bool:
    """Says whether two models know different classes."""
    first, second = (storage.read_text(os.path.join(model.export, LABELS_FILE)).split("\n") for model in (one, other))
    return set(first) != set(second)


def _learnt(model: Model) -> Collection[str]:
    """Returns the ids of the images that a model was trained on, as far as its dataset is still there."""
    version = os.path.join(model.place.data, VERSIONS_DIR, model.version)
    return frozenset(known_images(open_dataset(version), split=TRAIN).ids) if os.path.isdir(version) else ()
