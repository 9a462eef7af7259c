"""Runs `python -m retrain.main` with the stand-ins behind its steps."""

from absl import flags

from pipeline import command
from retrain import steps
from retrain.config import load_config
from retrain.lock import exclusive
from retrain.main import run_pass

STAND_INS = steps.Commands(build="stand_in", check="stand_in", train="stand_in", evaluate="stand_in")


def main(arguments: list[str]) -> command.ExitCode:
    config = load_config(flags.FLAGS.config)
    with steps.stop_on_sigterm(), exclusive(config.models / ".lock") as descriptor:
        return run_pass(config, commands=STAND_INS, lock=descriptor)


if __name__ == "__main__":
    command.run_command(main)
