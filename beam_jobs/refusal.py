"""Says why a build is refused: three files a reason, and all that is left out in a file beside the dataset root."""

from __future__ import annotations

import collections
import contextlib
import heapq
import json
import time
from collections.abc import Iterable, Iterator, Sequence

from beam_jobs.elements import Reject
from beam_jobs.settings import WORK_DIR, Settings
from beam_jobs.sources import RemoteSource
from beam_jobs.summary import EXAMPLES, shown
from pipeline.command import CommandError, ExitCode
from pipeline.format import storage

_REJECTS, _LINES = "rejects.jsonl", "refusal"  # notes of a run, of what is left out and of what is to be said
_REFUSED = (ExitCode.USAGE, ExitCode.DATA)


def reject_line(reject: Reject) -> str:
    """Spells a reject as a line of rejects.jsonl."""
    item = reject.item
    line = {"uri": item.uri, "label": item.label, "code": reject.code, "detail": reject.detail}
    return json.dumps(line, ensure_ascii=False)


def sorted_lines(lines: Iterable[str]) -> str:
    """Joins lines to a text, in an order that does not depend on theirs."""
    return "".join(f"{line}\n" for line in sorted(lines))


def examples_of(rejects: Iterable[Reject]) -> list[Reject]:
    """Picks the rejects that stand for a reason, the first few by URI."""
    return heapq.nsmallest(EXAMPLES, rejects, key=lambda reject: reject.item.uri)


def _reasons(rejects: Iterable[Reject]) -> list[str]:
    by_code: dict[str, list[Reject]] = collections.defaultdict(list)
    for reject in rejects:
        by_code[reject.code].append(reject)
    lines = []
    for code, several in sorted(by_code.items()):
        lines.append(f"{len(several)} {code}:")
        lines += [f"  {shown(reject.item.uri)}: {shown(reject.detail)}" for reject in examples_of(several)]
    return lines


def note(rejects: Sequence[Reject], notes: Sequence[str], settings: Settings) -> None:
    """Tells the launcher what a refused build left out, from wherever it is refused. Raises OSError."""
    storage.make_folder(settings.notes)
    storage.write_atomically(settings.note(_REJECTS), sorted_lines(map(reject_line, rejects)), shared=True)
    lines = json.dumps([*notes, *_reasons(rejects)])
    storage.write_atomically(settings.note(_LINES), lines, shared=True)


@contextlib.contextmanager
def explained(settings: Settings, *, made: bool) -> Iterator[None]:
    """Adds to the error of a build that is refused which files are to blame, and leaves all of them in a file.

    The file is `rejected-<time>.jsonl` in the dataset root. A root that this build has made, and that holds nothing but
    what it was working on, is removed again: then the file stands beside it, as `<root>-rejected-<time>.jsonl`. A root
    with downloads stays, lest they are asked for again.

    Args:
      settings: of the run.
      made: whether there was no root before it.
    """
    try:
        yield
    except CommandError as error:
        if error.exit_code not in _REFUSED:
            raise
        with contextlib.suppress(OSError):  # what cannot be read or written must not hide the reason
            raise _with_reasons(error, settings, remove=made and _holds_nothing(settings)) from error
        raise


def _with_reasons(error: CommandError, settings: Settings, *, remove: bool) -> CommandError:
    output = settings.build.output.rstrip("/")
    lines: list[str] = []
    rejects = ""
    with contextlib.suppress(FileNotFoundError):  # refused before any image was read
        rejects = storage.read_text(settings.note(_REJECTS))
        lines = json.loads(storage.read_text(settings.note(_LINES)))
    storage.delete(output if remove else settings.notes)
    if rejects:
        name = f"rejected-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.jsonl"
        path = f"{output}-{name}" if remove else storage.join(output, name)
        storage.write_atomically(path, rejects, shared=True)
        lines.append(f"all images that were left out, with their reasons: {path}")
    failure = CommandError("\n  ".join([str(error), *lines]))
    failure.exit_code = error.exit_code
    return failure


def _holds_nothing(settings: Settings) -> bool:
    """Says whether a root that was not there before holds nothing that anybody may want."""
    output, source = settings.build.output, settings.source
    if storage.is_remote(output) and "/" not in output.partition("://")[2].strip("/"):
        return False  # a whole bucket, beside which nothing can stand
    if isinstance(source, RemoteSource) and source.store.root.startswith(output) and storage.exists(source.store.root):
        return False
    found = {entry.name for entry in storage.list_folder(output)}
    runs = set()
    with contextlib.suppress(FileNotFoundError):
        runs = {entry.name for entry in storage.list_folder(storage.join(output, WORK_DIR, "runs"))}
    return found <= {WORK_DIR} and runs <= {settings.run}
