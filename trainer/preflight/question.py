"""Holds what preflight is asked, and what its answer depends on. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from pipeline.format.manifest import DatasetVersion
from trainer.devices.tpus import Slice
from trainer.preflight.cache import installed
from trainer.preflight.fingerprint import digest_of

_HERE = pathlib.Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
SEARCH = 2  # compiles: one where a guess leads, one to verify

# Recipe and slice of the questions whose answers come with the package.
COMMON = tuple(
    (recipe, topology)
    for recipe in ("cifar10_cnn", "photos", "quick", "cifar10_efficientnet", "oxford_pets_resnet", "big_cats_vgg16",
                   "scraped_vgg16")
    for topology in ("v5e:2x4", "v6e:2x4", "v4:2x2x1", "v5p:2x2x1")
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """Asks about a recipe on a slice.

    Attributes:
      recipe: as in `--recipe`.
      target: the slice.
      backbone: another one than the recipe's own, or None.
      settings: overrides, as in `--set`.
      data: a dataset, or None: then `num_train` and `num_classes`, or the counts that the recipe was published with.
      num_train: training images, or None.
      num_classes: labels, or None.
      search: compiles that may be spent on looking for the largest batch.
    """

    recipe: str
    target: Slice
    backbone: str | None = None
    settings: tuple[str, ...] = ()
    data: DatasetVersion | None = None
    num_train: int | None = None
    num_classes: int | None = None
    search: int = SEARCH

    def key(self) -> dict[str, Any]:
        """Returns all that the answer depends on, in seconds, as it takes no TensorFlow.

        The program's own digest would be exact, but takes a trace of the model. Instead: the code that makes the
        program and reads what the compiler says, the versions of what traces it, and the question. Which compiler
        answered is no part of it: the answer says so.
        """
        recipe = pathlib.Path(self.recipe)
        given = recipe.suffix in (".json", ".py") and recipe.exists()
        own = _ROOT / "trainer" / "recipes" / f"{self.recipe}.py"
        start = [_HERE / "examine.py", _HERE / "worker.py", *([own] if own.is_file() else [])]
        return {
            "recipe": recipe.read_text() if given else self.recipe,
            "topology": self.target.name,
            "data": [str(self.data.path), self.data.manifest.source_fingerprint] if self.data else None,
            "flags": [self.num_train, self.num_classes, self.backbone, list(self.settings), self.search],
            "versions": installed(),
            "code": digest_of(start, root=_ROOT, packages=("pipeline", "trainer")),
        }
