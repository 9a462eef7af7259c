"""Tests exit codes and one-line errors, in real processes."""

import os
import re
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from absl import flags
from pipeline import command
flags.DEFINE_integer("count", 1, "How many.")
{definitions}

def main(arguments):
    {body}

if __name__ == "__main__":
    command.run_command(main, {options})
"""


PLACE = "flags.DEFINE_string('place', None, 'Where.'); flags.DEFINE_alias('old', 'place')"


def _run(tmp_path, body, *arguments, options="", definitions=""):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(body=body, options=options, definitions=definitions))
    return subprocess.run([sys.executable, str(file), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return None", 0, ""),
        ("raise command.UsageError('--x=3: no')", 64, "error: --x=3: no\n"),
        ("raise command.DataError('empty')", 65, "error: empty\n"),
        ("raise command.TryAgainError('locked')", 75, "error: locked\n"),
        ("return command.ExitCode.SKIPPED", 99, ""),
        ("raise KeyboardInterrupt", 130, "interrupted; run the same command again to continue\n"),
    ],
)
def test_every_end_has_its_code_and_no_traceback(tmp_path, body, code, message):
    result = _run(tmp_path, body)
    assert (result.returncode, result.stderr) == (code, message)


@pytest.mark.parametrize(
    ("error", "code", "fix"),
    [
        pytest.param("PermissionDeniedError", 64, "trainer.doctor", marks=pytest.mark.slow),
        ("FailedPreconditionError", 75, "run the same command again"),
    ],
)
def test_what_a_bucket_refuses_is_one_line(tmp_path, error, code, fix):
    answer = "Error executing an HTTP request: HTTP response code 4xx\\n when reading gs://b/x"
    result = _run(tmp_path, f"import tensorflow as tf; raise tf.errors.{error}(None, None, '{answer}')")
    assert result.returncode == code
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert "Traceback" not in result.stderr
    assert "gs://b/x" in line
    assert fix in line


@pytest.mark.parametrize(
    ("number", "code", "fix"),
    [(2, 64, "is the name right"), (13, 64, "trainer.doctor"), (5, 75, "run the same command")],
)
def test_what_storage_raises_for_a_store_is_one_line(tmp_path, number, code, fix):
    result = _run(tmp_path, f"raise OSError({number}, 'no', 's3://b/x')")
    assert result.returncode == code
    assert len(result.stderr.splitlines()) == 1
    assert "s3://b/x" in result.stderr
    assert fix in result.stderr


@pytest.mark.parametrize(
    "body",
    [
        "raise OSError(28, 'No space left on device', '/disk/x')",
        pytest.param(
            "import tensorflow as tf; raise tf.errors.UnknownError(None, None, '{{function_node __wrapped__SaveV2}} "
            "/disk/x; No space left on device [Op:SaveV2]')",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_full_disk_is_one_line(tmp_path, body):
    result = _run(tmp_path, body)
    assert result.returncode == 75
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert "Traceback" not in result.stderr
    assert re.fullmatch(r"error: /disk/x[:;] No space left on device \(make room and run the same .* again\)", line)


def test_errors_of_local_files_are_not_taken_for_a_store_s(tmp_path):
    assert _run(tmp_path, "open('/no/such/file')").returncode == 70


@pytest.mark.slow
def test_errors_of_tensorflow_that_concern_no_bucket_are_bugs(tmp_path):
    result = _run(tmp_path, "import tensorflow as tf; raise tf.errors.UnavailableError(None, None, 'socket closed')")
    assert result.returncode == 70
    assert "Traceback" in result.stderr


def test_a_bug_keeps_its_traceback_and_exits_70(tmp_path):
    result = _run(tmp_path, "return 1 / 0")
    assert result.returncode == 70
    assert "ZeroDivisionError" in result.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--cuont=3", 'Did you mean "--count"?'),
        ("--count=many", "many"),
        ("stray", 'unexpected argument "stray"'),
    ],
)
def test_wrong_flags_cost_one_line_and_exit_64(tmp_path, argument, message):
    result = _run(tmp_path, "return None", argument)
    assert result.returncode == 64
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_unknown_flags_are_handed_on_where_that_is_wanted(tmp_path):
    result = _run(tmp_path, "print(arguments)", "--runner=X", "--count=2", options="keep_unknown_flags=True")
    assert result.stdout == "['--runner=X']\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_command_s_own_flags(tmp_path, flag):
    result = _run(tmp_path, "return None", flag)
    assert result.returncode == 0
    assert "--count: How many." in result.stdout


def test_a_home_is_expanded_in_every_flag(tmp_path):
    body = "print(flags.FLAGS.place, flags.FLAGS.other, flags.FLAGS.name, flags.FLAGS.count, *flags.FLAGS.set)"
    definitions = "flags.DEFINE_string('place', None, ''); flags.DEFINE_string('other', '~', '')"
    definitions += "; flags.DEFINE_multi_string('set', [], '')"
    file = tmp_path / "program.py"
    text = PROGRAM.format(body=body, options="", definitions="")
    file.write_text(text.replace("def main", f"{definitions}; flags.DEFINE_string('name', '', '')\n\ndef main"))
    done = subprocess.run(
        [sys.executable, str(file), "--place=~/photos", "--name=a~b", "--set=weights=~/w.h5", "--set=a=b~c"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": "/home/me"},
    )
    assert (done.stdout, done.stderr) == ("/home/me/photos /home/me a~b 1 weights=/home/me/w.h5 a=b~c\n", "")


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (["--count=2", "here"], "here"),
        (["here", "--count", "2"], "here"),
        (["--place=here"], "here"),
        (["--old", "here"], "here"),
        (["~/here"], os.path.expanduser("~/here")),
    ],
)
def test_the_one_argument_may_stand_without_its_flag(tmp_path, given, value):
    options = "argument='place', needs=('place',)"
    result = _run(tmp_path, "print(flags.FLAGS.place, arguments)", *given, options=options, definitions=PLACE)
    assert (result.returncode, result.stdout) == (0, f"{value} []\n"), result.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--place is missing"),
        (["here", "--place=there"], '"here" stands for --place, which is given, too'),
        (["here", "there"], 'unexpected argument "there"'),
    ],
)
def test_the_one_argument_is_given_once(tmp_path, given, message):
    options = "argument='place', needs=('place',)"
    result = _run(tmp_path, "return None", *given, options=options, definitions=PLACE)
    assert (result.returncode, result.stderr.count("\n")) == (64, 1)
    assert result.stderr.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        (["here", "--runner=X"], ["--runner=X"]),
        (["--runner=X", "here"], ["--runner=X"]),
        (["here", "--runner", "X"], ["--runner", "X"]),
    ],
)
def test_what_others_flags_take_is_no_argument_of_ours(tmp_path, given, handed_on):
    options = "argument='place', keep_unknown_flags=True"
    result = _run(tmp_path, "print(flags.FLAGS.place, arguments)", *given, options=options, definitions=PLACE)
    assert result.stdout == f"here {handed_on}\n", result.stderr


def test_help_has_flags_in_their_order_and_no_other_names(tmp_path):
    result = _run(tmp_path, "return None", "--help", definitions=PLACE)
    assert result.stdout.index("--count") < result.stdout.index("--place") < result.stdout.index("--[no]version")
    assert "--old" not in result.stdout


def test_what_comes_next_can_be_copied(tmp_path):
    result = _run(tmp_path, "command.print_next('go on:', 'python -m x', 'a folder', '--y=1')")
    assert result.stdout == "next, go on: python -m x 'a folder' --y=1\n"
