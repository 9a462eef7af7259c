"""Fetches what `trainer.export --formats=page` puts into its pages: LiteRT.js, 12 MB, once, by npm.

    python -m trainer.serving.page [--output=FOLDER]

It is pinned by its hash, and kept under ~/.cache/tpu-retraining. Pages are made, and work, without a network. A wheel
holds it if it is fetched into trainer/serving/page/archives before (`make wheel`).
"""

from __future__ import annotations

import pathlib

from absl import flags

from pipeline.command import UsageError, run_command
from pipeline.format.places import check_folder
from trainer.serving.page.runtime import default_folder, fetch_runtime

_OUTPUT = flags.DEFINE_string("output", None, "Folder to keep it in; one under ~/.cache if not given.")


def main(arguments: list[str]) -> int | None:
    if arguments:
        raise UsageError(f"{arguments[0]}: takes no arguments")
    if _OUTPUT.value:
        check_folder(_OUTPUT.value, flag="output")
    folder = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else default_folder()
    fetched = fetch_runtime(folder)
    print(f"{' and '.join(fetched)} kept in {folder}" if fetched else f"all there: {folder}")
    return None


if __name__ == "__main__":
    run_command(main)
