"""Gives all commands their exit codes, one-line errors and strict flags.

An error that is raised on purpose says in one line what is wrong; every other exception is a bug.

    ExpectedError
    ├── CommandError            70  ends the command: a line on stderr, and the exit code for the scheduler
    │   ├── UsageError          64  a flag, path or configuration value is wrong
    │   ├── DataError           65  the data failed its checks; nothing was published
    │   ├── TryAgainError       75  pre-empted or locked: the same command will work later
    │   └── BuildError              raised in a Beam step, of which only the text crosses runners (beam_jobs)
    ├── Refused                     ends one image, counted by its reason; the build goes on (pipeline.images)
    │   ├── ReadError               its source cannot be read
    │   └── FetchError              its download failed (beam_jobs)
    ├── FormatError                 bytes that are not what they should be
    │   ├── RecordError             a TFRecord or its tf.Example (pipeline.format)
    │   └── BatchError              a file of a CIFAR archive (beam_jobs)
    └── RowError                    a line of a table, until it is known of which (beam_jobs)
"""

from __future__ import annotations

import contextlib
import difflib
import enum
import errno
import itertools
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from absl import app, flags, logging

from pipeline.help_page import help_page, own_flags, usage
from pipeline.interrupts import Interrupt, heard_anywhere
from pipeline.log_lines import use_log_lines, write_at_once
from pipeline.native_output import all_is_well, hide_native_output, show_native_output

flags.disclaim_key_flags()  # --version is the command's that runs, for --help

_PACKAGE = "tpu-retraining"  # as in setup.py
_INTERRUPTED = "interrupted; run the same command again to continue"
_INTERRUPTED_CODE = 128 + signal.SIGINT  # as shells have it


class ExitCode(enum.IntEnum):
    """Lists the exit codes of every command (sysexits.h where it has a fitting one)."""

    DONE = 0
    USAGE = 64
    DATA = 65
    INTERNAL = 70
    AGAIN = 75  # pre-empted or locked: run the same command again
    SKIPPED = 99  # only retrain.main: nothing changed, or not promoted (Airflow shows 99 as skipped)


class ExpectedError(Exception):
    """Reports an error that was foreseen: its text tells a person what is wrong."""


class FormatError(ExpectedError, ValueError):
    """Reports bytes that are not what they should be."""


class CommandError(ExpectedError):
    """Explains a failure to the user in one line, which names the bad value and the fix, without a traceback."""

    exit_code = ExitCode.INTERNAL


class UsageError(CommandError):
    """Reports a wrong flag, path or configuration value."""

    exit_code = ExitCode.USAGE


class DataError(CommandError):
    """Reports that the data failed its checks; nothing was published."""

    exit_code = ExitCode.DATA


class TryAgainError(CommandError):
    """Reports a pre-emption, or a lock that another process holds; the same command will work later."""

    exit_code = ExitCode.AGAIN


# What TensorFlow's file systems raise: its classes, by name, because most commands that end so need no TensorFlow.
_REFUSED = ("NotFoundError", "PermissionDeniedError", "UnauthenticatedError")
_OUT_OF_REACH = ("AbortedError", "DeadlineExceededError", "FailedPreconditionError", "UnavailableError")


_OF_TENSORFLOW = re.compile(r"\{\{.*?\}\}|\[Op:\w+\]")  # names of nodes and operations, around what an error says

# A disk that takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def storage_error(error: Exception) -> CommandError | None:
    """Translates what a store answered, or a disk that takes no more, into the user's terms; None for other errors."""
    kind, text = type(error), " ".join(_OF_TENSORFLOW.sub("", str(error)).split())
    if isinstance(error, OSError) and error.errno in FULL:
        return _full(f"{error.filename}: {error.strerror}" if error.filename else text)
    if isinstance(error, OSError) and "://" in str(error.filename):  # of pipeline.format.storage
        refused = isinstance(error, FileNotFoundError | PermissionError)
        return _refused_by_store(text) if refused else _out_of_reach(text)
    if not kind.__module__.startswith("tensorflow."):
        return None
    if "gs://" not in text:
        return _full(text) if any(os.strerror(number) in text for number in FULL) else None
    if kind.__name__ in _REFUSED:
        return _refused_by_store(text)
    return _out_of_reach(text) if kind.__name__ in _OUT_OF_REACH else None


def _refused_by_store(text: str) -> UsageError:
    return UsageError(f"{text[:500]} (is the name right? python -m trainer.doctor tests the credentials)")


def _full(text: str) -> TryAgainError:
    return TryAgainError(f"{text[:500]} (make room and run the same command again)")


def _out_of_reach(text: str) -> TryAgainError:
    return TryAgainError(f"{text[:500]} (run the same command again)")


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable_line(text: str) -> str:
    """Spells text that others chose on one line; what a terminal does not show as it is comes escaped."""
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def nearest(name: str, candidates: Sequence[str], *, share: float = 0.5) -> str:
    """Returns ` Did you mean "x"?` for the candidate nearest to `name`, or nothing if none has that share in common."""
    matches = difflib.get_close_matches(name, candidates, n=1, cutoff=share)
    return f' Did you mean "{matches[0]}"?' if matches else ""


def fail(message: object, exit_code: ExitCode) -> NoReturn:
    """Prints `error: message` to stderr and exits."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(int(exit_code))


def installed_version() -> str | None:
    """Names the version of the installed package; None for a checkout that nobody installed."""
    import importlib.metadata  # not above: workers import this file

    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def print_next(what: str, command: str, *words: str, file: TextIO | None = None) -> None:
    """Prints what to do next, and the command for it, to be copied.

    Args:
      what: it does, as "is the data all right?".
      command: how the command begins.
      words: that follow, quoted for a shell where they need it.
      file: to print to; standard output if not given.
    """
    print(f"next, {what} {' '.join([command, *map(shlex.quote, words)])}", file=file, flush=True)


Instead = Callable[[str, str], str | None]  # name and value of a flag that is not known → what to give


def _nothing_instead(name: str, value: str) -> None:
    """Knows nothing better."""


def unknown_flag(argument: str, instead: Instead = _nothing_instead) -> str:
    """Says that a flag, `--name=value` or `--name`, is not known, and which one may have been meant."""
    name, _, value = argument.lstrip("-").partition("=")
    if advice := instead(name, value):
        return f"unknown flag --{name}: {advice}"
    meant = nearest(f"--{name}", [f"--{own}" for own in own_flags()], share=0.7)
    return f"unknown flag --{name}.{meant} (--help lists the flags)"


def _parse_flags(argv: list[str], *, keep_unknown: bool, instead: Instead) -> list[str]:
    if "--version" in argv[1:]:
        print(f"{_PACKAGE} {installed_version() or 'not installed: a checkout (pip install -e .)'}")
        sys.exit(int(ExitCode.DONE))
    try:
        if {"-h", "--help"} & set(argv[1:]):
            print(help_page(), flush=True)
            sys.exit(int(ExitCode.DONE))
        rest = flags.FLAGS(argv, known_only=keep_unknown)
    except SystemExit:
        sys.exit(int(ExitCode.DONE))  # --helpfull, which absl ends with 1
    except BrokenPipeError:  # `--help | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(int(ExitCode.DONE))
    except flags.UnrecognizedFlagError as error:
        fail(unknown_flag(error.flagvalue, instead), ExitCode.USAGE)
    except flags.Error as error:
        fail(f"{error} (--help lists the flags)", ExitCode.USAGE)
    _expand_homes()
    return [_at_home(argument) for argument in rest]


def _take_argument(arguments: list[str], name: str) -> list[str]:
    """Gives a flag the value that stands without it; returns the arguments that are left."""
    at = 0 if arguments and not arguments[0].startswith("-") else None
    if at is None:  # behind flags that are not ours; what follows one without "=" may be its value
        pairs = itertools.pairwise(arguments)
        at = next((i for i, (before, one) in enumerate(pairs, 1) if one[:1] != "-" and "=" in before), None)
    if at is None:
        return arguments
    if flags.FLAGS[name].present:
        fail(f'"{arguments[at]}" stands for --{name}, which is given, too; give one of them', ExitCode.USAGE)
    flags.FLAGS[name].parse(arguments[at])
    return arguments[:at] + arguments[at + 1 :]


def _require(names: Sequence[str]) -> None:
    """Ends the command where a flag that it needs is missing."""
    if missing := [name for name in names if flags.FLAGS[name].value is None]:
        fail(f"--{missing[0]} is missing: {usage() or '--help lists the flags'}", ExitCode.USAGE)


def _expand_homes() -> None:
    """Expands a `~` that a flag's value begins with: shells do so for words, and not for what stands behind a "="."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.value, str) and flag.value.startswith("~"):
            flag.value = os.path.expanduser(flag.value)
        elif isinstance(flag.value, list) and any("~" in str(one) for one in flag.value):
            flag.value = [_at_home(one) for one in flag.value]


def _at_home(argument: object) -> Any:
    """Expands a `~` that stands first in a word, or behind the "=" of `weights=~/file`."""
    if not isinstance(argument, str):
        return argument
    name, equals, value = argument.partition("=")
    return f"{name}={os.path.expanduser(value)}" if equals else os.path.expanduser(name)


def run_command(
    main: Callable[[list[str]], int | None],
    *,
    keep_unknown_flags: bool = False,
    accepts_arguments: bool = False,
    argument: str | None = None,
    needs: Sequence[str] = (),
    instead: Instead = _nothing_instead,
    is_native: bool = False,
) -> NoReturn:
    """Runs `main` as a command: parses absl flags strictly, turns `CommandError` into one line and its exit code.

    Args:
      main: takes the arguments that are no flags (without the program's name), returns an `ExitCode` or None for 0.
      keep_unknown_flags: hand unknown flags to `main` (Beam's PipelineOptions) instead of refusing them.
      accepts_arguments: whether positional arguments are allowed.
      argument: name of the flag whose value may also stand without it, as the only positional argument.
      needs: names of flags that must have a value.
      instead: says what to give in place of a flag that is not known; None where it knows nothing either.
      is_native: whether `main` loads TensorFlow or LiteRT, whose own output is only shown if the command fails.
    """

    def absl_main(argv: list[str]) -> int:
        arguments = _take_argument(argv[1:], argument) if argument else argv[1:]
        stray = [a for a in arguments if not a.startswith("-")]
        if stray and not accepts_arguments and not keep_unknown_flags:
            fail(f'unexpected argument "{stray[0]}"; flags are written --name=value', ExitCode.USAGE)
        _require(needs)
        _set_up_output(is_native=is_native)
        interrupt = Interrupt(_INTERRUPTED, lambda: end_at_once(_INTERRUPTED_CODE))
        try:
            with heard_anywhere(interrupt.hear) if is_native else contextlib.nullcontext():
                return int(main(arguments) or ExitCode.DONE)
        except CommandError as error:
            fail(error, error.exit_code)
        except KeyboardInterrupt:
            interrupt.answer()
            if is_native:
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                end_at_once(_INTERRUPTED_CODE)
            return _INTERRUPTED_CODE
        except Exception as error:
            if known := storage_error(error):
                fail(known, known.exit_code)
            # A bug of ours, or a machine that failed: the traceback is for the report, the code for the scheduler.
            show_native_output()
            traceback.print_exc()
            return int(ExitCode.INTERNAL)

    flags.DEFINE_bool("version", False, "Print the version and exit.")
    app.run(absl_main, flags_parser=lambda argv: _parse_flags(argv, keep_unknown=keep_unknown_flags, instead=instead))
    raise AssertionError("app.run always exits")


def _set_up_output(*, is_native: bool) -> None:
    """Sets up the log, and hides what native libraries write unless --verbosity=1 asks for it."""
    shows_all = logging.get_verbosity() > logging.INFO
    # TensorFlow's notes on its build do not belong in users' output. It reads this when it is imported, which commands
    # do in `main`.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if shows_all else "2")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    use_log_lines(logging.get_absl_handler())
    if is_native and not shows_all:
        hide_native_output()


def end_at_once(exit_code: int, message: str = "", out: TextIO | None = None) -> NoReturn:
    """Ends the process where it is, on purpose: without TensorFlow, which takes seconds to go.

    Args:
      exit_code: of the process.
      message: a last line.
      out: where that goes; to standard error if not given.
    """
    if message:
        write_at_once(message, out or sys.stderr)
    all_is_well()
    os._exit(exit_code)
