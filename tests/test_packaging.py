"""What is shipped: the wheel and the source distribution, their metadata, and the Pythons that they promise."""

import ast
import email
import importlib.metadata
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("beam_jobs", "pipeline", "retrain", "trainer")
FOLDERS = (*PACKAGES, "benchmarks", "docs", "examples", "notebooks", "scripts", "tests", ".ci")
FILES = (
    *("setup.py", "pyproject.toml", "MANIFEST.in", "Makefile", "constraints.txt", "LICENSE", "NOTICE"),
    *("README.md", "ARCHITECTURE.md", "BUILD_NOTES.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
)

# The hooks that pip calls, without pip: it would look for setuptools on the network.
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"


def run(*command, **options):
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


def build(kind, source, output):
    """Builds a "wheel" or "sdist" of the tree in `source`; returns its path."""
    done = run(sys.executable, "-c", BUILD, kind, output, cwd=source)
    assert done.returncode == 0, done.stderr
    (path,) = output.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Built from a copy: setuptools leaves build/ behind, whose files would go into every later wheel."""
    tree, output = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("sdist")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    return build("sdist", tree, output)


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the unpacked source distribution, which so proves to hold all that a build needs."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    with zipfile.ZipFile(build("wheel", tree, folder)) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def promised_minors():
    """Of Python 3, from `python_requires`."""
    found = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', (ROOT / "setup.py").read_text())
    return range(int(found[1]), int(found[2]))


def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel):
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".j2", ".js", ".tgz")
        or path.name == "py.typed"
        or path.match("trainer/preflight/answers/*.json")
    }
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= shipped
    assert sum(name.endswith(".j2") for name in shipped) >= 3
    assert sum(name.endswith(".json") for name in shipped) >= 4
    assert sum(name.endswith(".js") for name in shipped) >= 4


def test_the_wheel_holds_licence_and_notice(wheel):
    for name in ("LICENSE", "NOTICE"):
        (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/licenses/{name}"))
        assert wheel.read(path) == (ROOT / name).read_bytes()


def test_the_source_distribution_holds_what_its_makefile_runs(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(FILES) <= names
    assert {".ci/run", "examples/demo.py", "tests/test_packaging.py", "benchmarks/build.py"} <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_wheel_brings_the_command_of_the_quickstart(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    scripts = dict(re.findall(r"^(\S+) = (\S+)$", wheel.read(name).decode(), re.MULTILINE))
    module, _, function = scripts["photos-to-model"].partition(":")
    code = f"import sys; sys.argv[1:] = ['--help']; from {module} import {function}; {function}()"
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "python -m trainer.quickstart PHOTOS" in done.stdout
    assert "--time:" in done.stdout


def test_metadata(metadata):
    assert metadata["Name"] == "tpu-retraining"
    assert metadata["License"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata.get_payload(decode=True).decode().strip() == readme.strip()


def test_classifiers_name_the_pythons_that_are_promised(metadata):
    minors = [f"Programming Language :: Python :: 3.{minor}" for minor in promised_minors()]
    assert [line for line in metadata.get_all("Classifier") if re.search(r":: 3\.\d", line)] == minors


def test_code_finds_the_version_of_setup_py(metadata):
    """In the checkout's environment, where commands ask for it."""
    assert importlib.metadata.version("tpu-retraining") == metadata["Version"]


def test_the_changelog_knows_this_version(metadata):
    assert f"\n## [{metadata['Version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# Two commands may define a flag of one name, so each module's flags are forgotten once it is imported.
IMPORT_ALL = """
import importlib, pathlib, sys, traceback
from absl import flags
for package in sys.argv[1:]:
    for path in sorted(pathlib.Path(package).rglob("*.py")):
        before = set(flags.FLAGS)
        name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        try:
            importlib.import_module(name)
        except Exception:
            print(name, traceback.format_exc())
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
"""


def test_every_module_imports():
    """The quickest proof that this Python and these versions of the dependencies have the names that we use."""
    done = run(sys.executable, "-c", IMPORT_ALL, *PACKAGES, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert not done.stdout


def script(path, text):
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def ci(tmp_path):
    """A function that runs the real script where `working` Pythons are on the PATH, and those of `managed` in pyenv.

    Of the others the PATH holds stand-ins that fail, as pyenv's do. `make` only notes what it is asked for.
    """
    tools, checkout, calls = tmp_path / "tools", tmp_path / "checkout", tmp_path / "calls"
    tools.mkdir()
    for tool in ("bash", "dirname", "env"):
        (tools / tool).symlink_to(shutil.which(tool))
    script(tools / "make", 'echo "$@" >> "$CALLS"')
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    shutil.copy(ROOT / "setup.py", checkout)

    def run_ci(*, working, managed=()):
        for minor in promised_minors():
            script(tools / f"python3.{minor}", f"exit {0 if minor in working else 127}")
        for minor in managed:
            folder = tmp_path / "pyenv" / "versions" / f"3.{minor}.1" / "bin"
            folder.mkdir(parents=True)
            script(folder / "python", "exit 0")
        environment = {"PATH": str(tools), "CALLS": str(calls), "PYENV_ROOT": str(tmp_path / "pyenv")}
        done = run(checkout / ".ci" / "run", env=environment)
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run_ci


OLDEST, NEWEST = promised_minors()[0], promised_minors()[-1]
ALL_WITH_NEWEST = f"test PYTHON=python3.{NEWEST} VENV=.venv-3.{NEWEST}"
FAST_WITH_OLDEST = f"test-fast PYTHON=python3.{OLDEST} VENV=.venv-3.{OLDEST}"


def test_ci_tests_all_with_the_newest_python_and_the_fast_half_with_the_oldest(ci):
    done, calls = ci(working=promised_minors())
    assert done.returncode == 0
    assert calls == [ALL_WITH_NEWEST, FAST_WITH_OLDEST]
    assert "skipped" not in done.stderr


def test_ci_says_which_python_it_skips(ci):
    done, calls = ci(working=[NEWEST])
    assert done.returncode == 0
    assert calls == [ALL_WITH_NEWEST]
    assert f"skipped: Python 3.{OLDEST}," in done.stderr


def test_ci_tests_all_with_the_newest_python_there_is(ci):
    done, calls = ci(working=[OLDEST])
    assert done.returncode == 0
    assert calls == [FAST_WITH_OLDEST.replace("test-fast", "test")]
    assert f"skipped: Python 3.{NEWEST}," in done.stderr


def test_ci_finds_what_a_version_manager_hides(ci):
    done, calls = ci(working=[OLDEST], managed=[NEWEST])
    assert done.returncode == 0
    assert [call.split()[0] for call in calls] == ["test", "test-fast"]
    assert f"versions/3.{NEWEST}.1/bin/python " in calls[0]


def test_ci_fails_where_no_promised_python_is(ci):
    done, calls = ci(working=[])
    assert done.returncode == 1
    assert not calls
    assert "no Python from" in done.stderr


# Imported, and part of what is declared: of Jinja2, of aiohttp, of TensorFlow.
PART_OF = {"markupsafe", "yarl", "grpc"}
# Not by the name of the distribution.
CALLED = {"PIL": "pillow", "absl": "absl-py", "yaml": "pyyaml", "mlflow": "mlflow-skinny", "apache_beam": "apache-beam"}


def test_what_is_imported_is_declared():
    declared = (ROOT / "setup.py").read_text().lower().replace("_", "-")
    imported = set()
    for file in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, *PACKAGES, *PART_OF, "pixels"}  # pixels.py lies beside ask.py in an export
    assert len(imported) > 20
    names = {CALLED.get(name, name).lower().replace("_", "-") for name in imported}
    assert not [name for name in sorted(names) if not re.search(rf'"{name}[\[>=<"]', declared)]
