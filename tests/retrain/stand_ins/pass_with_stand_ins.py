"""Runs `python -m retrain.main` with the stand-ins behind its steps."""

from absl import flags

from pipeline import command
from retrain import steps
from retrain.config import load_config
from retrain.main import perform

STAND_INS = steps.Commands(
    build="stand_in", check="stand_in", train="stand_in", evaluate="stand_in", compare="stand_in"
)


def main(arguments: list[str]) -> int:
    of = flags.FLAGS
    return perform(load_config(of.config), commands=STAND_INS, result=of.result, until=of.until)


if __name__ == "__main__":
    command.run_command(main)
