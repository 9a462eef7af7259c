"""Tests what --backbone=auto takes, refuses and remembers."""

import dataclasses

import pytest

from pipeline.command import UsageError
from tests import datasets
from trainer.auto import choice
from trainer.auto.choice import Candidate, Choice, pick, seconds_of, table
from trainer.models.backbones import BACKBONES
from trainer.models.weights import is_at_hand
from trainer.request import Request

SMALL = Candidate(
    backbone="efficientnet_lite0", image_size=224, images_per_second=40, seconds=240, examples=100, correct=88, loss=0.4
)
LARGE = dataclasses.replace(
    SMALL, backbone="efficientnet_lite2", image_size=260, images_per_second=20, seconds=600, correct=93, loss=0.3
)


@pytest.mark.parametrize(("budget", "taken"), [(None, LARGE), (600, LARGE), (300, SMALL), (10, SMALL)])
def test_the_best_within_the_time_is_taken_else_the_fastest(budget, taken):
    assert pick([SMALL, LARGE], budget=budget) is taken


def test_the_table_has_the_best_first_and_says_why_it_is_not_taken():
    head, first, second = table([SMALL, LARGE], SMALL, budget=300)
    assert head.split()[:3] == ["backbone", "pixels", "images/s"]
    assert first.split()[:4] == ["efficientnet_lite2", "260", "20.0", "10.0"]
    assert first.endswith("0.930 (0.863 to 0.966)  longer than --time_budget")  # scipy.stats.binomtest(93, 100)
    assert second.split()[3:6] == ["4.0", "m", "0.400"]
    assert second.endswith("← taken")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400)])
def test_times(text, seconds):
    assert seconds_of(text, flag="time_budget") == seconds


@pytest.mark.parametrize("text", ["30", "m", "-5m", "0s", "1d", "30 minutes"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="write 90s, 30m or 2h"):
        seconds_of(text, flag="time_budget")


def test_weights_that_keras_has_downloaded_are_at_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    keras_own = [name for name in BACKBONES if BACKBONES[name].publisher == "keras"]
    assert not any(map(is_at_hand, keras_own))
    (tmp_path / "models").mkdir()
    for file in ("efficientnetb1_notop.h5", "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
                 "vgg16_weights_tf_dim_ordering_tf_kernels.h5"):  # fmt: skip
        (tmp_path / "models" / file).touch()
    assert [name for name in keras_own if is_at_hand(name)] == ["efficientnet_b1", "resnet50"]
    assert not is_at_hand("resnet34")


def test_nothing_at_hand_is_an_error_that_says_how_to_get_some(monkeypatch):
    monkeypatch.setattr(choice, "is_at_hand", lambda name: False)
    with pytest.raises(UsageError, match="pip install"):
        choice.candidates()


@pytest.fixture
def request_for_auto(tmp_path):
    data = datasets.write_dataset(tmp_path / "data", {"train": datasets.random_records(8, classes=2)}, ["a", "b"])
    asked = Request(data=str(tmp_path / "data"), recipe="photos", backbone="auto", weights=None, settings=(), seed=0)
    return asked, data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "none"}, "leave --weights out"),
        ({"init": "run"}, "leave --init out"),
        ({"settings": ("backbone=vgg16",)}, "contradict each other"),
        ({"recipe": "run/config.json"}, "names its backbone"),
    ],
)
def test_flags_that_leave_nothing_to_be_picked_are_refused(request_for_auto, change, message):
    with pytest.raises(UsageError, match=message):
        choice.check(dataclasses.replace(request_for_auto[0], **change))


def test_a_run_remembers_what_was_taken_for_this_request(request_for_auto, tmp_path, monkeypatch, capsys):
    asked, data = request_for_auto
    known = {one.backbone: one for one in (SMALL, LARGE)}
    monkeypatch.setattr(choice, "candidates", lambda: list(known))
    run = str(tmp_path / "run")
    first = Choice(request=asked, data=data, run=run, budget=None)
    assert first.recorded() is None
    assert first.made(known.__getitem__) == dataclasses.replace(asked, backbone="efficientnet_lite2")
    assert "← taken" in capsys.readouterr().out
    assert first.recorded().backbone == "efficientnet_lite2"
    for other in ({"budget": 300.0}, {"request": dataclasses.replace(asked, seed=1)}):
        assert dataclasses.replace(first, **other).recorded() is None
    (tmp_path / "run" / "backbone.json").write_text("[1")
    assert first.recorded() is None
