"""Finds and runs functions that users have written: `FILE.py:function` or `MODULE:function`. Free of TensorFlow.

A function is known by its source, which a run records: its file is read once a process, and what was read is what is
run and recorded. So are the files that it imports from beside it or from the current folder, though Python reads those
anew; what is installed is not. A module is looked for as Python does, in the current folder first.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import linecache
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.command import ExpectedError, UsageError, nearest, printable_line
from pipeline.own_imports import Imported, imports_of, package_of

_SHOWN = 500  # characters of what an error says
IMPORTED = "imported"  # in a run, beside copies of own code: what these import
FORM = "FILE.py:function or MODULE:function"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnCode:
    """Holds a user's function, as its source has it.

    Attributes:
      name: `FILE.py:function` with the file's absolute path, or `MODULE:function`.
      file: the path of the source.
      function: its name in there.
      package: that its relative imports start from, with dots; "" where it has none.
      source: what the file holds.
      imports: the user's files that it imports.
      defaults: the function's arguments that have plain values as defaults.
    """

    name: str
    file: str
    function: str
    package: str
    source: bytes
    imports: tuple[Imported, ...]
    defaults: dict[str, Any]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source).hexdigest()

    def load(self) -> Callable[..., Any]:
        """Imports the file or the module; UsageError, with file and line, if that fails."""
        place, _, _ = self.name.rpartition(":")
        in_file = place == self.file
        with self.blamed(), _first(_folders(self.file if in_file else None)):
            module = _run_file(self) if in_file else importlib.import_module(place)
        function: Callable[..., Any] = getattr(module, self.function)
        return function

    def call(self, *arguments: Any) -> Any:
        """Calls the function; UsageError, with file and line, if it raises."""
        function = self.load()
        with self.blamed():
            return function(*arguments)

    def refuse(self, why: str) -> UsageError:
        """Returns the error that the function does not do what it should."""
        return UsageError(f"{self.file}: {self.function}: {why}")

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Turns what a user's code raises into one line that says where."""
        try:
            yield
        except (Exception, SystemExit) as error:
            raise UsageError(_blame(error, self.file)) from error


def is_own(name: str) -> bool:
    """Says whether a name stands for a user's function, not for one of ours."""
    return ":" in name


@functools.cache
def find(name: str) -> OwnCode:
    """Finds the function that a user names.

    Args:
      name: `FILE.py:function` or `MODULE:function`.

    Raises:
      UsageError: there is no such file, module or function; the file is no Python.
    """
    place, _, function = name.rpartition(":")
    if "://" in place:
        raise UsageError(f"{name}: code is taken from local files only; copy it here")
    if not place or not function.isidentifier():
        raise UsageError(f'"{name}" names no function; write {FORM}')
    in_file = place.endswith(".py") or os.sep in place
    file = os.path.abspath(os.path.expanduser(place)) if in_file else _file_of_module(place)
    try:
        with open(file, "rb") as opened:
            source = opened.read()
    except OSError as error:
        raise UsageError(f"{name}: {file} cannot be read ({error.strerror})") from error
    try:
        tree = ast.parse(source, file)
    except (SyntaxError, ValueError) as error:
        raise UsageError(_blame(error, file)) from error
    in_package = any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
    package = package_of(file)[0] if in_file else place.rpartition(".")[0]
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if function not in functions:
        names = list(functions)
        there = f"it defines {', '.join(names)}.{nearest(function, names)}" if names else "it has none"
        raise UsageError(f'{file}: no function "{function}" in it; {there}')
    return OwnCode(
        name=f"{file if in_file else place}:{function}",
        file=file,
        function=function,
        package=package if in_package else "",
        source=source,
        imports=imports_of(file, source, _folders(file if in_file else None)),
        defaults=_defaults(functions[function]),
    )


def _file_of_module(module: str) -> str:
    try:
        with _first(_folders(None)):
            found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):  # of a package on the way
        found = None
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise UsageError(
            f'no module "{module}", neither in {os.getcwd()} nor among those that are installed; write {FORM}, e.g. '
            f"./{module.rpartition('.')[2]}.py:function"
        )
    return found.origin


def _folders(file: str | None) -> list[str]:
    """Lists where a user's code looks for modules first: beside its package or file, where that is named, and here."""
    if file is None:
        return [os.getcwd()]
    folder = os.path.dirname(file)
    beside = package_of(file)[1], folder, os.path.join(folder, IMPORTED)
    return [folder for folder in (*beside, os.getcwd()) if os.path.isdir(folder)]


@contextlib.contextmanager
def _first(folders: Sequence[str]) -> Iterator[None]:
    before = list(sys.path)
    sys.path[:0] = folders
    try:
        yield
    finally:
        sys.path[:] = before


def _run_file(code: OwnCode) -> types.ModuleType:
    """Runs a file as a module, once for all its functions."""
    file, source = code.file, code.source
    name = f"own_code_{hashlib.sha256(os.fsencode(file) + source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__, module.__package__ = file, code.package  # from which its relative imports start
    sys.modules[name] = module  # where dataclasses, and readers of source, look
    linecache.cache[file] = (len(source), None, source.decode("utf-8", "replace").splitlines(keepends=True), file)
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _defaults(function: ast.FunctionDef) -> dict[str, Any]:
    """Reads the arguments that have a literal as default."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    found = {}
    for argument, default in pairs:
        with contextlib.suppress(ValueError, TypeError):
            if default is not None:
                found[argument.arg] = ast.literal_eval(default)
    return found


def _blame(error: BaseException, file: str) -> str:
    """Puts an error into one line: the last place in the user's file that it came through, and what it says."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or file}{f':{error.lineno}' if error.lineno else ''}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    said, defined = str(error), f'File "{file}", line '
    # TensorFlow runs a translation of the function. Of what fails while that is made, it keeps the places in the
    # original with the first error; of what fails later, in its text.
    if metadata := getattr(error.__context__, "ag_error_metadata", None):
        lines = [frame.lineno for frame in metadata.translated_stack if frame.filename == file]
        said = metadata.cause_message
    elif not lines and defined in said:
        first, *rest = said.rpartition(defined)[2].splitlines()
        lines = [int(first.partition(",")[0])]
        said = next(filter(str.strip, rest), "")
    plain = isinstance(error, ExpectedError | ValueError) and said
    text = printable_line(said if plain else f"{type(error).__name__}: {said}".rstrip(": "))
    return f"{file}{f':{lines[-1]}' if lines else ''}: {text[:_SHOWN]}"
