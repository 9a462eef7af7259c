"""Tests passes that take some steps only, take them anew, or only say what they would do."""

import pytest

from retrain.one_pass import Wanted


def starts(world):
    return sum(len((run / "starts.log").read_text().splitlines()) for run in world.runs())


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"first": "train", "until": "check"}, "train, comes after the last one, check"),
        ({"first": "train", "forced": "check"}, "check is to be forced, and is not among those from train to decide"),
    ],
)
def test_steps_that_contradict_each_other_are_refused(wanted, message):
    with pytest.raises(ValueError, match=message):
        Wanted(**wanted)


@pytest.mark.slow
def test_what_was_decided_is_decided_anew_if_forced(world):
    world.input(right=280)
    world.run()
    assert world.run()[0] == 99
    code, out, _ = world.run("--force=decide")
    assert code == 0, out
    assert starts(world) == 2, "the trainer was asked, and had nothing to do"
    assert "99" not in world.result()["outcome"]
    assert world.champion() == "2"
    (world.run_folder() / "mark").touch()
    assert world.run("--force=train")[0] == 0
    assert not (world.run_folder() / "mark").exists(), "trained from the start"
    assert len(world.log()) == 3


@pytest.mark.slow
def test_steps_before_the_first_are_taken_as_they_are(world):
    world.input(right=280)
    assert world.run("--until=train")[0] == 0
    world.input(right=290)
    code, out, _ = world.run("--from=decide")
    assert code == 0
    assert world.result()["figures"]["accuracy"] == pytest.approx(280 / 300), "the new photos have not been looked at"
    assert "--run=" not in out
    assert "--source=" not in out


@pytest.mark.slow
def test_a_step_that_was_never_taken_cannot_be_left_out(world):
    code, _, err = world.run("--from=train")
    assert code == 64
    assert "Traceback" not in err
    world.input(right=280)
    world.run("--until=check")
    code, _, err = world.run("--from=decide")
    assert code == 64
    assert "--from=decide leaves training out, and" in err
    assert "has never been trained to its end" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--from=train", "--until=build"], "--from, --until and --force: the first step, train, comes after"),
        (["--explain"], "--explain goes with --dry_run"),
        (["--from=bake"], "flag --from=bake"),
    ],
)
def test_wrong_flags_are_refused(world, flags, message):
    code, _, err = world.run(*flags)
    assert code == 64
    assert message in err


def test_a_plan_says_what_a_pass_would_do_and_does_nothing(world):
    world.input(right=280)
    code, out, _ = world.run("--dry_run")
    assert code == 0
    assert "champion: none yet" in out
    assert "holds no dataset yet; all that follows depends on it" in out
    assert not (world.folder / "data").exists()

    world.run("--until=check")
    _, out, _ = world.run("--dry_run")
    assert "no pass has decided about anything yet" in out
    assert "check: the dataset is compared with none; looked at already" in out
    assert "would be trained, recipe photos, starting cold" in out
    assert "decide: on 300 test images; that nobody is worse by 0.02 takes 149 at least; without a champion" in out

    world.run()
    _, out, _ = world.run("--dry_run", "--explain")
    assert "champion: model 1" in out
    assert "promoted; unless the build finds something new, the pass ends here, with exit code 99" in out
    assert "is trained already" in out
    assert "last decision: promoted" in out
    assert "first model: there is no champion to compare with" in out
    assert "gate: margin 0.02, minimum_accuracy 0.5" in out
    _, out, _ = world.run("--dry_run", "--force=train")
    assert "--force=train takes that step and those after it anew" in out
    assert "would be trained" in out

    before = world.state()
    world.configure((world.folder / "retrain.yaml").read_text().replace("0.02", "0.03"))
    _, out, _ = world.run("--dry_run")
    assert "the limits of the gates changed" in out
    assert world.state() == before
