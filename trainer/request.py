"""Says what a user asked a run for, and whether a run has already done exactly that. Free of TensorFlow.

A `Request` is what the flags say. `recipes.load.resolve` makes a `Recipe` of it, every value that decides what a run
computes; `rundir.settings` is that recipe as config.json holds it; a `Plan` is the recipe with its data and place.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping

from absl import flags

from pipeline.format import storage
from pipeline.format.manifest import DatasetVersion

flags.disclaim_key_flags()  # what `define_flags` defines is its caller's, for --help

STRATEGIES = ("auto", "tpu", "mirrored", "multiworker", "cpu")  # what `--strategy` takes
CACHES = ("auto", "none", "bytes", "pixels", "disk", "device")  # what `--cache` takes: those of pipeline.reader
FINISHED = "_SUCCESS"  # written last: its presence says that the run is whole


def define_flags() -> None:
    """Defines the flags that a request consists of; for commands, which alone have flags."""
    flags.DEFINE_string("data", None, "Dataset root (or one version directory) written by beam_jobs.build_tfrecords.")
    flags.DEFINE_string(
        "recipe",
        "photos",
        "Name of a recipe in trainer/recipes, a file of one's own like those, e.g. ./mine.py, or the config.json of an "
        "earlier run.",
    )
    flags.DEFINE_string(
        "backbone",
        None,
        "Another backbone than the recipe's own, e.g. efficientnet_b5, or a function of one's own that builds one with "
        "Keras: ./mine.py:function, or MODULE:function (see examples/own_code.py). trainer.main takes auto as well: "
        "the best, by cross-validated probes, of those whose ImageNet weights are on this machine.",
    )
    flags.DEFINE_string("weights", None, "imagenet, none, or the path of a weights file.")
    flags.DEFINE_string(
        "init", None, "A finished run, an export or MODELS/champion to start from: its backbone and labels' logits."
    )
    flags.DEFINE_multi_string(
        "extend", [], "Trains on, a finished run too: the last phase once more, so long, e.g. 5ep (repeatable)."
    )
    flags.DEFINE_multi_string("set", [], "Overrides a value of the recipe: --set=phases.1.lr_max=0.01 (repeatable).")
    flags.DEFINE_integer(
        "seed", 0, "Seeds data order, augmentation, dropout and the head's first weights.", lower_bound=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Holds the flags that decide what a run computes; see trainer.main for their meaning."""

    data: str
    recipe: str
    backbone: str | None
    weights: str | None
    init: str | None = None
    settings: tuple[str, ...]
    seed: int
    extend: tuple[str, ...] = ()
    skip_bad_records: bool = False

    @classmethod
    def from_flags(cls, values: flags.FlagValues) -> Request:
        """Reads the flags of `define_flags`, and --skip_bad_records where the command has it."""
        return cls(
            data=values.data,
            recipe=values.recipe,
            backbone=values.backbone,
            weights=values.weights,
            init=values.init,
            settings=tuple(values.set),
            seed=values.seed,
            extend=tuple(values.extend),
            skip_bad_records="skip_bad_records" in values and values.skip_bad_records,
        )

    def _text(self, data: DatasetVersion, own_code: Mapping[str, str]) -> str:
        content = {"version": data.manifest.version, "fingerprint": data.manifest.source_fingerprint}
        asked = dataclasses.asdict(self)
        del asked["data"]  # where it lies, which may change
        own = {"own_code": dict(own_code)} if own_code else {}
        return json.dumps({**asked, "dataset": content, **own}, indent=2, sort_keys=True) + "\n"

    def is_done(
        self, run: storage.Path, data: DatasetVersion, own_code: Callable[[], Mapping[str, str]] = dict
    ) -> bool:
        """Says whether `run` was finished by this same request on the same content; spares the import of TensorFlow.

        Args:
          run: the run's folder.
          data: the dataset.
          own_code: of users that the run rests on (`recipes.own.digests`); only asked where there is some.
        """
        file = storage.join(run, FINISHED)
        if not storage.exists(file):
            return False
        text = storage.read_text(file)
        return text == self._text(data, own_code() if '"own_code":' in text else {})

    def mark_begun(self, run: storage.Path) -> None:
        """Says that `run`, which may have been finished, is being trained."""
        storage.delete(storage.join(run, FINISHED))

    def mark_done(self, run: storage.Path, data: DatasetVersion, own_code: Mapping[str, str]) -> None:
        storage.write_atomically(storage.join(run, FINISHED), self._text(data, own_code))
