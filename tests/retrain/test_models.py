"""Tests what a person does with the models of a registry, as commands on real folders."""

import json
import os
import re
import subprocess
import sys

import pytest

from retrain import ledger, prune, registry


def record(number, *, right=90, run=None, dataset="1.0.0"):
    return {
        "time": f"2026-01-0{number}T03:17:00+00:00", "decision": "promoted", "reasons": [f"reason {number}"],
        "figures": {"accuracy": right / 100, "test_images": 100}, "run": f"/runs/{run or number}",
        "dataset": f"/data/versions/{dataset}", "key": f"key{number}", "pass_id": f"p{number}", "name": "flowers",
    }  # fmt: skip


@pytest.fixture
def models(tmp_path):
    """Publishes three models, one after the other champion."""
    root = tmp_path / "models"
    for number in (1, 2, 3):
        folder = tmp_path / f"export{number}"
        (folder / "saved_model").mkdir(parents=True)
        (folder / "saved_model" / "saved_model.pb").write_bytes(b"graph")
        (folder / "labels.txt").write_text("cat\ndog\n" if number < 3 else "cat\nfox\n")
        (folder / "trained_on.txt").write_text("".join(f"{image}\n" for image in range(number * 10)))
        (folder / "config.json").write_text(
            json.dumps({"recipe": {"phases": [{"epochs": number}], "name": "photos"}, "seed": 0})
        )
        noted = record(number, right=90 + number, dataset=f"1.0.{number}")
        before = registry.champion(str(root))
        model = registry.publish(str(root), {child.name: str(child) for child in folder.iterdir()}, noted)
        registry.set_champion(str(root), model)
        decided = {"champion_before": before and before.number, "champion_after": number}
        ledger.append_decision(str(root), noted | decided)
    return root


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "retrain.models", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_list_show_and_diff(models):
    done = command("list", f"--models={models}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "   1  2026-01-01 03:17  accuracy 0.9100 on 100 images  data 1.0.1",
        "   2  2026-01-02 03:17  accuracy 0.9200 on 100 images  data 1.0.2",
        "   3  2026-01-03 03:17  accuracy 0.9300 on 100 images  data 1.0.3  champion",
    ]
    shown = command("show", 2, f"--models={models}").stdout
    assert "2 labels: cat, dog" in shown
    assert "reason 2" in shown
    assert command("diff", 1, 3, f"--models={models}").stdout.splitlines() == [
        "model 1 → model 3", "  accuracy: 0.91 → 0.93", "  labels gone: dog", "  new labels: fox",
        "  training images: 20 more, 0 gone, 10 of both", "  recipe.phases.0.epochs: 1 → 3",
    ]  # fmt: skip


def test_a_model_is_promoted_and_rolled_back_and_the_log_says_who_and_why(models):
    assert command("promote", 1, "--why=3 misreads foxes", f"--models={models}").returncode == 0
    assert os.readlink(models / "champion") == "1"
    assert [path.name for path in (models / "serving" / "flowers").iterdir()] == ["1"]
    done = command("rollback", "--why=1 is old", f"--models={models}")
    assert done.stdout == "model 3 is the champion again\n"
    promoted, back = ledger.decisions(str(models))[-2:]
    assert (promoted["decision"], promoted["reasons"]) == ("promoted by hand", ["3 misreads foxes"])
    assert (back["decision"], back["reasons"], back["champion_before"], back["champion_after"]) == (
        "rolled back", ["1 is old"], 1, 3,
    )  # fmt: skip
    assert re.fullmatch(r".+@.+", back["who"])


def test_who_rolls_back_twice_goes_back_twice(models):
    for expected in ("2", "1"):
        assert command("rollback", "--why=worse", f"--models={models}").returncode == 0
        assert os.readlink(models / "champion") == expected
    done = command("rollback", "--why=worse", f"--models={models}")
    assert done.returncode == 64
    assert "model 1 is the first champion that" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "what to do is missing: one of list, show, diff, promote, rollback, verify, prune"),
        (["shwo"], 'unknown command "shwo" (known: list, show, diff, promote, rollback, verify, prune, mirror). Did'),
        (["show"], "the number of a model is wanted, got none"),
        (["diff", "1"], "the numbers of two models are wanted, got 1"),
        (["list", "1"], "no number of a model is wanted, got 1"),
        (["show", "champion"], '"champion" is no number of a model'),
        (["show", "9"], "has no model 9 (it has 1, 2, 3)"),
        (["promote", "3", "--why=x"], "model 3 is the champion already"),
        (["promote", "1"], '--why="…" is missing'),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(models, arguments, message):
    done = command(*arguments, f"--models={models}")
    assert done.returncode == 64
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.readlink(models / "champion") == "3"


@pytest.mark.slow
def test_where_is_said(tmp_path):
    assert "give either --models=DIR or --config=FILE.yaml" in command("list").stderr
    assert "no such folder; the first pass" in command("list", f"--models={tmp_path / 'none'}").stderr


def test_verify_finds_what_is_damaged_and_a_damaged_model_is_not_promoted(models):
    assert command("verify", f"--models={models}").stdout.splitlines() == [f"   {n}  whole" for n in (1, 2, 3)]
    (models / "2" / "labels.txt").unlink()
    done = command("verify", f"--models={models}")
    assert done.returncode == 65
    assert done.stdout.splitlines()[1] == "   2  labels.txt is gone"
    assert command("promote", 2, "--why=x", f"--models={models}").returncode == 65
    assert os.readlink(models / "champion") == "3"


def test_prune_never_takes_the_champion_nor_the_one_before(models, tmp_path):
    (models / "champion").unlink()
    registry.set_champion(str(models), registry.Model(2, f"{models}/2"))  # whose predecessor is 1
    runs, data = tmp_path / "runs", tmp_path / "data"
    for number in range(1, 6):
        for folder in (runs / str(number), runs / f"{number}.data", data / "versions" / f"1.0.{number}"):
            folder.mkdir(parents=True)
            os.utime(folder, (number, number))
    (data / "CURRENT").write_text("1.0.4")
    found = prune.prunable(str(models), str(runs), str(data), keep=1)
    assert found.models == []  # 3 is the newest
    # Those of models 1 to 3, the newest one, and the current one.
    assert [os.path.basename(path) for path in found.runs] == ["4", "4.data"]
    assert found.versions == []
    registry.set_champion(str(models), registry.Model(3, f"{models}/3"))
    found = prune.prunable(str(models), str(runs), str(data), keep=1)
    assert [model.number for model in found.models] == [1]
    assert [os.path.basename(path) for path in found.runs] == ["1", "1.data", "4", "4.data"]
    assert [os.path.basename(path) for path in found.versions] == ["1.0.1"]
    prune.remove(found, str(models))
    assert sorted(os.listdir(runs)) == ["2", "2.data", "3", "3.data", "5", "5.data"]
    assert [model.number for model in registry.models(str(models))] == [2, 3]
    assert ledger.decisions(str(models))[-1]["reasons"] == ["removed 1 models, 4 runs, 1 data versions (models 1)"]
    assert registry.champion(str(models)).number == 3


@pytest.mark.slow
def test_prune_as_a_command(models, tmp_path):
    (tmp_path / "retrain.yaml").write_text(
        "input: i\ndata: data\nruns: runs\nmodels: models\ngate: {margin: 0.02, minimum_accuracy: 0.5}\n"
    )
    flags = ["prune", "--keep=1", f"--config={tmp_path / 'retrain.yaml'}"]
    assert command(*flags, "--dry_run").stdout == f"would remove {models / '1'}\n"
    assert (models / "1").exists()
    assert command(*flags).stdout == f"removing {models / '1'}\n"
    assert command(*flags).stdout == "nothing to remove\n"
