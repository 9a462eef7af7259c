"""Runs the commands of a pass, each in a process of its own, as a user would type them."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Mapping

from pipeline.command import DataError, ExitCode
from pipeline.format import storage
from pipeline.format.lock import Lock
from pipeline.format.manifest import TEST
from pipeline.processes import command_line, error_of, set_flags, started
from retrain.config import RetrainConfig

CHECK_FILE = "check.json"
_AGAINST = "against.txt"  # beside it: the version that it was compared with; the champion may be another one later
_CHECKED_BY = "photos"  # recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Commands:
    """Names the modules behind the steps."""

    build: str = "beam_jobs.build_tfrecords"
    check: str = "trainer.check"
    train: str = "trainer.main"
    evaluate: str = "trainer.evaluate"
    compare: str = "trainer.compare"
    verify: str = "trainer.verify"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """Runs the commands of a pass.

    Attributes:
      config: of the pass.
      commands: behind the steps.
      lock: of the registry, which commands hold, too.
    """

    config: RetrainConfig
    commands: Commands
    lock: Lock

    def _run(self, module: str, flags: Mapping[str, object], *, extra: tuple[str, ...] = ()) -> None:
        """Runs a module, again after 75; its exit codes 64, 65 and 75 become ours, others 70."""
        command = command_line(module, flags, extra)
        print(f"$ {shlex.join(['python', *command[1:]])}", flush=True)
        retries = self.config.retries
        for attempt in range(retries + 1):
            with started(command, lock=self.lock.descriptor) as process:
                code = process.wait()
            if code == ExitCode.DONE:
                return
            if code != ExitCode.AGAIN or attempt == retries:
                break
            seconds = self.config.retry_seconds * 2**attempt
            print(f"{module} ended with exit code 75; again in {seconds} s ({retries - attempt} more)", flush=True)
            time.sleep(seconds)
        raise error_of(code, f"{module} ended with exit code {code}; its own message stands above")

    def build(self) -> None:
        """Brings the dataset root up to date; returns quickly when the source has not changed."""
        self._run(self.commands.build, build_flags(self.config))

    def check(self, output: str, *, against: str | None) -> str:
        """Checks the dataset against another version, once; leaves a report and `check.json` in `output`, returns that.

        With the backbone that the recipe photos begins with, unless the configuration says otherwise: a recipe that
        begins with random weights has no features to judge by, and a run of photos reads those of the check.
        """
        config = self.config
        found, marker = storage.join(output, CHECK_FILE), storage.join(output, _AGAINST)
        compared_with = os.path.basename(against or "")
        if not (storage.exists(found) and storage.exists(marker) and storage.read_text(marker) == compared_with):
            own: dict[str, object] = {"data": config.data, "output": output, "seed": config.seed, "recipe": _CHECKED_BY}
            if config.recipe == _CHECKED_BY:
                own |= {name: config.train[name] for name in ("backbone", "weights") if name in config.train}
            settings = config.settings if config.recipe == _CHECKED_BY else {}
            if against:
                own["against"] = against
            self._run(self.commands.check, {**own, **config.check_flags}, extra=set_flags(settings))
            storage.write_atomically(marker, compared_with)
        return found

    def train(self, run: str, *, seed: int, start: str | None = None) -> None:
        """Trains in `run`, or goes on where it stopped there; leaves the exported model in `run/export`.

        Args:
          run: its folder.
          seed: of it.
          start: an earlier model that it starts from; None: from the recipe's weights.
        """
        config = self.config
        own: dict[str, object] = {"data": config.data, "recipe": config.recipe, "run": run, "seed": seed}
        settings = dict(config.settings)
        if start:
            own["init"] = start
            settings["init_share"] = config.init_share
        if config.gate.pools:
            settings["selection"] = "last"  # validation images that chose no weights are evidence like test images
        self._run(self.commands.train, {**own, **config.train}, extra=set_flags(settings))

    def score(self, model: str, output: str, *, split: str = TEST) -> str:
        """Writes what an exported model answers on a split to `output`, once."""
        if not storage.exists(output):
            flags = {"model": model, "data": self.config.data, "split": split, "output": output}
            self._run(self.commands.evaluate, flags)
        return output

    def compare(self, champion: str, challenger: str, page: str) -> None:
        """Writes the page that sets the answers of two models side by side."""
        flags = {"data": self.config.data, "output": page}
        self._run(self.commands.compare, flags, extra=(champion, challenger))

    def verify(self, model: str, beside: str | None, output: str) -> str:
        """Asks every exported form of a model about its golden images, and those of another; writes that, once.

        Raises:
          CommandError: nothing was found out; a form that answers otherwise than it should is a finding.
        """
        if not storage.exists(output):
            more = {"beside": beside, "ask": self.config.golden}
            flags = {"output": output} | {name: value for name, value in more.items() if value}
            try:
                self._run(self.commands.verify, flags, extra=(model,))
            except DataError:
                if not storage.exists(output):
                    raise
        return output


def build_flags(config: RetrainConfig) -> dict[str, object]:
    """Returns the flags of the build."""
    own = {"source": config.source, "input": config.input, "output": config.data, "seed": config.seed}
    return {**own, **config.build}
