"""Tests the order of a quickstart, its stops and its budget, with stand-ins for the commands that it starts."""

import contextlib
import json
import os
import pathlib
import pty
import random
import re
import signal
import subprocess
import time

import html5lib
import pytest

from tests.trainer.quickstart.world import World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_better_run_replaces_the_head_and_a_second_call_changes_nothing(world):
    code, out, err = world.run()
    assert code == 0, err
    assert world.model() == "1.0.0/photos"
    first, then = out.index("model  already"), out.index("model  replaced: fine-tuned, better than the head")
    assert first < then < out.index("done   ")
    before = world.state()
    starts = (world.made / "runs/1.0.0/photos/starts.log").read_text()
    code, out, _ = world.run()
    assert code == 0
    assert world.state() == before
    assert (world.made / "runs/1.0.0/photos/starts.log").read_text() == starts
    assert "model  already" not in out


def test_a_run_that_is_not_better_beyond_chance_does_not_replace_the_head(world):
    world.spec(head=0.9, tuned=0.93)
    world.add("<i>&", 60)
    code, out, err = world.run()
    assert code == 0, err
    assert world.model() == "1.0.0/photos-head"
    assert "is not better beyond chance" in out
    page = (world.made / "index.html").read_text()
    html5lib.HTMLParser(strict=True).parse(page)
    assert "&lt;i&gt;&amp;" in page
    assert "<b>stays</b>: a head on the frozen backbone; fine-tuned it is not better beyond chance" in page
    assert "comparison.html" in page


@pytest.mark.slow
def test_another_recipe_on_the_same_photos_has_to_prove_to_be_better(world):
    world.spec(head=0.9, tuned=0.93)
    world.run()
    code, out, err = world.run("--recipe=quick")
    assert code == 0, err
    assert world.model() == "1.0.0/photos-head"
    assert "by quick it is not better beyond chance" in out
    world.spec(head=0.9, tuned=1.0)
    world.add("class0", 1, first=100)
    world.run("--recipe=quick")
    assert world.model() == "1.0.1/quick"


def test_on_a_terminal_one_line_says_how_long_it_will_take_and_none_of_it_stays(world):
    world.spec(head=0.6, tuned=0.9, seconds=0.8, epoch_seconds=0.2)
    ours, theirs = pty.openpty()
    process = world.start(stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # what Linux says of a terminal whose other side is closed
        while part := os.read(ours, 4096):
            said += part
    assert process.wait() == 0
    shown = [text for text in re.split(r"\r\x1b\[K", said.decode()) if text]
    passing = [text for text in shown if "\n" not in text]
    for what in ("checking the data: about ", "making a first model: about ", "fine-tuning, epoch 1 of 15: about "):
        assert any(text.startswith(what) and text.endswith(" to the end") for text in passing), shown
    lines = "".join(text for text in shown if "\n" in text).splitlines()
    assert all(re.match(r"\d\d:\d\d  \w|  +", line) for line in lines), lines


def test_more_photos_give_a_new_version_and_its_model_takes_over_unless_it_is_worse(world):
    world.run()
    world.add("class0", 30, first=100)
    code, out, err = world.run()
    assert code == 0, err
    assert world.model() == "1.0.1/photos"
    assert "in place of that of the photos before" in out
    world.spec(head=0.3, tuned=0.4)
    world.add("class1", 30, first=100)
    code, out, err = world.run()
    assert code == 0, err
    assert world.model() == "1.0.1/photos", "a model that is surely worse replaces none"
    assert "the new one would be worse" in out


def test_a_new_class_takes_over_as_soon_as_a_head_knows_it(world):
    world.run()
    world.spec(head=0.6, tuned=0.9, epoch_seconds=60)
    world.add("class2", 60)
    process = world.start()
    for line in process.stdout:
        if "model  already" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err.strip() == "error: stopped by SIGTERM; run the same command again to continue"
    assert world.model() == "1.0.1/photos-head"


def test_a_red_check_leaves_a_head_to_try_and_ends_with_65(world):
    world.spec(head=0.6, tuned=0.9, red=True)
    code, _, err = world.run()
    assert code == 65
    assert err.startswith("error: Not ready to train. Mend that and run the same command again")
    assert world.model() == "1.0.0/photos-head"
    assert not (world.made / "runs/1.0.0/photos").exists()


@pytest.mark.parametrize("code", [64, 65, 75])
def test_a_build_that_refuses_the_photos_is_quoted_and_leaves_nothing(world, code):
    world.spec(fail=code)
    found, _, err = world.run()
    assert found == code
    assert err.strip() == "error: PHOTOS=x: so it is"
    assert world.made.exists() == (code == 75)


def test_a_time_that_is_too_short_for_a_head_is_refused_at_once(world):
    started = time.monotonic()
    code, _, err = world.run("--time=5s")
    assert code == 64
    assert err.startswith("error: --time=5s is too short: a first model of 200 photos takes about")
    assert not world.made.exists()
    assert time.monotonic() - started < 10


def fast(world, *, epoch):
    """Lets stand-ins take four seconds an epoch, and says that this machine is fast, by this much in epochs.

    Returns:
      The seconds that a process takes to start now: on a busy machine more than what stand-ins do.
    """
    started = time.monotonic()
    assert world.run("--time=1s")[0] == 64
    starting = time.monotonic() - started
    world.spec(head=0.6, tuned=0.9, epoch_seconds=4)
    world.made.mkdir()
    slowness = {"build": 0.05, "check": 0.05, "head": 0.05, "epoch": epoch}
    (world.made / "quickstart.json").write_text(json.dumps({"slowness": slowness, "decisions": []}))
    return starting


@pytest.mark.slow
def test_a_budget_makes_fine_tuning_shorter_and_it_is_kept(world):
    starting = fast(world, epoch=1.1)  # as it is
    started = time.monotonic()
    code, out, err = world.run("--time=60s")
    assert code == 0, err
    assert time.monotonic() - started < 60 * 1.1 + 4 * starting, "kept to within a tenth"
    assert 0 < int(re.search(r"tune   (\d+) epochs", out)[1]) < 15
    # On a machine that is busier than it was at the head, it is stopped as well.
    assert re.fullmatch(r"1\.0\.0/photos-(after-)?[1-9]\d?ep", world.model()), out
    world.spec(head=0.6, tuned=0.9)
    code, out, err = world.run()
    assert code == 0, err
    assert world.model() == "1.0.0/photos", "without a budget it goes all the way"


@pytest.mark.slow
def test_fine_tuning_that_takes_longer_than_guessed_is_stopped_and_a_model_made_of_it(world):
    starting = fast(world, epoch=0.11)  # ten times as fast as it is, so that all epochs seem to fit
    started = time.monotonic()
    code, out, err = world.run("--time=50s")
    assert code == 0, err
    assert time.monotonic() - started < 50 * 1.1 + 4 * starting, "kept to within a tenth"
    assert "stopped for the time's sake after" in out
    assert re.fullmatch(r"1\.0\.0/photos-after-[1-9]\d?ep", world.model()), out
    done = len((world.made / "runs/1.0.0/photos/metrics.jsonl").read_text().splitlines()) - 1
    assert 1 <= done < 15
    world.spec(head=0.6, tuned=0.9)
    code, out, err = world.run()
    assert code == 0, err
    assert world.model() == "1.0.0/photos", "the same run goes on, and what it ends with is taken"


@pytest.mark.slow
def test_a_budget_is_kept_where_making_a_model_of_a_stopped_run_takes_too_long(world):
    starting = fast(world, epoch=0.11)
    world.spec(head=0.6, tuned=0.9, epoch_seconds=4, export_seconds=600)
    started = time.monotonic()
    code, out, err = world.run("--time=40s")
    assert code == 0, err
    assert time.monotonic() - started < 40 * 1.1 + 4 * starting, "kept to within a tenth"
    assert "there was no time left to make a model of it" in out
    assert world.model() == "1.0.0/photos-head"
    world.spec(head=0.6, tuned=0.9)
    code, out, err = world.run()
    assert code == 0, err
    assert world.model() == "1.0.0/photos", "the same run goes on, and what it ends with is taken"


def test_two_at_once_are_one_too_many_and_a_killed_one_takes_its_command_along(world):
    world.spec(head=0.6, tuned=0.9, epoch_seconds=60)
    first = world.start()
    for line in first.stdout:
        if "tune  " in line:
            break
    started = world.made / "runs/1.0.0/photos/starts.log"
    while not started.exists():
        time.sleep(0.05)
    code, _, err = world.run()
    assert code == 75
    assert f"makes a model of these photos (process {first.pid} since" in err
    first.kill()
    first.communicate()
    until = time.monotonic() + 10
    while pathlib.Path(f"/proc/{started.read_text().strip()}").exists():
        assert time.monotonic() < until, "its command outlives it"
        time.sleep(0.05)
    world.spec(head=0.6, tuned=0.9)
    assert world.run()[0] == 0


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again_it_ends_in_the_same_place(tmp_path, world):
    straight = World(tmp_path / "straight")
    straight.run()
    expected = straight.state()
    world.spec(head=0.6, tuned=0.9, epoch_seconds=0.1)
    draws = random.Random(0)
    for _ in range(20):
        process = world.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draws.uniform(0.3, 2.5))
        process.kill()
        process.communicate()
        if (world.made / "model").exists():
            assert (world.made / "model" / "SHA256SUMS").exists(), "what is linked to is whole"
    assert world.run()[0] == 0
    assert world.state() == expected
