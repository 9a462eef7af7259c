"""Starts the commands of a quickstart, each in a process of its own, as a user would type them."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence

from pipeline.format import storage
from pipeline.processes import command_line, error_of, set_flags, started
from trainer.quickstart.outlook import TRAIN_SHARE
from trainer.quickstart.place import Place

# Validation decides between models, so it has as many as test.
SPLITS = f"train:{TRAIN_SHARE},validation:0.15,test:0.15"
_TICK_SECONDS = 0.5
_LEFT_OUT = "  all images that were left out, with their reasons: "  # before the file's name, below a build's error

Stop = Callable[[], bool]  # says whether a command is to be stopped; asked again and again while it runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Commands:
    """Names the modules behind the steps."""

    build: str = "beam_jobs.build_tfrecords"
    check: str = "trainer.check"
    train: str = "trainer.main"
    export: str = "trainer.export"
    evaluate: str = "trainer.evaluate"
    compare: str = "trainer.compare"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """Runs commands; what they say goes to a log. Each returns False if it was stopped before its end.

    Attributes:
      place: where everything lies.
      recipe: that is trained.
      of_build: flags of the build that people choose.
      commands: behind the steps.
      lock: descriptor of the lock that commands hold, too; None for none.
      tick: is called again and again while a command runs.
    """

    place: Place
    recipe: str
    of_build: Mapping[str, object]
    commands: Commands
    lock: int | None
    tick: Callable[[], None]

    def build(self, stop: Stop) -> bool:
        """Brings the dataset up to date; returns quickly where no photo has changed."""
        flags = {"input": self.place.photos, "output": self.place.data, "splits": SPLITS, **self.of_build}
        return self._run(self.commands.build, flags, stop=stop)

    def check(self, stop: Stop) -> bool:
        """Checks the dataset; leaves the features for the runs."""
        return self._run(self.commands.check, {"data": self.place.data, "recipe": self.recipe}, stop=stop)

    def train(self, run: str, data: str, stop: Stop, *, epochs: int | None) -> bool:
        """Trains in `run`, or goes on where it stopped there.

        Args:
          run: its folder.
          data: the version that it is trained on.
          stop: says whether it is to be stopped.
          epochs: of fine-tuning: 0 for the head alone, None for as many as the recipe has.
        """
        flags = {"data": data, "recipe": self.recipe, "run": run}
        settings = {} if epochs is None else {"phases.1.duration": f"{epochs}ep"}
        return self._run(self.commands.train, flags, extra=set_flags(settings), stop=stop)

    def export_stopped(self, run: str, output: str, stop: Stop) -> bool:
        """Exports the best weights so far of a run that has not ended."""
        return self._run(self.commands.export, {"run": run, "output": output, "unfinished": True}, stop=stop)

    def score(self, model: str, data: str, output: str, stop: Stop, *, split: str) -> bool:
        """Writes what an exported model answers on a split to `output`, once."""
        if storage.exists(output):
            return True
        flags = {"model": model, "data": data, "split": split, "output": output}
        return self._run(self.commands.evaluate, flags, stop=stop)

    def compare(self, one: str, other: str, page: str, stop: Stop, *, split: str) -> bool:
        """Writes the page that sets the answers of two runs side by side."""
        flags = {"split": split, "output": page}
        return self._run(self.commands.compare, flags, extra=(one, other), stop=stop)

    def _run(self, module: str, flags: Mapping[str, object], *, extra: Sequence[str] = (), stop: Stop) -> bool:
        """Runs a module to its end; False if it was stopped before.

        Raises:
          CommandError: it has failed, with its exit code; tells what it said last.
        """
        command = command_line(module, flags, extra)
        with open(self.place.log, "ab") as log:
            log.write(f"\n$ {shlex.join(['python', *command[1:]])}\n".encode())
            log.flush()
            begun = log.tell()
            with started(command, lock=self.lock, output=log) as process:
                code = self._watched(process, stop)
        if code is None:
            return False
        if code:
            raise error_of(code, self._why(module, code, begun))
        return True

    def _watched(self, process: subprocess.Popen[bytes], stop: Stop) -> int | None:
        while True:
            try:
                return process.wait(_TICK_SECONDS)
            except subprocess.TimeoutExpired:
                self.tick()
            if stop():
                return None

    def _why(self, module: str, code: int, begun: int) -> str:
        """Returns the error that a command has told, in terms of the folder of photos."""
        with open(self.place.log, "rb") as log:
            log.seek(begun)
            said = log.read().decode(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        if not errors:
            return f"{module} ended with exit code {code}; what it said stands at the end of {self.place.log}"
        listed = "".join(
            f"; which, and why: {line.removeprefix(_LEFT_OUT)}" for line in said if line.startswith(_LEFT_OUT)
        )
        text = (
            (errors[-1] + listed)
            .replace(f"--input={self.place.photos}", self.place.photos)
            .replace("--input", "PHOTOS")
        )
        return text.replace("--source=folder expects DIR/class/image", "one folder for each class is expected in it")
