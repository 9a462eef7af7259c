"""Tests a local build's light processes: when there are any, and what becomes of a build whose images kill them."""

import os
import signal
import sys

import pytest

from beam_jobs import build, crew
from beam_jobs.sources import SourceItem
from beam_jobs.sources.folder import FolderSource
from pipeline.command import CommandError, ExitCode
from tests.beam_jobs.image_folders import config, files_of, make_folder, run_build

_TWO = ["--direct_num_workers=2"]


class DeadlySource(FolderSource):
    """Ends the process at an image called `deadly`, as a decoder's fault would; raises at `gone`, as a bug would."""

    def read(self, item: SourceItem) -> bytes:
        if "deadly" in item.uri:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "gone" in item.uri:
            raise RuntimeError("no such thing")
        return super().read(item)


class ChangingSource(FolderSource):
    """Adds a byte to the end of one image whenever it has been read, by whatever process."""

    def read(self, item: SourceItem) -> bytes:
        data = super().read(item)
        if item.uri == "cat/1.jpg":
            with open(os.path.join(self.root, item.uri), "ab") as file:
                file.write(b"x")
        return data


@pytest.mark.parametrize(
    ("arguments", "images", "size"),
    [
        ([], 10, 0),
        ([], 10**6, len(os.sched_getaffinity(0)) if len(os.sched_getaffinity(0)) > 1 else 0),
        (["--direct_num_workers=3"], 10, 3),
        (["--direct_num_workers=1"], 10**6, 0),
        (["--direct_running_mode=in_memory"], 10**6, 0),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=3"], 10**6, 0),
        (["--runner=DirectRunner", "--direct_num_workers=3"], 10**6, 3),
        (["--runner=DataflowRunner", "--project=p", "--num_workers=3"], 10**6, 0),
    ],
)
def test_a_crew_works_where_the_user_left_the_choice(arguments, images, size):
    assert crew.crew_size(arguments, images=images) == size


def test_an_image_that_crashes_its_reader_is_named(tmp_path):
    make_folder(tmp_path / "in", images=60)
    (tmp_path / "in/cat/0.png").rename(tmp_path / "in/cat/deadly.png")
    with pytest.raises(CommandError, match=r"^cat/deadly\.png: reading this image crashes .*\(SIGSEGV\)") as error:
        build.build(DeadlySource(str(tmp_path / "in")), config(tmp_path / "out"), _TWO)
    assert error.value.exit_code == ExitCode.INTERNAL
    assert crew.current() is None
    (tmp_path / "in/cat/deadly.png").unlink()
    again = build.build(DeadlySource(str(tmp_path / "in")), config(tmp_path / "out"), _TWO)
    assert files_of(again.directory) == files_of(run_build(tmp_path / "in", tmp_path / "other").directory)


def test_a_bug_in_a_worker_comes_out_with_its_text(tmp_path):
    make_folder(tmp_path / "in", images=20)
    (tmp_path / "in/cat/0.png").rename(tmp_path / "in/cat/gone.png")
    with pytest.raises(Exception, match="RuntimeError: no such thing"):
        build.build(DeadlySource(str(tmp_path / "in")), config(tmp_path / "out"), _TWO)
    assert crew.current() is None


def test_images_that_change_between_reading_and_writing_are_noticed(tmp_path):
    make_folder(tmp_path / "in", images=20)
    with pytest.raises(CommandError, match="changed while the build ran; run the same command again") as error:
        build.build(ChangingSource(str(tmp_path / "in")), config(tmp_path / "out"), _TWO)
    assert error.value.exit_code == ExitCode.AGAIN


def test_nothing_that_the_crew_imports_is_heavy():
    code = (
        "import sys, beam_jobs.crew_member, beam_jobs.tasks, beam_jobs.sources.folder; "
        "heavy = {'apache_beam', 'tensorflow', 'jinja2', 'etils', 'tqdm', 'requests'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0
