"""Tests what a pass trains and by what it is judged: seeds, warm starts, validation images, what must stay right."""

import json

import pytest

from retrain.challenge import starts_from
from retrain.registry import Model
from tests.retrain.world import CONFIG, IMAGES


def flags_of(run):
    return dict(flag.removeprefix("--").split("=", 1) for flag in json.loads((run / "flags.json").read_text()))


@pytest.mark.slow
def test_answers_of_several_seeds_are_averaged_and_the_best_one_is_published(world):
    world.configure(CONFIG + "seeds: 3\n")
    names = list(IMAGES)
    world.input(right=250, right_of_seed={"0": names[:270], "1": names[:285], "2": names[:276]})
    code, out, err = world.run()
    assert code == 0, out + err
    assert sorted(flags_of(run)["seed"] for run in world.runs()) == ["0", "1", "2"]
    assert world.result()["figures"]["accuracy"] == pytest.approx(285 / 300), "the best on validation images"

    world.input(right=250, right_of_seed={"0": names[:288], "1": names[:291], "2": names[3:294]}, labels=("dog", "cat"))
    code, out, err = world.run()
    assert code == 0, out + err
    figures = world.result()["figures"]
    assert figures["seeds"] == 3
    assert figures["difference"] == pytest.approx((288 + 291 + 291) / 900 - 285 / 300)
    assert "difference over 3 seeds" in out
    low, high = figures["interval"]
    assert low < figures["difference"] < high


@pytest.mark.slow
def test_training_starts_from_the_champion_and_what_that_has_seen_is_no_evidence(world):
    world.configure(CONFIG + "init: champion\ninit_share: 0.5\ncold_every: 3\n")
    splits = dict.fromkeys(list(IMAGES)[:30], "validation")
    world.input(right=280, splits=splits)
    assert world.run()[0] == 0
    (first,) = world.runs()
    assert "init" not in flags_of(first)
    # Images that the champion was taught come into the test split: neither is judged by them.
    world.input(right=295, splits=dict.fromkeys(list(IMAGES)[20:50], "validation"))
    code, out, err = world.run()
    assert code == 0, out + err
    (second,) = [run for run in world.runs() if run != first]
    assert flags_of(second)["init"] == str(world.models / "1")
    assert "--set=init_share=0.5" in json.loads((second / "flags.json").read_text())
    assert world.result()["figures"]["test_images"] == 300 - 30 - 20
    seen = set((world.models / "2" / "trained_on.txt").read_text().split())
    assert seen == set(list(IMAGES)[:50]), "what it was taught, and what its predecessor was"
    assert [record["started_from"] for record in world.log()] == [None, 1]
    assert world.run()[0] == 99, "nothing has changed but the champion"


def test_every_third_pass_starts_cold():
    champion = Model(7, "MODELS/7")
    history = []
    for _ in range(7):
        start = starts_from(champion, history, cold_every=3)
        history.append({"started_from": start and start.number})
    assert [record["started_from"] for record in history] == [7, 7, None, 7, 7, None, 7]
    assert starts_from(champion, [], cold_every=1) is None
    assert starts_from(None, [], cold_every=3) is None


@pytest.mark.slow
def test_validation_images_are_evidence_if_they_choose_nothing(world):
    world.configure(CONFIG.replace("0.5}", "0.5, evidence: test+validation}"))
    world.input(right=280, splits=dict.fromkeys(list(IMAGES)[:100], "validation"))
    code, out, err = world.run()
    assert code == 0, out + err
    (run,) = world.runs()
    assert "--set=selection=last" in json.loads((run / "flags.json").read_text())
    assert world.result()["figures"]["test_images"] == 300
    assert "test+validation accuracy 0.9333 on 300 images" in out
    assert (world.models / "1" / "trained_on.txt").read_text() == "", "validation images were not used"


@pytest.mark.slow
def test_photos_that_must_stay_right_and_forms_that_answer_otherwise_are_refused(world):
    (world.folder / "golden" / "cat").mkdir(parents=True)
    world.configure(CONFIG + "golden: golden\n")
    wrong = {"file": "golden/cat/1.jpg", "id": "", "label": "cat", "predicted": "dog"}
    world.input(right=280, handover={"asked": [wrong]})
    code, out, _ = world.run()
    assert code == 99
    assert f"--ask={world.folder / 'golden'}" in out
    assert world.result()["outcome"] == "not_promoted"
    assert "a photo that must stay right is answered wrongly: golden/cat/1.jpg" in out

    form = {"form": "model.tflite", "bytes": 1, "images": 3, "difference": 0.3, "problem": "differs by 0.3"}
    world.input(right=281, handover={"forms": [form]})
    code, out, _ = world.run()
    assert code == 99
    assert "exported model.tflite: differs by 0.3" in world.result()["reasons"][-1]

    world.input(right=281, no_golden=True)
    code, out, _ = world.run()
    assert code == 99
    assert "its export has no golden images that its forms could be asked about" in world.result()["reasons"][-1]

    world.input(right=282)
    assert world.run()[0] == 0
    world.input(right=290, handover={"milliseconds": [20.0, 10.0]})
    code, out, _ = world.run()
    assert code == 99
    assert "latency: 20.0 ms an image, the champion's 10.0: more than 1.5 times as much" in out
    world.configure(CONFIG.replace("0.5}", "0.5, latency: 2}") + "golden: golden\n")
    assert world.run()[0] == 0


@pytest.mark.slow
def test_the_card_of_a_model_names_itself(world):
    world.input(right=280)
    world.run()
    card = (world.models / "1" / "model_card.md").read_text()
    assert card.startswith("# stand-in, model 1: image classifier\n\nPromoted: first model")


@pytest.mark.slow
def test_a_model_that_ruins_one_label_is_kept_out_though_the_mean_rises(world):
    cats, dogs = (list(IMAGES)[start::2] for start in (0, 1))
    world.input(right=0, right_of_seed={"0": cats[:100] + dogs[:130]})
    assert world.run()[0] == 0
    world.input(right=1, right_of_seed={"0": cats + dogs[:85]})
    code, out, _ = world.run()
    assert (code, world.champion()) == (99, "1")
    figures = world.result()["figures"]
    assert figures["accuracy"] > figures["champion_accuracy"]
    assert "label dog is ruined: of its 150 test images 45 are lost, 0 won" in out
