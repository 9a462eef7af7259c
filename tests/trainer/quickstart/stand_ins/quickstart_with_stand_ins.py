"""Runs `python -m trainer.quickstart` with the stand-ins behind its steps."""

import pathlib
import sys

from pipeline import command
from trainer.quickstart.__main__ import run
from trainer.quickstart.steps import Commands

STAND_IN = "quick_stand_in"
sys.path.append(str(pathlib.Path(__file__).parent))


def main(arguments: list[str]) -> None:
    run(
        arguments[0],
        commands=Commands(
            build=STAND_IN, check=STAND_IN, train=STAND_IN, export=STAND_IN, evaluate=STAND_IN, compare=STAND_IN
        ),
    )


if __name__ == "__main__":
    command.run_command(main, accepts_arguments=True)
