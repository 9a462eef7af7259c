"""What native libraries write is shown when a process fails, however it ends, and not otherwise; in real processes."""

import subprocess
import sys
import time

import pytest

PROGRAM = """
import ctypes, os, signal, subprocess, sys, time, warnings
from absl import flags, logging
from pipeline import command
from pipeline.native_output import hide_native_output

def main(arguments):
    os.write(2, b"I0000 a native note\\n")
    logging.warning("of ours")
    print("printed", file=sys.stderr)
    {body}

command.run_command(main, is_native=True)
"""
NOTE = "I0000 a native note\n"
GUEST = """
import logging, os, sys
from pipeline.native_output import native_output_hidden, show_native_output

logging.basicConfig(format="%(message)s")
before = sys.stderr
for _ in range(2):
    with native_output_hidden():
        os.write(2, b"I0000 a native note\\n")
        logging.warning("of the user's own")
        logging.getLogger("library").addHandler(logging.StreamHandler())
        print("printed", file=sys.stderr)
        {body}
assert sys.stderr is before
logging.getLogger("library").error("of a library")
os.write(2, b"after\\n")
print(len(os.listdir("/proc/self/fd")), file=sys.stderr)
"""


def run(tmp_path, body, *flags, shell="{python} {file} {flags}"):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(body=body))
    line = shell.format(python=sys.executable, file=file, flags=" ".join(flags))
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return None", 0),
        ("raise command.UsageError('--x=3: no')", 64),
        ("raise command.TryAgainError('locked')", 75),
        ("raise KeyboardInterrupt", 130),
        ("command.end_at_once(75)", 75),
        ("warnings.warn('deprecated')", 0),
    ],
)
def test_who_ends_on_purpose_shows_nothing_native(tmp_path, body, code):
    done = run(tmp_path, body)
    assert done.returncode == code
    assert NOTE not in done.stderr
    assert "warning: of ours\nprinted\n" in done.stderr
    assert "deprecated" not in done.stderr


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return 1 / 0", 70),
        ("os.abort()", 134),
        ("ctypes.string_at(0)", 139),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("os._exit(3)", 3),
    ],
)
def test_who_fails_shows_it(tmp_path, body, code):
    done = run(tmp_path, body, shell="{python} {file} {flags}; exit $?")
    assert done.returncode == code
    assert done.stderr.count(NOTE) == 1
    assert "warning: of ours\nprinted\n" in done.stderr


def test_verbosity_shows_it_as_it_comes(tmp_path):
    done = run(tmp_path, "return None", "--verbosity=1")
    assert (done.returncode, done.stderr.splitlines()[0] + "\n") == (0, NOTE)


def test_the_last_of_much_is_shown(tmp_path):
    done = run(tmp_path, "os.write(2, b'x' * 1_000_000 + b'the reason'); os.abort()", shell="{python} {file}; exit $?")
    assert "x" * 1000 + "the reason" in done.stderr  # the shell's own line on the crash may come before or after it
    assert len(done.stderr) < 100_000


def test_ours_comes_at_once(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(body="time.sleep(60)"))
    with subprocess.Popen([sys.executable, str(file)], stderr=subprocess.PIPE, text=True) as process:
        begun = time.monotonic()
        assert process.stderr.readline().endswith("warning: of ours\n")
        assert time.monotonic() - begun < 30
        process.terminate()


def test_without_a_standard_error_all_works_on(tmp_path):
    assert run(tmp_path, "return None", shell="{python} {file} 2>&-").returncode == 0
    assert run(tmp_path, "return None", shell="TMPDIR=/proc {python} {file}").returncode == 0


def test_nothing_is_left_behind(tmp_path):
    (tmp_path / "tmp").mkdir()
    run(tmp_path, "os.abort()", shell=f"TMPDIR={tmp_path}/tmp {{python}} {{file}}; true")
    assert not list((tmp_path / "tmp").iterdir())


def guest(tmp_path, body):
    file = tmp_path / "guest.py"
    file.write_text(GUEST.format(body=body))
    return subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)


def test_a_guest_hides_what_is_native_and_nothing_else_and_leaves_all_as_it_was(tmp_path):
    done = guest(tmp_path, "pass")
    seen = ["of the user's own", "printed"] * 2 + ["of a library"] * 2 + ["of a library", "after"]
    assert done.stderr.splitlines()[:-1] == seen
    more = guest(tmp_path, "with native_output_hidden(): os.write(2, b'nested')")
    assert more.stderr == done.stderr, "as many files are open"


@pytest.mark.parametrize(
    "body",
    ["show_native_output(); 1 / 0", "os.abort()", "os.kill(os.getpid(), 9)", "import ctypes; ctypes.string_at(0)"],
)
def test_a_guest_shows_it_once_where_it_fails(tmp_path, body):
    done = guest(tmp_path, body)
    time.sleep(0.2)  # for the shell that outlives it
    assert done.stderr.count(NOTE) == 1
    assert "printed" in done.stderr
