"""Tests that the files which a user's file imports are found without running them, against what Python imports."""

import subprocess
import sys

import pytest

from pipeline.own_imports import imports_of

FILES = {
    "mine.py": "import helpers\nfrom nets import blocks\nimport numpy as np\nimport trainer.recipes.photos\n"
               "def late():\n    import later\n",
    "helpers.py": "from nets.deep.layers import conv\nimport helpers_of_helpers, json\n",
    "helpers_of_helpers.py": "import mine\n",
    "later.py": "this is no Python\n",
    "never.py": "raise SystemExit(1)\n",
    "nets/__init__.py": "from .shared import width\n",
    "nets/blocks.py": "from . import more\nfrom ..nowhere import x\n",
    "nets/more.py": "",
    "nets/shared.py": "width = 3\n",
    "nets/unused.py": "",
    "nets/deep/layers.py": "from ..more import *\nconv = 1\n",
}  # fmt: skip
IMPORTED = {"helpers.py", "helpers_of_helpers.py", "later.py", "nets/__init__.py", "nets/blocks.py", "nets/more.py",
            "nets/shared.py", "nets/deep/layers.py"}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, source in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    return tmp_path


def found(folder, name="mine.py", folders=None):
    file = folder / name
    return {one.name: one for one in imports_of(str(file), file.read_bytes(), [str(f) for f in folders or [folder]])}


def test_all_that_is_the_users_is_found_and_nothing_else(folder):
    files = found(folder)
    assert set(files) == IMPORTED
    for name, one in files.items():
        assert (one.file, one.source) == (str(folder / name), FILES[name].encode())


def test_python_imports_the_same(folder):
    (folder / "nets" / "blocks.py").write_text("from . import more\n")
    program = (
        "import sys, helpers\nfrom nets import blocks\n"
        "print(*sorted(m.__file__ for m in sys.modules.values() if (getattr(m, '__file__', None) or '').startswith("
        f"{str(folder)!r})), sep='\\n')"
    )
    (folder / "helpers_of_helpers.py").write_text("")
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert {str(folder / name) for name in IMPORTED - {"later.py"}} == set(done.stdout.split())


def test_the_first_folder_that_has_a_module_counts(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "helpers.py").write_text("")
    assert found(folder, folders=[folder, other])["helpers.py"].file == str(folder / "helpers.py")
    assert found(folder, folders=[other, folder])["helpers.py"].file == str(other / "helpers.py")
    assert set(found(folder, folders=[other])) == {"helpers.py"}
