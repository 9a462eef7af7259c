"""Runs the README and the documentation as somebody would who types all that they show, in the order of the pages.

In a folder with photos of flowers; what the commands print is compared with what the pages show (`expected`). What a
page makes, later ones use.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.docs import blocks
from tests.docs.expected import differs

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTOS = 20  # of each class: enough for what is shown, and a walk in minutes
SECONDS = 1_800  # for one command


@pytest.fixture
def folder(shared_data, tmp_path):
    """Makes the folder that the pages speak of: `flowers` and, as in a checkout, `examples`."""
    for label in sorted((shared_data / "flowers").iterdir()):
        (tmp_path / "flowers" / label.name).mkdir(parents=True)
        for photo in sorted(label.iterdir())[:PHOTOS]:
            (tmp_path / "flowers" / label.name / photo.name).symlink_to(photo)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    launcher = tmp_path / "bin" / "python"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')  # a link would not find this one's packages
    launcher.chmod(0o755)
    return tmp_path


def walk(pages, folder):
    """Runs the blocks of pages in a folder; returns what differs from what they show, a text for each."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    found = []
    for block in (block for page in pages for block in blocks.blocks(page)):
        if block.language not in blocks.RUN or block.mark:
            continue
        for command, shown in block.commands():
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            line = differs(shown, done.stdout.splitlines()) if shown else ""
            if done.returncode or line:
                how = f"exit code {done.returncode}, not printed as shown: {line!r}"
                found.append(f"{block.place}: $ {command}\n{how}\n{done.stdout[-3000:]}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("pages", ["README.md", "docs"])
def test_what_pages_show_is_what_is_printed(pages, folder):
    readme, *documentation = blocks.pages()
    if found := walk([readme] if pages == "README.md" else documentation, folder):
        pytest.fail("\n\n".join(found), pytrace=False)
