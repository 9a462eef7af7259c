"""Holds the house to its plan: who may import whom, what lies where, and that ARCHITECTURE.md tells the truth.

Imports are read from the source, those inside of functions too; nothing is run but where a test says so.
"""

from __future__ import annotations

import ast
import collections
import functools
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "beam_jobs", "trainer", "retrain")

# What each place may import of the other places, its own files apart. A place is the longest key that a module begins
# with; arrows go down only.
_COMMAND, _FORMAT, _IMAGES, _PAGES = "pipeline.command", "pipeline.format", "pipeline.images", "pipeline.pages"
_TRAIN = ("trainer.models", "trainer.recipes", "trainer.request", "trainer.devices", "trainer.report", "trainer.train")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    # What a command is made of, which nobody else needs.
    "pipeline.native_output": (),
    "pipeline.log_lines": ("pipeline.native_output",),
    "pipeline.help_page": (),
    "pipeline.interrupts": ("pipeline.log_lines",),
    "pipeline.command": ("pipeline.native_output", "pipeline.log_lines", "pipeline.help_page", "pipeline.interrupts"),
    "pipeline.progress": (),
    "pipeline.format": (_COMMAND,),
    "pipeline.images": (_COMMAND, _FORMAT),
    "pipeline.pages": (_COMMAND, _FORMAT),
    "pipeline": ("pipeline",),
    "beam_jobs": (_COMMAND, _FORMAT, _IMAGES, _PAGES, "pipeline.progress"),
    "retrain": (
        _COMMAND,
        _FORMAT,
        _PAGES,
        "pipeline.averaged",
        "pipeline.noninferiority",
        "pipeline.slices",
        "pipeline.intervals",
        "pipeline.linear",
        "pipeline.predictions",
        "pipeline.processes",
        "pipeline.shift",
    ),
    "trainer.request": ("pipeline",),
    "trainer.devices": ("pipeline",),
    "trainer.report": ("pipeline",),
    "trainer.models": ("pipeline",),
    "trainer.recipes": ("pipeline", "trainer.models", "trainer.request"),
    "trainer.train": ("pipeline", "trainer.models", "trainer.recipes", "trainer.devices"),
    "trainer.rundir": ("pipeline", *_TRAIN),
    "trainer.readiness": ("pipeline", *_TRAIN, "trainer.rundir"),
    "trainer.serving": ("pipeline", *_TRAIN),
    "trainer.serve": ("pipeline", "trainer.models", "trainer.serving"),
    "trainer.instead": ("pipeline", "trainer.models", "trainer.recipes"),
    "trainer.quickstart": (
        "pipeline",
        "trainer.models",
        "trainer.recipes",
        "trainer.request",
        "trainer.report",
        "trainer.auto",
        "trainer.serving.page",
    ),
    "trainer.fit_check": ("pipeline", *_TRAIN, "trainer.rundir", "trainer.readiness", "trainer.instead"),
    "trainer.check": ("pipeline", *_TRAIN, "trainer.rundir", "trainer.readiness", "trainer.instead"),
    "trainer.preflight": ("pipeline", *_TRAIN),
    "trainer.doctor": ("pipeline", "trainer.devices"),
    "trainer.run": ("pipeline", *_TRAIN, "trainer.rundir", "trainer.serving"),
    "trainer.training": (
        "pipeline",
        *_TRAIN,
        "trainer.auto",
        "trainer.rundir",
        "trainer.readiness",
        "trainer.run",
    ),
    "trainer.api": (
        "pipeline",
        *_TRAIN,
        "trainer.rundir",
        "trainer.training",
        "trainer.check",
        "trainer.serving",
    ),
    "trainer": ("pipeline", "trainer"),  # the commands, which nobody imports
}

# Modules that start others by their name, as users do, and why.
STARTS: dict[str, tuple[str, ...]] = {
    "pipeline.preview": ("trainer.preview",),  # a name that users know; it defines nothing and nobody imports it
    "beam_jobs.sources": ("beam_jobs.sources.folder", "beam_jobs.sources.table", "beam_jobs.sources.arrays",
                          "beam_jobs.sources.cifar", "beam_jobs.sources.oxford_pets", "beam_jobs.sources.tfds"),
    "retrain.steps": ("beam_jobs.build_tfrecords", "trainer.check", "trainer.main", "trainer.evaluate",
                      "trainer.compare", "trainer.verify"),
    "trainer.quickstart.steps": ("beam_jobs.build_tfrecords", "trainer.check", "trainer.main", "trainer.export",
                                 "trainer.evaluate", "trainer.compare"),
    # Not imported: Beam and TensorFlow do not share a process.
    "trainer.api.building": ("beam_jobs.build_tfrecords",),
    "trainer.api.asked": ("pipeline.augment.own_policy",),  # not started: looked up, if TensorFlow is there
    "trainer.doctor.diagnosis": ("trainer.doctor.probe",),
    "pipeline.images.zygote": ("pipeline.images.decoder_child",),
    "beam_jobs.sources.parquet": ("beam_jobs.sources.parquet_child",),
    "trainer.devices.tpu.server": ("trainer.devices.tpu.server_child",),
}  # fmt: skip

FREE_OF_TENSORFLOW = (
    "pipeline.command", "pipeline.native_output", "pipeline.interrupts", "pipeline.log_lines", "pipeline.help_page",
    "pipeline.progress", "pipeline.format", "pipeline.images", "pipeline.pages", "pipeline.noninferiority",
    "pipeline.intervals", "pipeline.linear", "pipeline.processes", "pipeline.shift", "beam_jobs", "retrain",
    # A wrong flag is refused before TensorFlow is imported.
    "trainer.recipes", "trainer.request", "trainer.readiness", "trainer.training", "trainer.models.backbones",
    "trainer.models.weights", "trainer.devices.choice", "trainer.devices.cluster", "pipeline.own_code",
    "pipeline.modes", "pipeline.residence", "trainer.serve", "trainer.quickstart",
)  # fmt: skip
_TENSORFLOW = ("tensorflow", "keras", "tf_keras", "keras_cv", "tensorboard")

# Files that reach into a library where it has no public way: one for each library.
PRIVATE = {
    "keras": "trainer/models/keras_private.py",
    "tensorflow.python": "trainer/doctor/probe.py",
    "tensorflow.compiler": "trainer/preflight/spmd.py",
    "jax._src": "trainer/preflight/worker.py",
    "apache_beam": "beam_jobs/engine.py",
    "aiohttp": "beam_jobs/download/connections.py",
}
_PUBLIC_UNDERSCORES = {"_exit", "_replace", "_asdict", "_make", "_fields"}  # of os and of named tuples


@functools.cache
def modules() -> Mapping[str, pathlib.Path]:
    """Maps every module of the packages to its file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imported(module: str) -> Iterator[tuple[str, int]]:
    """Yields what a module imports, lazily or not, as dotted names with their lines: `a.b` for `from a import b`."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno}: imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def arrows(module: str) -> set[str]:
    """Returns the modules of the packages that a module imports."""
    found = set()
    for name, _ in imported(module):
        if name.split(".")[0] in PACKAGES:
            found.add(name if name in modules() else name.rpartition(".")[0])
    return found - {module}


def within(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


def cycles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Returns a cycle for every strongly connected part of a graph that has one."""
    found, done = [], set()

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            found.append([*path[path.index(node) :], node])
        elif node not in done:
            for following in sorted(graph.get(node, ())):
                visit(following, [*path, node])
            done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def test_names_are_imported_from_where_they_are_defined():
    # But for a package's face, which hands names on.
    defined = {
        module: {
            name
            for node in ast.walk(tree(module))
            for name in (
                [node.name] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                else [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
                else [alias.asname or alias.name for alias in node.names]
                if isinstance(node, ast.ImportFrom) and modules()[module].name == "__init__.py"
                else []
            )
        }
        for module in modules()
    }  # fmt: skip
    for module in modules():
        for name, line in imported(module):
            if name.split(".")[0] in PACKAGES and name not in modules():
                home, _, own = name.rpartition(".")
                assert own in defined.get(home, ()), f"{modules()[module]}:{line}: there is no {name}"


def test_what_tests_and_benchmarks_import_exists_in_strings_too():
    statement = re.compile(rf"(?:from|import) ((?:{'|'.join(PACKAGES)})(?:\.\w+)+)")
    for folder in ("tests", "benchmarks", "examples", "notebooks"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".ipynb", ".sh"):
                for name in statement.findall(path.read_text(encoding="utf-8")):
                    assert name in modules() or name.rpartition(".")[0] in modules(), f"{path}: there is no {name}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_arrows_go_down_only(module):
    place = max((key for key in MAY_IMPORT if within(module, key)), key=len)
    # A file at the root of a package is a place of its own, whose fellows count as other places.
    allowed = MAY_IMPORT[place] if place in PACKAGES and place != "trainer" else (*MAY_IMPORT[place], place)
    if place in ("beam_jobs", "retrain"):
        allowed = (*allowed, place)
    for target in arrows(module):
        assert any(within(target, other) for other in allowed), f"{module} must not import {target}"


def test_nobody_imports_a_command():
    commands = {m for m in modules() if 'if __name__ == "__main__"' in modules()[m].read_text(encoding="utf-8")}
    for module in modules():
        # Beam's worker is started as a process, and asked what command that takes.
        assert not (arrows(module) & commands - {"beam_jobs.worker"}), f"{module} imports a command"


def test_no_file_and_no_folder_stands_in_a_circle():
    assert cycles({module: arrows(module) for module in modules()}) == []
    deepest = max(module.count(".") for module in modules()) + 1
    for depth in range(1, deepest + 1):
        rooms = collections.defaultdict(set)
        for module in modules():
            for target in arrows(module):
                room, other = (".".join(name.split(".")[:depth]) for name in (module, target))
                # A package's own __init__ is no room beside its files.
                if room != other and not within(room, other) and not within(other, room):
                    rooms[room].add(other)
        assert cycles(rooms) == []


def test_modules_are_started_by_name_only_where_it_is_said():
    for module in modules():
        texts = {
            node.value for node in ast.walk(tree(module)) if isinstance(node, ast.Constant) and node.value in modules()
        }
        assert {t for t in texts if "." in t} == set(STARTS.get(module, ())), module
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree("pipeline.preview").body)
    assert not any("pipeline.preview" in arrows(module) for module in modules())


def test_the_builder_and_what_it_shares_are_free_of_tensorflow():
    for module in modules():
        if any(within(module, place) for place in FREE_OF_TENSORFLOW):
            names = {name.split(".")[0] for name, _ in imported(module)}
            assert not names & set(_TENSORFLOW), module


def test_importing_a_package_does_nothing_but_import():
    code = (
        "import os, sys; before = dict(os.environ), set(sys.modules)\n"
        f"import {', '.join(PACKAGES)}\n"
        "assert dict(os.environ) == before[0]\n"
        "print(sorted(set(sys.modules) - before[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == sorted(PACKAGES)


def test_private_names_of_libraries_stay_in_one_file_each():
    for module, path in modules().items():
        file = path.relative_to(ROOT).as_posix()
        for name, line in imported(module):
            for library in ("tensorflow.python", "tensorflow.compiler", "jax._src"):
                assert not within(name, library) or PRIVATE[library] == file, f"{file}:{line}: {name}"
        if file in (PRIVATE["keras"], PRIVATE["apache_beam"], PRIVATE["aiohttp"]):
            continue
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                assert own or node.attr in _PUBLIC_UNDERSCORES, f"{file}:{node.lineno}: {node.attr}"


def test_there_is_one_error_hierarchy_and_it_is_drawn():
    drawn = ast.get_docstring(tree("pipeline.command")) or ""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ClassDef)
    }

    def is_exception(name: str) -> bool:
        return any(
            base.endswith(("Error", "Exception")) or (base in bases and is_exception(base)) for base in own(name)
        )

    def own(name: str) -> set[str]:
        return bases.get(name, set())

    def is_expected(name: str) -> bool:
        return name == "ExpectedError" or any(is_expected(base) for base in own(name))

    errors = {name for name in bases if is_exception(name)}
    assert {"UsageError", "Refused", "RecordError", "RowError"} <= errors
    for name in errors:
        assert is_expected(name), f"{name} is not of the one hierarchy"
        assert re.search(rf"\b{name}\b", drawn), f"{name} is not drawn in pipeline/command.py"


def test_files_and_functions_keep_to_their_size():
    for module, path in modules().items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 400, f"{path}: {lines} lines; one concept a file"
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 70, f"{path}:{node.lineno}: {node.name} has {length} lines"


def test_three_files_of_one_prefix_are_a_folder():
    counts = collections.Counter(
        (path.parent.relative_to(ROOT).as_posix(), path.stem.split("_")[0])
        for path in modules().values()
        if "_" in path.stem.strip("_") and path.stem != "__init__"
    )
    names = {(path.parent.relative_to(ROOT).as_posix(), path.stem) for path in modules().values()}
    for key, count in counts.items():
        assert count + (key in names) < 3, f"{key}: make it a folder"


def _page() -> str:
    return (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def _has(path: pathlib.Path, name: str) -> bool:
    """Says whether a Python file defines `name`, `Class.member` too."""
    nodes: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        for node in nodes:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}
            if part in names:
                nodes = getattr(node, "body", [])
                break
        else:
            return False
    return True


def test_every_place_that_the_page_names_exists():
    quoted = re.findall(r"`([^`\n]+)`", _page())
    # A file of the repository: in a folder, or one of those at its root that the page names.
    places = [q for q in quoted if re.fullmatch(r"[\w/]+/\w+\.(py|md|j2|yaml)(:[\w.]+)?|(README|BUILD_NOTES)\.md", q)]
    assert len(places) > 60
    for place in places:
        file, _, name = place.partition(":")
        path = ROOT / file
        assert path.exists(), f"ARCHITECTURE.md: no {file}"
        assert not name or _has(path, name), f"ARCHITECTURE.md: no {name} in {file}"
    for folder in (
        q for q in quoted if re.fullmatch(r"[\w/]+/", q) and q.split("/")[0] in (*PACKAGES, "tests", "benchmarks")
    ):
        assert (ROOT / folder).is_dir(), f"ARCHITECTURE.md: no {folder}"


def test_every_command_that_the_page_names_can_be_started():
    packages = "|".join((*PACKAGES, "examples", "benchmarks"))
    for name in set(re.findall(rf"python -m ((?:{packages})[\w.]*)", _page())):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"ARCHITECTURE.md: no {name}"


def test_the_page_stays_a_page():
    assert len(_page().splitlines()) <= 160


def test_every_room_stands_on_the_page():
    page = _page()
    for package in PACKAGES:
        for folder in sorted((ROOT / package).iterdir()):
            if folder.is_dir() and (folder / "__init__.py").exists():
                assert re.search(rf"\b{folder.name}/", page), f"ARCHITECTURE.md does not name {package}/{folder.name}/"
