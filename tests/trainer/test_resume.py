"""Tests that runs with each option, killed twice and run again, end in the same place to the bit: real processes."""

import shutil

import pytest

from tests.trainer.commands import ROOT, assert_same_end, kill_and_rerun, run, training_flags
from tests.trainer.runs import SOLVED

pytestmark = pytest.mark.slow
OWN = ROOT / "examples" / "own_code.py"
OPTIONS = {
    "shown whole, macro F1": ["--set=resize=pad", "--set=eval_centre=0", "--set=selection_metric=macro_f1"],
    "cropped, loss": ["--set=resize=crop", "--set=selection_metric=loss"],
    "balanced": ["--set=class_weights=balanced", "--set=selection_metric=balanced_accuracy"],
    "patience": ["--set=phases.1.patience=1", "--set=phases.1.duration=6ep", "--set=selection=last"],
    "no second phase": ["--set=phases.1.duration=0ep", "--set=phases.0.duration=4ep"],
    "images on the device": ["--cache=device", "--set=augment.rotation=0"],
    "averaged": ["--set=ema_decay=0.9", "--set=accumulate=2", "--set=optimizer.clip_norm=1"],
    "statistics": ["--set=phases.1.batch_norm=train", "--set=sam_rho=0.05"],
    "solved": [f"--set={assignment}" for assignment in SOLVED],
    "own recipe": [f"--recipe={OWN}", "--set=phases.0.duration=4ep"],
    "own backbone": [f"--backbone={OWN}:small_cnn", "--set=image_size=32"],
    "own augmentation": [f"--set=augment.policy={OWN}:lights_out"],
}


def _flags(data, workdir, option):
    flags = training_flags(data, workdir, *OPTIONS[option])
    if option == "own recipe":  # whose phases are others
        return [f for f in flags if not f.startswith(("--set=phases.1", "--set=backbone", "--recipe=quick"))]
    return [f for f in flags if option != "own backbone" or not f.startswith("--set=backbone")]


@pytest.mark.parametrize("option", OPTIONS)
def test_killed_twice_and_run_again_ends_in_the_same_place(tiny_data, tmp_path, option):
    whole = run(*_flags(tiny_data, tmp_path / "whole", option))
    assert whole.returncode == 0, whole.stderr
    again = kill_and_rerun(_flags(tiny_data, tmp_path / "killed", option), kills=2, seed=0)
    assert again.returncode == 0, again.stderr
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("more", ["--extend=3ep", "--init"])
def test_a_run_that_goes_on_from_another_does_so_too(tiny_data, tmp_path, more):
    first = tmp_path / "first"
    assert (result := run(*training_flags(tiny_data, first))).returncode == 0, result.stderr
    for name, kills in (("whole", 0), ("killed", 2)):
        workdir = tmp_path / name
        if more == "--init":
            flags = training_flags(tiny_data, workdir, f"--init={first}")
        else:
            shutil.copytree(first, workdir)
            flags = training_flags(tiny_data, workdir, more)
        result = kill_and_rerun(flags, kills=kills, seed=1)
        assert result.returncode == 0, result.stderr
    assert_same_end(tmp_path / "killed", tmp_path / "whole")
