"""Fetches what `trainer.export --formats=page` puts into its pages: LiteRT.js, 12 MB, once, by npm.

    python -m trainer.serving.page

It is pinned by its hash, and kept under ~/.cache/tpu-retraining. Pages are made, and work, without a network.
"""

from __future__ import annotations

from pipeline.command import UsageError, run_command
from trainer.serving.page.runtime import default_folder, fetch_runtime


def main(arguments: list[str]) -> int | None:
    if arguments:
        raise UsageError(f"{arguments[0]}: takes no arguments")
    folder = default_folder()
    fetched = fetch_runtime(folder)
    print(f"{' and '.join(fetched)} kept in {folder}" if fetched else f"all there: {folder}")
    return None


if __name__ == "__main__":
    run_command(main)
