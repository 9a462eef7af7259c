"""A mistyped flag of the builder is told at once, without Beam, and no flag of Beam's is taken for one."""

import pathlib
import subprocess
import sys

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import engine

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-X", "importtime", "-m", "beam_jobs.build_tfrecords"]


def run(*flags):
    done = subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    return (
        done.returncode,
        errors,
        "apache_beam" in {line.rpartition("|")[2].strip() for line in done.stderr.split("\n")},
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--inputs=photos", "--output=data"], 'unknown flag --inputs. Did you mean "--input"?'),
        (["photos", "--out=data"], 'unknown flag --out. Did you mean "--output"?'),
        (["photos", "--output=data", "--spilts=train:1"], 'unknown flag --spilts. Did you mean "--splits"?'),
        (["--output=data"], "--input is missing"),
    ],
)
def test_a_typo_is_told_without_beam(flags, message):
    code, errors, with_beam = run(*flags)
    assert (code, len(errors), with_beam) == (64, 1, False)
    assert errors[0].startswith(f"error: {message}")


def test_no_option_of_beam_s_is_taken_for_a_typo():
    parser = engine._Parser(allow_abbrev=False, add_help=False)
    for group in PipelineOptions.__subclasses__():
        group._add_argparse_args(parser)
    options = [name for name in parser._option_string_actions if name.startswith("--")]
    assert len(options) > 100
    code = (
        "import sys\n"
        "from beam_jobs import build_tfrecords\n"
        "for name in sys.argv[1:]: build_tfrecords._refuse_mistyped([f'{name}=1'])\n"
    )
    subprocess.run([sys.executable, "-c", code, *options], cwd=ROOT, check=True)


def test_a_folder_that_cannot_be_written_is_told_before_the_photos_are_listed(tmp_path):
    code, errors, with_beam = run(str(tmp_path), "--output=/proc/data")
    assert (code, with_beam) == (64, False)
    assert errors == ["error: --output=/proc/data: nothing can be written in /proc (No such file or directory)"]
