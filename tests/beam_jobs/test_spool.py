import os
import pickle
import resource
import subprocess
import sys

import pytest

from beam_jobs import errors, spool
from pipeline.command import ExitCode


def test_blocks_come_back_from_their_file(tmp_path):
    blocks = [os.urandom(size) for size in (0, 10, 1024, 1025, 50_000, 3_000_000)]
    writer = spool.Spool(str(tmp_path))
    places = [writer.put(block) for block in blocks]
    assert [spool.content(place) for place in pickle.loads(pickle.dumps(places))] == blocks
    assert max(len(pickle.dumps(place)) for place in places) < 1100
    assert len(os.listdir(tmp_path)) == 1


def test_small_blocks_need_no_file(tmp_path):
    assert spool.Spool(str(tmp_path / "absent")).put(b"small") == b"small"


def test_a_full_disk_is_an_error_for_the_user(tmp_path):
    code = (
        "import resource, sys\n"
        "from beam_jobs import spool\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "spool.Spool(sys.argv[1]).put(bytes(10_000))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "BuildError: [70]" in done.stderr
    assert "File too large; nothing was published" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_errors_for_the_user_are_found_in_whatever_text_a_runner_raises():
    worker_text = (
        "Traceback (most recent call last):\n  File x\n"
        "beam_jobs.errors.BuildError: [75] a changed; run it again [while running 'WriteShard']\n"
    )
    found = errors.command_error(RuntimeError(worker_text))
    assert (str(found), found.exit_code) == ("a changed; run it again", ExitCode.AGAIN)
    own = errors.command_error(errors.BuildError(ExitCode.DATA, "bad"))
    assert (str(own), own.exit_code) == ("bad", ExitCode.DATA)
    assert errors.command_error(ValueError("a bug")) is None


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "/x/y"), OSError("odd")])
def test_storage_errors_name_the_place(error):
    with pytest.raises(errors.BuildError, match=r"/x/y: No space|/dir: odd"), errors.storage_errors("/dir"):
        raise error
