"""The log as people read it, on a terminal and in a file; with real bars."""

import re
import subprocess
import sys

from tests.terminals import on_terminal

PROGRAM = """
import time
from absl import logging
from tqdm import tqdm
from pipeline import command

def main(arguments):
    bar = tqdm(total=2, desc="a bar that is wider than the line", leave=False, file=None, disable=None)
    bar.update()
    logging.info("a line")
    logging.warning("look")
    bar.close()

command.run_command(main)
"""


def test_on_a_terminal_lines_are_short_and_the_bar_is_taken_away_before(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    seen = on_terminal([sys.executable, str(tmp_path / "program.py")])
    assert seen.code == 0
    assert "a bar" in seen.raw
    found = [line for line in seen.screen if line]
    assert len(found) == 2
    assert re.fullmatch(r"\d\d:\d\d a line", found[0])
    assert re.fullmatch(r"\d\d:\d\d warning: look", found[1])


def test_in_a_file_they_have_a_date(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True, check=True)
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"{time} a line\n{time} warning: look\n", done.stderr)
