"""Tests what the data gate makes of datasets that differ in one respect."""

import dataclasses

import numpy as np
import pytest

from pipeline.format.rows import FACTS, KnownImages, changes_between
from retrain.data.gate import Outcome, judge_against, judge_alone, worst
from retrain.limits import DataGateConfig

LABELS = ("ant", "bee", "cat", "dog")
CONFIG = DataGateConfig()


def images(count, *, seed=0, first=0, labels=LABELS, facts=None):
    """Makes images of labels in turn, seven in ten for training."""
    random = np.random.default_rng(seed)
    return KnownImages(
        ids=tuple(f"{number:05d}" for number in range(first, first + count)),
        sources=tuple(f"{number}.jpg" for number in range(count)),
        labels=tuple(labels[number % len(labels)] for number in range(count)),
        splits=tuple(("test", "validation", *["train"] * 5)[number % 7] for number in range(count)),
        groups=(b"",) * count,
        facts={name: random.random(count) + (facts or {}).get(name, 0.0) for name in FACTS},
    )


def joined(*parts):
    columns = {
        field.name: tuple(value for part in parts for value in getattr(part, field.name))
        for field in dataclasses.fields(KnownImages)
        if field.name != "facts"
    }
    return KnownImages(**columns, facts={name: np.concatenate([part.facts[name] for part in parts]) for name in FACTS})


def judge(before, after, *, arrivals=None, config=CONFIG):
    checks = judge_against(before, after, changes_between(before, after), arrivals, config)
    return {check.name: check for check in checks}


def kept(of, chosen):
    at = [number for number in range(len(of.ids)) if chosen(number)]
    columns = {
        field.name: tuple(getattr(of, field.name)[number] for number in at)
        for field in dataclasses.fields(KnownImages)
        if field.name != "facts"
    }
    return KnownImages(**columns, facts={name: values[at] for name, values in of.facts.items()})


def test_the_same_images_and_more_of_them_pass():
    before = images(280)
    assert worst(judge(before, before).values()) is Outcome.OK
    after = joined(before, images(80, first=1_000, seed=1))
    found = judge(before, after)
    assert worst(found.values()) is Outcome.OK
    assert found["lost images"].text == "0 of 280 images of the champion's dataset are gone (0.0%)"
    assert found["pixels"].text == "no new images to be compared"


def test_a_label_that_is_gone_holds_unless_it_is_named():
    before = images(280)
    after = kept(before, lambda number: before.labels[number] != "bee")
    found = judge(before, after)
    assert found["labels"].outcome is Outcome.HOLD
    assert found["labels"].text == "gone: bee; if that is meant, data_gate.removed_labels: [bee]"
    assert found["lost images"].outcome is Outcome.HOLD
    named = judge(before, after, config=DataGateConfig(removed_labels=["bee"]))
    assert (named["labels"].outcome, named["lost images"].outcome) == (Outcome.OK, Outcome.OK)
    assert judge(after, before)["labels"].outcome is Outcome.WARN


@pytest.mark.parametrize(
    ("share", "label", "outcome"),
    [(0.1, None, "ok"), (0.25, None, "hold"), (0.4, "ant", "ok"), (0.6, "ant", "hold")],
)
def test_lost_images_are_counted_overall_and_by_label(share, label, outcome):
    before = images(400)
    of = [number for number in range(400) if label in (None, before.labels[number])]
    gone = set(of[: round(share * len(of))])
    found = judge(before, kept(before, lambda number: number not in gone))["lost images"]
    assert found.outcome == outcome
    assert found.figures["lost"] == len(gone)
    assert set(found.images) == {before.ids[number] for number in gone}


@pytest.mark.parametrize(("count", "outcome"), [(0, "ok"), (1, "warn"), (4, "warn"), (5, "hold")])
def test_relabelled_images_are_found_to_the_last(count, outcome):
    before = images(400)
    turned = [number for number in range(400) if before.labels[number] == "cat"][:count]
    labels = tuple("dog" if number in turned else label for number, label in enumerate(before.labels))
    found = judge(before, dataclasses.replace(before, labels=labels))["relabelled"]
    assert found.outcome == outcome
    assert found.images == tuple(before.ids[number] for number in turned)
    if count:
        assert found.text == f"{count} images have another label: {count} from cat to dog"


def test_a_few_of_a_large_label_are_no_reason_to_hold():
    before = images(4_000)
    labels = tuple("dog" if number in (2, 6, 10, 14, 18, 22) else of for number, of in enumerate(before.labels))
    found = judge(before, dataclasses.replace(before, labels=labels))["relabelled"]
    assert found.outcome is Outcome.WARN  # 6 of 1,000


def test_images_in_another_split_are_counted():
    before = images(280)
    splits = tuple("train" if number == 7 else split for number, split in enumerate(before.splits))
    found = judge(before, dataclasses.replace(before, splits=splits))["moved split"]
    assert (found.outcome, found.figures, found.images) == (Outcome.WARN, {"moved": 1}, ("00007",))


def test_new_images_of_one_label_are_said():
    before = images(280)
    found = judge(before, joined(before, images(40, first=1_000, labels=("ant",))))["label shift"]
    assert found.outcome is Outcome.WARN
    assert found.text.startswith("40 new images, 100% of them ant where it was 25%: total variation 0.75, p = 0.0001")


def test_darker_images_are_said_and_others_of_one_label_are_not():
    before = images(280)
    dark = joined(before, images(60, first=1_000, seed=1, facts={"brightness": -0.5}))
    found = judge(before, dark)["facts"]
    assert found.outcome is Outcome.WARN
    assert found.text.startswith("new images differ from the others of their label in brightness 0.")
    bright = dict.fromkeys(FACTS, 0.0) | {"brightness": np.array(before.labels) == "ant"}
    uneven = dataclasses.replace(before, facts={name: before.facts[name] + bright[name] for name in FACTS})
    more = images(60, first=1_000, seed=1, labels=("ant",), facts={"brightness": 1.0})
    assert judge(uneven, joined(uneven, more))["facts"].outcome is Outcome.OK


def test_facts_that_nobody_knows_are_left_out():
    before = images(100)
    unknown = dataclasses.replace(before, facts=before.facts | {"sharpness": np.full(100, np.nan)})
    found = judge(unknown, joined(unknown, images(40, first=1_000, seed=1)))["facts"]
    assert set(found.figures) == set(FACTS) - {"sharpness"}


@pytest.mark.parametrize(
    ("p_value", "area", "outcome"),
    [(0.5, 0.9, "ok"), (0.001, 0.7, "warn"), (0.001, 0.8, "hold"), (0.001, None, "warn")],
)
def test_other_pictures_are_held_where_they_are_told_apart(p_value, area, outcome):
    arrivals = {"new": 9, "compared": 9, "pixels": {"p_value": p_value}, "separable": area, "doubted": [0, 9],
                "doubted_before": [0, 99]}  # fmt: skip
    before = images(140)
    assert judge(before, before, arrivals=arrivals)["pixels"].outcome == outcome


@pytest.mark.parametrize(
    ("doubted", "before", "outcome"),
    [((4, 80), (3, 300), "ok"), ((30, 80), (3, 300), "hold"), ((30, 80), (110, 300), "ok"), ((4, 4), (3, 300), "ok")],
)
def test_wrong_labels_among_new_images_are_held_unless_the_heads_are_poor(doubted, before, outcome):
    arrivals = {"new": 9, "compared": 9, "pixels": None, "separable": None, "doubted": doubted,
                "doubted_before": before}  # fmt: skip
    of = images(140)
    assert judge(of, of, arrivals=arrivals)["label noise"].outcome == outcome


def test_every_label_needs_test_images():
    (found,) = judge_alone(images(280), LABELS, CONFIG)
    assert found.outcome is Outcome.OK
    (found,) = judge_alone(images(56), LABELS, CONFIG)
    assert (found.outcome, found.text) == (Outcome.WARN, "fewer than 5 test images of ant, bee, cat, dog")
    (found,) = judge_alone(kept(images(280), lambda number: number % 7), LABELS, CONFIG)
    assert found.outcome is Outcome.HOLD
    assert found.text == "no test image of ant, bee, cat, dog"
    (found,) = judge_alone(kept(images(280), lambda number: number % 7 != 1), LABELS, CONFIG)
    assert (found.outcome, found.text) == (Outcome.WARN, "no validation image of ant, bee, cat, dog")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lost": 2}, "lost must be a number from 0 to 1, got 2"),
        ({"level": True}, "level must be a number"),
        ({"few_test": 2.5}, "few_test must be a whole number"),
        ({"accept": "abc"}, "accept must be a list, got 'abc'"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        DataGateConfig(**changes)


def test_labels_that_yaml_reads_as_numbers_are_names():
    assert DataGateConfig(removed_labels=[7]).removed_labels == ("7",)
