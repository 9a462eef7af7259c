r"""Lists, compares, promotes and rolls back the models of a registry, and removes old ones.

    python -m retrain.models list     --models=MODELS
    python -m retrain.models show 3   --models=MODELS
    python -m retrain.models diff 2 3 --models=MODELS
    python -m retrain.models promote 2 --why="3 misreads tulips" --models=MODELS
    python -m retrain.models rollback  --why="3 misreads tulips" --models=MODELS
    python -m retrain.models verify   --models=MODELS
    python -m retrain.models prune --keep=5 --config=retrain.yaml
    python -m retrain.models mirror   --config=retrain.yaml      # to the MLflow server that it names

--config=FILE.yaml names the registry, too; `prune` then removes old runs and data versions as well. Every change is a
line of MODELS/decisions.jsonl that says who made it, when and why. The next pass does not undo it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from absl import flags

from pipeline.command import DataError, ExitCode, UsageError, nearest, print_next, run_command
from pipeline.format import storage
from pipeline.format.lock import exclusive
from pipeline.format.sums import SUMS_FILE, damage
from retrain import curate, prune, registry
from retrain.config import RetrainConfig, load_config
from retrain.index import write_index
from retrain.mirror import mirror
from retrain.places import check_registry

FLAGS = flags.FLAGS
flags.DEFINE_string("models", None, "The registry.")
flags.DEFINE_string("config", None, "Configuration of a pass, which names the registry, the runs and the data.")
flags.DEFINE_string("why", None, "For the log: why a model is promoted or rolled back.")
flags.DEFINE_integer("keep", 5, "How many of the newest models, runs and data versions stay.", lower_bound=1)
flags.DEFINE_bool("dry_run", False, "With prune: only says what would be removed.")


def _list(root: str, numbers: list[int]) -> None:
    _take(numbers, 0)
    found = registry.models(root)
    print("\n".join(curate.summary(root, model) for model in found) if found else f"{root} has no model yet")


def _show(root: str, numbers: list[int]) -> None:
    print("\n".join(curate.described(registry.numbered(root, *_take(numbers, 1)))))


def _diff(root: str, numbers: list[int]) -> None:
    one, other = (registry.numbered(root, number) for number in _take(numbers, 2))
    print(f"model {one.number} → model {other.number}")
    print("\n".join(curate.differences(one, other)))


def _promote(root: str, numbers: list[int]) -> None:
    model = registry.numbered(root, *_take(numbers, 1))
    why = _why()
    with exclusive(root):
        curate.promote(root, model, why=why)
    print(f"model {model.number} is the champion")


def _rollback(root: str, numbers: list[int]) -> None:
    _take(numbers, 0)
    why = _why()
    with exclusive(root):
        model = curate.roll_back(root, why=why)
    print(f"model {model.number} is the champion again")


def _verify(root: str, numbers: list[int]) -> None:
    chosen = [registry.numbered(root, number) for number in numbers] or registry.models(root)
    damaged = []
    for model in chosen:
        found = damage(model.path)
        damaged += [model] if found else []
        sums = storage.exists(model.file(SUMS_FILE))
        print(f"{model.number:>4}  {'; '.join(found) if found else 'whole' if sums else 'has no sums'}")
    if damaged:
        raise DataError(f"{len(damaged)} of {len(chosen)} models are damaged")


def _prune(root: str, numbers: list[int]) -> None:
    _take(numbers, 0)
    config = _config()
    runs, data = (config.runs, config.data) if config else (None, None)
    with exclusive(root):
        found = prune.prunable(root, runs, data, keep=FLAGS.keep)
        for folder in found.folders:
            print(f"{'would remove' if FLAGS.dry_run else 'removing'} {folder}")
        if not FLAGS.dry_run:
            prune.remove(found, root)
    if not found.folders:
        print("nothing to remove")


def _mirror(root: str, numbers: list[int]) -> None:
    _take(numbers, 0)
    config = _config()
    if config is None or not config.mlflow:
        raise UsageError("mirror takes --config=FILE.yaml, which names the server: `mlflow: http://localhost:5000`")
    print(mirror(root, config.mlflow))


_COMMANDS: Mapping[str, Callable[[str, list[int]], None]] = {
    "list": _list, "show": _show, "diff": _diff, "promote": _promote, "rollback": _rollback, "verify": _verify,
    "prune": _prune, "mirror": _mirror,
}  # fmt: skip


def _take(numbers: list[int], count: int) -> list[int]:
    if len(numbers) != count:
        wanted = ("no number of a model is", "the number of a model is", "the numbers of two models are")[count]
        raise UsageError(f"{wanted} wanted, got {' '.join(map(str, numbers)) or 'none'}")
    return numbers


def _why() -> str:
    if not FLAGS.why:
        raise UsageError('--why="…" is missing: the log says why a model was promoted by hand')
    return str(FLAGS.why)


def _config() -> RetrainConfig | None:
    return load_config(FLAGS.config) if FLAGS.config else None


def main(arguments: list[str]) -> ExitCode:
    known = ", ".join(_COMMANDS)
    if not arguments:
        raise UsageError(f"what to do is missing: one of {known} (--help shows examples)")
    name, *rest = arguments
    if name not in _COMMANDS:
        raise UsageError(f'unknown command "{name}" (known: {known}).{nearest(name, list(_COMMANDS))}')
    if broken := [value for value in rest if not value.isdecimal()]:
        raise UsageError(f'"{broken[0]}" is no number of a model')
    if (FLAGS.models is None) == (FLAGS.config is None):
        raise UsageError("give either --models=DIR or --config=FILE.yaml")
    config = _config()
    root = config.models if config else os.path.expanduser(FLAGS.models).rstrip("/")
    if not storage.exists(root):
        raise UsageError(f"{root}: no such folder; the first pass of retrain.main makes it")
    check_registry(root)
    _COMMANDS[name](root, [int(value) for value in rest])
    if name in ("promote", "rollback", "prune"):
        write_index(root)
    if sys.stdout.isatty():  # else it is for a program
        what, *words = ("one of them:", "show", "NUMBER") if name == "list" else ("all models:", "list")
        print_next(what, "python -m retrain.models", *words, f"--models={root}")
    return ExitCode.DONE


if __name__ == "__main__":
    run_command(main, accepts_arguments=True)
