r"""Compiles a recipe's own training step for a TPU, without one: does it fit, how fast will it be, what will it cost.

    python -m trainer.preflight --recipe=photos --topology=v5e:2x4
    python -m trainer.preflight --recipe=cifar10_efficientnet --topology=v5litepod-8 --data=DATA --set=batch_size=2048

Needs jax and libtpu (`pip install '.[preflight]'`), beside TensorFlow or in a Python of their own (--jax_python). The
first answer takes minutes, as the compiler does, and each part is printed as soon as it is known. A repeat is read from
the cache; answers on the recipes as they are, on one host of each generation, come with the package.

Exit codes: 0 it compiles and fits · 64 a flag is wrong, or the recipe does not fit or compile as it is · 65 the data
cannot be trained on · 70 the compiler failed.
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from pipeline.command import ExitCode, UsageError, print_next, run_command
from pipeline.format.manifest import open_dataset
from trainer.devices.tpus import parse_topology
from trainer.preflight.asking import ask
from trainer.preflight.cache import SHIPPED, Cache, default_directory
from trainer.preflight.question import SEARCH, Question
from trainer.preflight.report import lines

FLAGS = flags.FLAGS
flags.DEFINE_string("recipe", "photos", "Name of a recipe in trainer/recipes, or the config.json of a run.")
flags.DEFINE_string("topology", None, "The slice: v4, v5e, v5p or v6e with a shape (v5e:2x4), or v5litepod-8, v4-8 …")
flags.DEFINE_string("data", None, "Dataset root; gives the counts and is what the input pipeline is measured on.")
flags.DEFINE_integer("num_train", None, "Training images, where there is no --data yet.", lower_bound=1)
flags.DEFINE_integer("num_classes", None, "Labels, where there is no --data yet.", lower_bound=2)
flags.DEFINE_string("backbone", None, "Another backbone than the recipe's own, e.g. efficientnet_b5.")
flags.DEFINE_multi_string("set", [], "Overrides a value of the recipe: --set=batch_size=1024 (repeatable).")
flags.DEFINE_integer(
    "search", SEARCH, "Compiles spent on the largest batch that fits: 0 for none, 5 for 3 % of it.", lower_bound=0
)
flags.DEFINE_float("price", 0.0, "Of a chip-hour, in any currency: what the recipe will cost.", lower_bound=0.0)
flags.DEFINE_string("jax_python", sys.executable, "Python interpreter that has jax and libtpu.")
flags.DEFINE_string("cache", str(default_directory()), "Directory of kept results; empty compiles anew and keeps none.")


def main(arguments: list[str]) -> int:
    del arguments
    data = open_dataset(FLAGS.data) if FLAGS.data else None
    if data and (FLAGS.num_train or FLAGS.num_classes):
        raise UsageError("--num_train and --num_classes are for when there is no --data; leave them out")
    question = Question(
        recipe=FLAGS.recipe,
        target=parse_topology(FLAGS.topology),
        backbone=FLAGS.backbone,
        settings=tuple(FLAGS.set),
        data=data,
        num_train=FLAGS.num_train,
        num_classes=FLAGS.num_classes,
        search=FLAGS.search,
    )
    cache = Cache(pathlib.Path(FLAGS.cache).expanduser(), shipped=SHIPPED) if FLAGS.cache else Cache(None)
    fits, shown = True, 0
    for report in ask(question, jax_python=FLAGS.jax_python, cache=cache):
        known = list(lines(report, question.target, price=FLAGS.price))
        print(*known[shown:], sep="\n", flush=True)
        fits, shown = report.fits, len(known)
    if not fits:
        return ExitCode.USAGE
    settings = [f"--set={setting}" for setting in FLAGS.set]
    print_next(
        "train there:",
        "python -m trainer.main",
        "DATA",
        "--run=RUN",
        f"--recipe={FLAGS.recipe}",
        *settings,
        "--tpu=local",
    )
    return ExitCode.DONE


if __name__ == "__main__":
    flags.mark_flag_as_required("topology")
    run_command(main)
