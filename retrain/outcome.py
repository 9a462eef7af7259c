"""Says how a pass ended: for schedulers a file, for others a command or a webhook."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.command import ExitCode, first_line
from pipeline.format import storage

_WEBHOOK_SECONDS = 30


class Outcome(enum.StrEnum):
    """Names the ends of a pass; exit code 99 alone does not tell three of them apart."""

    PROMOTED = "promoted"
    WAITING = "waiting"  # for a person's approval
    NOT_PROMOTED = "not_promoted"
    INCONCLUSIVE = "inconclusive"
    HELD = "held"
    UNCHANGED = "unchanged"
    UNFINISHED = "unfinished"  # stopped after a step, as asked
    FAILED = "failed"


_REJECTED = (Outcome.NOT_PROMOTED, Outcome.INCONCLUSIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassResult:
    """Holds how a pass ended.

    Attributes:
      outcome: its name.
      exit_code: of the command.
      reasons: sentences for people, the deciding one last.
      figures: of the gates.
      versions: numbers of the model published, and of the champion before and after; the dataset.
      message: what the command says at its end.
    """

    outcome: Outcome
    exit_code: int
    reasons: Sequence[str]
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    message: str = ""

    def to_json(self) -> str:
        """Returns the text of the result file."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


def failed(error: BaseException, exit_code: int = ExitCode.INTERNAL) -> PassResult:
    """Returns the result of a pass that an error ended."""
    return PassResult(outcome=Outcome.FAILED, exit_code=int(exit_code), reasons=[first_line(error)], message=str(error))


def tell(result: PassResult, *, file: str | None, hooks: Mapping[str, Sequence[str]]) -> None:
    """Writes the result file, then runs the hooks of this outcome; one that fails is said, and changes nothing.

    Args:
      result: how the pass ended.
      file: to be written; None: none is wanted.
      hooks: on_promote, on_reject and on_hold → shell commands, which get the result on stdin and its outcome as
        RETRAIN_OUTCOME, and addresses that it is posted to.
    """
    if file:
        storage.write_atomically(file, result.to_json())
    name = _hook_of(result.outcome)
    for hook in hooks.get(name, ()) if name else ():
        if problem := _post(hook, result) if hook.startswith(("http://", "https://")) else _start(hook, result):
            print(f"warning: {name}: {hook}: {problem}", file=sys.stderr)


def _hook_of(outcome: Outcome) -> str | None:
    if outcome in _REJECTED:
        return "on_reject"
    return {Outcome.PROMOTED: "on_promote", Outcome.HELD: "on_hold"}.get(outcome)


def _post(address: str, result: PassResult) -> str | None:
    request = urllib.request.Request(
        address, data=result.to_json().encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_WEBHOOK_SECONDS):
            return None
    except (urllib.error.URLError, OSError, ValueError) as error:
        return first_line(error)


def _start(command: str, result: PassResult) -> str | None:
    done = subprocess.run(
        command,
        shell=True,
        input=result.to_json(),
        text=True,
        env={**os.environ, "RETRAIN_OUTCOME": result.outcome},
        check=False,
    )
    return f"ended with exit code {done.returncode}" if done.returncode else None
