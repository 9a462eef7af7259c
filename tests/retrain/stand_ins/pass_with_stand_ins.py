"""Runs `python -m retrain.main` with the stand-ins behind its steps."""

from absl import flags

from pipeline import command
from retrain import steps
from retrain.config import load_config
from retrain.main import run

STAND_INS = steps.Commands(
    build="stand_in", check="stand_in", train="stand_in", evaluate="stand_in", compare="stand_in", verify="stand_in"
)


def main(arguments: list[str]) -> int:
    return run(load_config(flags.FLAGS.config), commands=STAND_INS)


if __name__ == "__main__":
    command.run_command(main)
