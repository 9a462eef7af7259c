"""Holds what the user asked for: the settings of a build, and which of them decide what the dataset holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import PIL
from PIL import features

from beam_jobs.corrections import Corrections
from beam_jobs.download.policy import DownloadPolicy
from beam_jobs.splits import SplitFractions
from pipeline.images import jpeg
from pipeline.images.encode import SHRINKING
from pipeline.images.guarded import ImageBudget
from pipeline.images.pixels import FORMATS
from pipeline.images.policy import PixelPolicy

# Part of every build's key: to be raised when the same input and flags give other shards than before.
FORMAT = 2
# Part of an inspection's name: to be raised when `facts.inspect` answers differently for the same bytes.
INSPECTION_VERSION = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Holds what the user asked for; the fields up to `max_reject_fraction` decide what the dataset holds.

    Attributes:
      source_name: the value of --source.
      name: of the dataset.
      fractions: of the splits.
      split_by: "rank" or "hash".
      near_duplicates: "keep", "drop" or "group"; see duplicates.py.
      validation_fraction: part of the official training images of each class that becomes validation where the source
        has none.
      seed: of the split.
      policy: what is accepted and what a record looks like.
      max_reject_fraction: above this part of refused images nothing is published.
      output: the dataset root.
      keep_versions: versions to keep, or None for all.
      download: how URLs are downloaded.
      small_classes: what becomes of classes with fewer distinct images than splits: "refuse" ends the build, "train"
        puts them into train, "drop" leaves them out; decides, like the first fields, what the dataset holds.
      splits_given: whether the user has named `fractions`, and wants to hear if they do not apply.
      workers_share_disk: whether an engine's workers see this machine's paths.
      budget: what decoding one image may take; decides, like `policy`, what is refused.
      corrections: what a person decided about single images; decides, too, what the dataset holds.
    """

    source_name: str
    name: str
    fractions: SplitFractions
    split_by: str
    near_duplicates: str
    validation_fraction: float
    seed: int
    policy: PixelPolicy
    max_reject_fraction: float
    output: str
    keep_versions: int | None = None
    download: DownloadPolicy = dataclasses.field(default_factory=DownloadPolicy)
    small_classes: str = "refuse"
    splits_given: bool = False
    workers_share_disk: bool = False
    budget: ImageBudget = dataclasses.field(default_factory=ImageBudget)
    corrections: Corrections = dataclasses.field(default_factory=Corrections)

    def content(self) -> dict[str, Any]:
        """Lists the settings that decide what the dataset holds, for the manifest and the build's key."""
        return {
            "format": FORMAT,
            "source": self.source_name,
            "name": self.name,
            "splits": str(self.fractions),
            "split_by": self.split_by,
            "near_duplicates": self.near_duplicates,
            "validation_fraction": self.validation_fraction,
            "small_classes": self.small_classes,
            "seed": self.seed,
            "max_reject_fraction": self.max_reject_fraction,
            **{f"budget.{key}": value for key, value in dataclasses.asdict(self.budget).items()},
            **({"corrections": self.corrections.digest} if self.corrections.digest else {}),
            **self.encoding(),
        }

    def encoding(self) -> dict[str, Any]:
        """Lists the settings that decide the bytes of an encoded image; another encoder is another setting."""
        policy = {f"policy.{key}": value for key, value in dataclasses.asdict(self.policy).items()}
        shrinking = f", {SHRINKING.name.lower()}" if self.policy.max_side else ""
        png = f", zlib {features.version('zlib')}" if self.policy.lossless else ""
        return {**policy, "encoder": f"Pillow {PIL.__version__}, libjpeg {features.version('jpg')}{shrinking}{png}"}

    def inspection(self) -> str:
        """Names the policy, the budget, the inspector and the decoders: findings of others do not count."""
        decoders = [INSPECTION_VERSION, PIL.__version__, jpeg.DECODER_VERSION, FORMATS]
        limits = [dataclasses.asdict(self.policy), dataclasses.asdict(self.budget)]
        text = json.dumps([*decoders, *limits], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
