r"""Lists the runs in a folder, and writes the list as a page, index.html, into it.

    python -m trainer.runs RUNS

The last that ended comes first: recipe, dataset version, accuracy with its interval, time, and how far it has come.
"""

from __future__ import annotations

from pipeline.command import UsageError, print_next, run_command
from pipeline.format import kinds, storage
from pipeline.format.owner import who_trains
from pipeline.format.places import check_folder
from pipeline.pages.index import is_foreign
from trainer.report.run_list import TITLE, find_runs, table, write_index
from trainer.request import FINISHED


def main(arguments: list[str]) -> int | None:
    if len(arguments) > 1:
        raise UsageError(f'unexpected argument "{arguments[1]}"; one folder is listed at a time')
    folder = arguments[0] if arguments else "."
    if kinds.kind_of(folder) == kinds.QUICKSTART:
        folder = storage.join(folder, "runs")
    if not storage.exists(folder):
        raise UsageError(f"{folder}: no such folder; give the one that holds your runs")
    try:
        runs = find_runs(folder, _state_of)
    except NotADirectoryError as error:
        raise UsageError(f"{folder}: a file, not a folder") from error
    if not runs:
        print(f"no run in {folder}, nor two folders deep below it")
        return None
    print("\n".join(table(runs)))
    check_folder(folder, flag="folder")
    if is_foreign(folder, TITLE):
        print(f"page: not written, for another index.html lies in {folder}")
    else:
        print(f"page: {write_index(folder, runs)}")
    print_next("is one better than another?", "python -m trainer.compare", "RUN_A", "RUN_B")
    return None


def _state_of(run: str) -> str:
    """Says how far a run has come."""
    owner = who_trains(run)
    if owner:
        return f"trained by {owner}"
    if storage.exists(storage.join(run, FINISHED)):
        return "finished"
    return "unfinished" if storage.exists(storage.join(run, "checkpoints")) else "begun"


if __name__ == "__main__":
    run_command(main, accepts_arguments=True)
