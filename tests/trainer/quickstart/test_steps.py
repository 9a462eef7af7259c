"""Tests the steps with the real commands behind them, as far as that takes seconds."""

import json
import os

import pytest

from pipeline.command import DataError
from tests.beam_jobs.image_folders import make_folder
from trainer.quickstart.place import find_place
from trainer.quickstart.steps import Commands, Steps


def steps(place, **of_build):
    return Steps(place=place, recipe="quick", of_build=of_build, commands=Commands(), lock=None, tick=lambda: None)


def test_a_build_that_refuses_too_many_photos_says_which_and_is_allowed_them(tmp_path):
    make_folder(tmp_path / "photos", images=10)
    for number in range(8):
        (tmp_path / "photos" / "cat" / f"gone{number}.jpg").write_text("<html>404</html>")
    place = find_place(str(tmp_path / "photos"), None)
    os.mkdir(place.root)
    with pytest.raises(DataError, match=r"8 of \d+ images refused .* --max_reject_fraction=0.1 ") as refused:
        steps(place, max_reject_fraction=0.1).build(lambda: False)
    told, _, path = str(refused.value).partition("; which, and why: ")
    assert told.endswith("(8 not_an_image)")
    with open(path, encoding="utf-8") as file:
        left_out = [json.loads(line) for line in file]
    assert {row["uri"].rpartition("/")[2] for row in left_out} == {f"gone{number}.jpg" for number in range(8)}
    assert steps(place, max_reject_fraction=0.5).build(lambda: False)
