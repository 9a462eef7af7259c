"""Counts what a recipe is to be trained on: a dataset's own images, or those that the recipe was published with."""

from __future__ import annotations

import dataclasses

from pipeline.command import UsageError
from pipeline.format.manifest import TEST, TRAIN, VALIDATION, DatasetVersion, Manifest, Shard
from trainer.recipes.load import facts_of
from trainer.recipes.recipe import DataFacts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Holds the sizes of a dataset.

    Attributes:
      train: images that are trained on.
      validation: images that every epoch is validated on.
      classes: labels.
      side: pixels of the longer side of the images.
      origin: where the counts come from, for the report.
      others: images of further splits.
    """

    train: int
    validation: int
    classes: int
    side: int
    origin: str
    others: int = 0

    def __post_init__(self) -> None:
        if self.train < 1:
            raise UsageError(f"--num_train={self.train}: a recipe trains on one image at least")
        if self.classes < 2:
            raise UsageError(f"--num_classes={self.classes}: a classifier needs two classes or more")

    @property
    def facts(self) -> DataFacts:
        return DataFacts(num_train=self.train, num_classes=self.classes, max_side=self.side)

    def manifest(self) -> Manifest:
        """Makes up the manifest of a dataset of as many images, as large as they may be."""
        counts = {TRAIN: self.train, VALIDATION: self.validation, TEST: self.others}
        return Manifest(
            name="assumed",
            version="0.0.0",
            labels=tuple(map(str, range(self.classes))),
            splits={name: (Shard(name=name, examples=count, bytes=0, sha256=""),) for name, count in counts.items()},
            source_fingerprint="",
            build={},
            code_version="",
            max_height=self.side,
            max_width=self.side,
        )


_CIFAR = Counts(train=50_000, validation=0, classes=10, side=32, origin="CIFAR-10's counts", others=10_000)
_PETS = Counts(train=1850, validation=1850, classes=37, side=500, origin="Oxford-IIIT Pet's counts")
_PUBLISHED = {
    "cifar10_efficientnet": _CIFAR,
    "cifar10_cnn": dataclasses.replace(_CIFAR, train=40_000, validation=10_000),
    "oxford_pets_resnet": _PETS,
    "oxford_pets_resnet50": _PETS,
    "big_cats_vgg16": Counts(train=600, validation=200, classes=4, side=500, origin="the published counts"),
    "scraped_vgg16": Counts(train=3240, validation=810, classes=9, side=500, origin="the published counts"),
}
# tf_flowers, split 0.8/0.1/0.1
_FLOWERS = Counts(train=2936, validation=367, classes=5, side=500, origin="the counts of tf_flowers")


def published_counts(recipe: str) -> Counts:
    """Returns the counts of the recipe's own dataset; of a set of 3,670 flowers for recipes for one's own photos."""
    return _PUBLISHED.get(recipe, _FLOWERS)


def counts_of(data: DatasetVersion) -> Counts:
    """Returns a dataset's own counts; DataError if there is nothing to train on."""
    facts, manifest = facts_of(data), data.manifest
    return Counts(
        train=facts.num_train,
        validation=manifest.num_examples(VALIDATION) if VALIDATION in manifest.splits else 0,
        classes=facts.num_classes,
        side=facts.max_side,
        origin=str(data.path),
    )
