"""Ctrl-C on a terminal: answered at once, whatever the process is busy with, and never swallowed."""

import sys

import pytest

from tests.terminals import on_terminal

PROGRAM = """
import contextlib, hashlib, sys, time
from absl import logging
from pipeline import command

def main(arguments):
    logging.info("begun")
    {body}

command.run_command(main, is_native=True)
"""


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(60)",
        "hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)",  # beneath Python, for minutes
        "\n    with contextlib.suppress(KeyboardInterrupt): time.sleep(60)\n    time.sleep(60)",
    ],
    ids=["idle", "native", "swallowed"],
)
def test_it_is_answered_within_a_second(tmp_path, body):
    (tmp_path / "program.py").write_text(PROGRAM.format(body=body))
    seen = on_terminal([sys.executable, str(tmp_path / "program.py")], key=b"\x03", after="begun")
    assert seen.code == 130
    assert seen.answered < 1
    assert "".join(seen.screen).count("interrupted; run the same command again to continue") == 1
    assert "Traceback" not in seen.raw
