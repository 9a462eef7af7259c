"""Tests passes whose data went wrong, in real processes: they are held, until they are mended or accepted."""

import json
import re
import subprocess
import sys

import pytest

from retrain import ledger
from tests.retrain.world import CONFIG, IMAGES

NEW = {f"new{number}": ("cat", "dog")[number % 2] for number in range(40)}


def start_over(world, **more):
    """Lets a pass promote a first model, and gives the next one other images."""
    world.input(right=280)
    assert world.run()[0] == 0
    world.input(right=280, **more)


def arrivals(*, p_value=0.6, separable=0.5, doubted=0):
    return {"new": 40, "compared": 40, "pixels": {"distance": 1.0, "p_value": p_value}, "separable": separable,
            "doubted": [doubted, 40], "doubted_before": [3, 300]}  # fmt: skip


CATS = {image: label for image, label in IMAGES.items() if label == "cat"}
FEWER = dict(list(IMAGES.items())[:200])
SWAPPED = IMAGES | {f"image{number}": "dog" for number in range(0, 20, 2)}
UNLIKE = {"images": IMAGES | NEW, "arrivals": arrivals(p_value=0.001, separable=0.9)}
WRONG = {"images": IMAGES | NEW, "arrivals": arrivals(doubted=20)}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"images": CATS, "labels": ("cat",)}, "labels: gone: dog"),
        pytest.param(
            {"images": FEWER},
            "lost images: 100 of 300 images of the champion's dataset are gone",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"images": SWAPPED}, "relabelled: 10 images have another label: 10 from cat to dog", marks=pytest.mark.slow
        ),
        pytest.param(
            UNLIKE,
            "pixels: 40 new images beside others of their label: a classifier tells them apart",
            marks=pytest.mark.slow,
        ),
        pytest.param(WRONG, "label noise: 20 of 40 new images have a label that looks wrong", marks=pytest.mark.slow),
    ],
    ids=["gone", "lost", "relabelled", "unlike", "wrong"],
)
def test_bad_data_are_held_and_nothing_is_trained(world, more, told):
    start_over(world, **more)
    runs = world.runs()
    code, _, err = world.run()
    assert code == 65
    assert err.startswith("error: held: ")
    assert told in err
    assert world.runs() == runs
    assert world.champion() == "1"
    assert world.log()[1]["decision"] == "held"
    assert world.log()[1]["champion_after"] == 1
    result = world.result()
    assert (result["outcome"], result["exit_code"], result["versions"]["champion_after"]) == ("held", 65, 1)
    assert told in result["reasons"][0]
    by_hand = {"time": "", "decision": "pruned", "reasons": [""], "champion_before": 1, "champion_after": 1}
    ledger.append_decision(world.models, by_hand)
    code, _, err = world.run()  # the next night
    assert code == 65
    assert world.result()["outcome"] == "held"
    assert "nothing changed since" in err
    assert len(world.log()) == 3


@pytest.mark.slow
def test_held_data_are_accepted_by_their_content(world):
    start_over(world, images=dict(list(IMAGES.items())[:200]))
    _, _, err = world.run()
    (content,) = re.findall(r"data_gate: \{accept: \[(\w+)\]\}", err)
    (result,) = [json.loads(path.read_text()) for path in (world.folder / "runs").glob("*.data/gate-data.json")
                 if json.loads(path.read_text())["outcome"] == "hold"]  # fmt: skip
    assert result["dataset"]["content"] == content
    assert result["reference"] == "1.0.0"
    world.configure(CONFIG + f"data_gate: {{accept: [{content}]}}\n")
    code, out, _ = world.run()
    assert code in (0, 99)
    assert "data gate, hold: lost images" in out
    assert world.log()[-1]["data"]["lost images"] == "hold"


@pytest.mark.slow
def test_a_label_that_is_named_may_go(world):
    left = {image: "cat" for image, label in IMAGES.items() if label == "cat"}
    start_over(world, images=left, labels=("cat",))
    world.configure(CONFIG + "data_gate: {removed_labels: [dog], lost: 0.6}\n")
    assert world.run()[0] in (0, 99)


@pytest.mark.slow
def test_images_are_not_looked_at_where_the_configuration_says_so(world):
    world.configure(CONFIG + "check: false\n")
    start_over(world, images=IMAGES | NEW, arrivals="would end the pass")
    assert world.run()[0] in (0, 99)
    assert not list((world.folder / "runs").glob("*/check/checks.log"))


@pytest.mark.slow
def test_the_check_is_run_once_against_the_champions_dataset(world):
    world.configure(CONFIG + "check: {images: 100}\n")
    start_over(world, images=IMAGES | NEW)
    world.run()
    world.run()
    logs = sorted(path.read_text() for path in (world.folder / "runs").glob("*/check/checks.log"))
    assert [len(log.splitlines()) for log in logs] == [1, 1]
    assert sum(f"--against={world.folder}/data/versions/1.0.0" in log for log in logs) == 1
    assert all("--recipe=photos" in log and "--images=100" in log for log in logs)


@pytest.mark.slow
def test_the_same_data_are_checked_again_where_the_champion_is_another_one(world):
    for right, images in ((280, IMAGES), (295, IMAGES | NEW)):
        world.input(right=right, images=images)
        assert world.run()[0] == 0
    world.input(right=250, images=IMAGES | NEW)
    world.run()
    back = [sys.executable, "-m", "retrain.models", "rollback", "--why=x", f"--models={world.models}"]
    subprocess.run(back, check=True, capture_output=True)
    world.configure(CONFIG.replace("0.02", "0.03"))  # judges anew
    world.run()
    logs = [path.read_text().splitlines() for path in (world.folder / "runs").glob("*/check/checks.log")]
    (twice,) = [log for log in logs if len(log) == 2]
    assert ["/versions/1.0.1" in twice[0], "/versions/1.0.0" in twice[1]] == [True, True]
