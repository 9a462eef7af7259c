"""Says what a question is about, and counts what it is to be trained on. Free of TensorFlow.

That is a dataset's own images, or those that the recipe was published with.
"""

from __future__ import annotations

import dataclasses

from pipeline.command import UsageError
from pipeline.format.manifest import TEST, TRAIN, VALIDATION, DatasetVersion, Manifest, Shard
from trainer.preflight.question import Question
from trainer.recipes.load import adjust, facts_of, load_recipe, named_backbone
from trainer.recipes.recipe import DataFacts, Recipe


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


def asked_for(question: Question) -> tuple[Recipe, Counts]:
    """Returns the recipe that a question is about, before it is fitted to the slice, and what it is trained on.

    Raises:
      UsageError: no such recipe, backbone or setting.
      DataError: nothing to train on.
    """
    data = question.data
    counts = counts_of(data) if data else _assumed(question.recipe, question.num_train, question.num_classes)
    backbone = named_backbone(question.recipe, question.backbone, question.settings)
    recipe = load_recipe(question.recipe, counts.facts, backbone=backbone)
    return adjust(recipe, question.settings), counts


def _assumed(recipe_name: str, num_train: int | None, num_classes: int | None) -> Counts:
    counts = published_counts(recipe_name)
    if num_train is None and num_classes is None:
        return dataclasses.replace(counts, origin=f"{counts.origin}; --data or --num_train and --num_classes say yours")
    return dataclasses.replace(
        counts,
        train=counts.train if num_train is None else num_train,
        validation=counts.validation if num_train is None else 0,
        classes=counts.classes if num_classes is None else num_classes,
        origin="as the flags say",
    )


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
