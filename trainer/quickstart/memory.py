"""Keeps what a quickstart knows of those before it: how fast this machine is, and which models were taken and why."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

from absl import logging

from pipeline.format import storage

_KEPT = 50  # decisions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """Tells of a model that was taken, or was not.

    Attributes:
      time: when, as people read it.
      taken: whether it was.
      text: which model, and why.
    """

    time: str
    taken: bool
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Holds what is kept in a file, which each change writes anew.

    Attributes:
      file: its name.
      slowness: step → how many times as long as `outlook` guesses it took.
      decisions: the oldest first.
    """

    file: str
    slowness: Mapping[str, float] = dataclasses.field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()

    @classmethod
    def read(cls, file: str) -> Memory:
        """Reads it; an empty one where there is none, or, with a warning, where it is damaged."""
        try:
            content = json.loads(storage.read_text(file))
            slowness = {str(name): float(value) for name, value in content["slowness"].items()}
            return cls(file=file, slowness=slowness, decisions=tuple(Decision(**one) for one in content["decisions"]))
        except FileNotFoundError:
            pass
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            logging.warning("%s: damaged (%s); what it told is forgotten: times are guessed", file, error)
        return cls(file=file)

    def write(self) -> None:
        content: dict[str, Any] = {
            "slowness": dict(self.slowness),
            "decisions": [dataclasses.asdict(one) for one in self.decisions[-_KEPT:]],
        }
        storage.write_atomically(self.file, json.dumps(content, indent=2) + "\n")

    def with_time(self, step: str, slowness: float) -> Memory:
        """Returns it with the time of a step, and writes it."""
        return self._written(slowness={**self.slowness, step: slowness})

    def with_decision(self, text: str, *, taken: bool) -> Memory:
        """Returns it with a decision, and writes it; one that says what the last one said is no new one."""
        if self.decisions and self.decisions[-1].text == text:
            return self
        decision = Decision(time=time.strftime("%Y-%m-%d %H:%M"), taken=taken, text=text)
        return self._written(decisions=(*self.decisions, decision))

    def _written(self, **changes: Any) -> Memory:
        changed = dataclasses.replace(self, **changes)
        changed.write()
        return changed
