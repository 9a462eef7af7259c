r"""Compiles a recipe's own training step for a TPU, without one: does it fit, how fast can it be, what will it cost.

    python -m trainer.preflight --recipe=photos --topology=v5e:2x4
    python -m trainer.preflight --recipe=cifar10_efficientnet --topology=v5litepod-8 --data=DATA --set=batch_size=2048

Needs jax and libtpu (`pip install '.[preflight]'`), beside TensorFlow or in a Python of their own (--jax_python). The
first answer takes minutes, as the compiler does; a repeat is read from the cache.

Exit codes: 0 it compiles and fits · 64 a flag is wrong, or the recipe does not fit or compile as it is · 65 the data
cannot be trained on · 70 the compiler failed.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from absl import flags

from pipeline.command import ExitCode, UsageError, run_command
from pipeline.format.manifest import DatasetVersion, open_dataset
from trainer.devices.chips import spare_metadata_server
from trainer.devices.tpus import parse_topology
from trainer.preflight import cache as caching
from trainer.preflight.compiling import Compiler
from trainer.preflight.findings import Report
from trainer.preflight.report import lines

FLAGS = flags.FLAGS
flags.DEFINE_string("recipe", "photos", "Name of a recipe in trainer/recipes, or the config.json of a run.")
flags.DEFINE_string("topology", None, "The slice: v4, v5e, v5p or v6e with a shape (v5e:2x4), or v5litepod-8, v4-8 …")
flags.DEFINE_string("data", None, "Dataset root; gives the counts and is what the input pipeline is measured on.")
flags.DEFINE_integer("num_train", None, "Training images, where there is no --data yet.", lower_bound=1)
flags.DEFINE_integer("num_classes", None, "Labels, where there is no --data yet.", lower_bound=2)
flags.DEFINE_string("backbone", None, "Another backbone than the recipe's own, e.g. efficientnet_b5.")
flags.DEFINE_multi_string("set", [], "Overrides a value of the recipe: --set=batch_size=1024 (repeatable).")
flags.DEFINE_bool("search", True, "Look for the largest batch that fits; takes two or three more compiles.")
flags.DEFINE_string("jax_python", sys.executable, "Python interpreter that has jax and libtpu.")
flags.DEFINE_string("cache", str(caching.default_directory()), "Directory of kept results; empty keeps none.")


def _key(compiler: Compiler, data: DatasetVersion | None) -> dict[str, object]:
    """Returns all that the report depends on. Computed without TensorFlow, so that a repeat is instant."""
    recipe = FLAGS.recipe
    root = pathlib.Path(__file__).resolve().parents[2]
    packages = [root / "pipeline", root / "trainer"]
    return {
        "recipe": pathlib.Path(recipe).read_text()
        if recipe.endswith(".json") and pathlib.Path(recipe).exists()
        else recipe,
        "topology": FLAGS.topology,
        "data": [str(data.path), data.manifest.source_fingerprint] if data else None,
        "flags": [FLAGS.num_train, FLAGS.num_classes, FLAGS.backbone, FLAGS.set, FLAGS.search],
        "versions": {**caching.installed(), **compiler.versions},
        "code": caching.code_digest(packages),
    }


def main(arguments: list[str]) -> int:
    del arguments
    target = parse_topology(FLAGS.topology)
    data = open_dataset(FLAGS.data) if FLAGS.data else None
    if data and (FLAGS.num_train or FLAGS.num_classes):
        raise UsageError("--num_train and --num_classes are for when there is no --data; leave them out")
    cache = caching.Cache(pathlib.Path(FLAGS.cache).expanduser() if FLAGS.cache else None)
    compiler = Compiler(FLAGS.jax_python, target, cache)
    key = _key(compiler, data)
    if stored := cache.get(key):
        report = Report.from_dict(stored)
    else:
        spare_metadata_server()
        from trainer.preflight.examine import examine  # imports TensorFlow

        report = examine(
            recipe_name=FLAGS.recipe,
            backbone=FLAGS.backbone,
            settings=FLAGS.set,
            data=data,
            num_train=FLAGS.num_train,
            num_classes=FLAGS.num_classes,
            target=target,
            compiler=compiler,
            search=FLAGS.search,
        )
        if all(step.compiled.final for step in report.steps):
            cache.put(key, dataclasses.asdict(report))
    for line in lines(report, target):
        print(line)
    return ExitCode.DONE if report.fits else ExitCode.USAGE


if __name__ == "__main__":
    flags.mark_flag_as_required("topology")
    run_command(main)
