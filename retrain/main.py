"""Runs one retraining pass, for cron, a systemd timer or Airflow: build → judge the data → train → score → promote.

    python -m retrain.main retrain.yaml [--result=FILE.json]
    python -m retrain.main retrain.yaml --dry_run --explain     # what it would do, and why

    17 3 * * *  cd /srv/photos && .venv/bin/python -m retrain.main --config=retrain.yaml >> retrain.log 2>&1

Exit codes: 0 promoted · 99 nothing has changed since the last pass, or the challenger was not promoted · 75 another
pass is running, or this one was stopped: run again · 64 the configuration is wrong · 65 the data or the champion are
damaged, or the data gate holds the data: nothing is trained, the champion stays (`data_gate.accept` lets them through).
--result tells more than a number can: promoted, waiting, not_promoted, inconclusive, held, unchanged, unfinished or
failed, with reasons, figures and versions; it is written last.

A pass may be killed at any moment: run again, it ends in the same place.
"""

from __future__ import annotations

import sys

from absl import flags

from pipeline.command import CommandError, DataError, ExitCode, UsageError, print_next, run_command
from pipeline.format.lock import exclusive
from pipeline.format.places import check_file
from pipeline.processes import stop_on_sigterm
from retrain import steps
from retrain.config import HOOKS, RetrainConfig, load_config
from retrain.index import write_index
from retrain.mirror import mirror, require_library
from retrain.one_pass import STEPS, Wanted, run_pass
from retrain.outcome import failed, tell
from retrain.places import check_places
from retrain.plan import explained, planned

_CONFIG = flags.DEFINE_string("config", None, "The pass's configuration, a YAML file; examples/retrain.yaml shows one.")
_RESULT = flags.DEFINE_string("result", None, "JSON file to write at the end: how the pass ended, and why.")
_FROM = flags.DEFINE_enum("from", STEPS[0], STEPS, "The first step to take; what comes before is taken as it is.")
_UNTIL = flags.DEFINE_enum("until", STEPS[-1], STEPS, "The last step to take: schedulers give each a task of its own.")
_FORCE = flags.DEFINE_enum(
    "force", None, STEPS, "Takes this step and those after it anew, even if nothing has changed since the last pass."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only says what a pass would do.")
_EXPLAIN = flags.DEFINE_bool("explain", False, "With --dry_run: also says what was decided last, and by which limits.")


def perform(config: RetrainConfig, *, commands: steps.Commands, result: str | None, wanted: Wanted) -> int:
    """Runs one pass under the lock of the registry, and tells whoever wants to know how it ended."""
    hooks = {name: getattr(config, name) for name in HOOKS}
    if config.mlflow:
        require_library()
    try:
        with stop_on_sigterm(), exclusive(config.models) as lock:
            found = run_pass(steps.Steps(config=config, commands=commands, lock=lock), wanted)
    except CommandError as error:
        tell(failed(error, error.exit_code), file=result, hooks=hooks)
        raise
    except Exception as error:
        tell(failed(error), file=result, hooks=hooks)
        raise
    if found.exit_code != ExitCode.DATA:
        print(found.message)
    write_index(config.models)
    if config.mlflow:
        _mirror(config.models, config.mlflow)
    tell(found, file=result, hooks=hooks)
    if found.exit_code == ExitCode.DATA:
        raise DataError(found.message)
    print_next("the models so far:", "python -m retrain.models", "list", f"--models={config.models}")
    return found.exit_code


def main(arguments: list[str]) -> int:
    """Runs the pass that the flags name."""
    del arguments
    if not _CONFIG.value:
        raise UsageError("--config=FILE.yaml is missing; examples/retrain.yaml shows one")
    if _RESULT.value:
        check_file(_RESULT.value, flag="result")
    return run(load_config(_CONFIG.value), commands=steps.Commands())


def _mirror(models: str, server: str) -> None:
    """Mirrors the registry; a server that is away changes nothing."""
    try:
        print(mirror(models, server))
    except CommandError as error:
        print(f"warning: {error}", file=sys.stderr)


def run(config: RetrainConfig, *, commands: steps.Commands) -> int:
    """Runs, or only plans, the pass that the flags ask for, by these commands."""
    try:
        wanted = Wanted(first=_FROM.value, until=_UNTIL.value, forced=_FORCE.value)
    except ValueError as error:
        raise UsageError(f"--from, --until and --force: {error}") from error
    check_places(config)
    if _EXPLAIN.value and not _DRY_RUN.value:
        raise UsageError("--explain goes with --dry_run; a pass itself says what it does")
    if not _DRY_RUN.value:
        return perform(config, commands=commands, result=_RESULT.value, wanted=wanted)
    print("\n".join(planned(config, commands, wanted)))
    if _EXPLAIN.value:
        print("\n".join(explained(config)))
    return ExitCode.DONE


if __name__ == "__main__":
    run_command(main, argument="config")
