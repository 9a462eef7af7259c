"""Tests the judgement: which level, and what is said."""

import numpy as np
import pytest

from pipeline.pages.findings import Finding, Level
from trainer.check.learning_curve import LearningCurve
from trainer.check.shortcuts import Shortcut
from trainer.check.verdict import (
    judge_alike,
    judge_balance,
    judge_ceiling,
    judge_changes,
    judge_curve,
    judge_labels,
    judge_outliers,
    judge_shortcuts,
    judge_splits,
    verdict_of,
)


def test_the_verdict_counts_and_names():
    fine = Finding(level=Level.GREEN, subject="a", text="fine")
    look = [Finding(level=Level.AMBER, subject="b", text="odd", short=f"odd {n}") for n in range(2)]
    stop = Finding(level=Level.RED, subject="c", text="bad", short="bad")
    assert verdict_of([fine]) == "Ready to train."
    assert verdict_of([fine, look[0]]) == "Ready to train. One thing to look at: odd 0."
    assert verdict_of([fine, *look]) == "Ready to train. Two things to look at: odd 0; odd 1."
    assert verdict_of([look[0], stop]) == "Not ready to train. One thing first: bad; and to look at: odd 0."


@pytest.mark.parametrize(
    ("finding", "level", "text"),
    [
        (judge_labels(0, noise=0, images=700, accuracy=0.9), Level.GREEN, "none of 700 labels looks wrong"),
        (judge_labels(1, noise=0.001, images=700, accuracy=0.9), Level.GREEN, "1 label looks wrong, of 700"),
        (judge_labels(24, noise=0.03, images=700, accuracy=0.9), Level.AMBER, "24 of 700 labels look wrong"),
        (
            judge_labels(200, noise=0.25, images=700, accuracy=0.9),
            Level.RED,
            "200 of 700 labels look wrong: every 4th label or so",
        ),
        (
            judge_labels(213, noise=0.3, images=900, accuracy=0.62),
            Level.GREEN,
            "213 of 900 labels are doubted, but by heads that are right 62% of the time: most doubts will be their own "
            "mistakes",
        ),
        (
            judge_ceiling(630, images=700, commonest=0.2),
            Level.GREEN,
            "a linear probe on the frozen backbone gets 0.900 right (0.876 to 0.920) of 700 images that it has not "
            "seen; always the commonest label would get 0.200",
        ),
        (judge_alike(0), Level.GREEN, "no images that look alike have different labels"),
        (judge_alike(1), Level.AMBER, "1 group of look-alikes has different labels"),
        (judge_outliers(0, images=9), Level.GREEN, "none of 9 images is unlike all others"),
        (judge_outliers(2, images=900), Level.AMBER, "2 images are unlike all others, of 900"),
        (judge_balance({"train": [50, 50]}, ["a", "b"]), Level.GREEN, "50 training images a label"),
        (
            judge_balance({"train": [500, 40]}, ["a", "b"]),
            Level.AMBER,
            "40 to 500 training images a label, the fewest of b; --set=class_weights=balanced lets rare labels weigh "
            "as much",
        ),
        (
            judge_balance({"train": [30, 12]}, ["a", "b"]),
            Level.AMBER,
            "12 to 30 training images a label, the fewest of b",
        ),
        (
            judge_splits({"train": [500, 400], "validation": [100, 150], "test": [9, 9]}, ["a", "b"]),
            Level.GREEN,
            "train 900, validation 250, test 18 images",
        ),
        (
            judge_splits({"train": [500, 400]}, ["a", "b"]),
            Level.AMBER,
            "train 900 images; without validation and test: --splits of the build makes them",
        ),
        (
            judge_splits({"train": [5, 4], "validation": [100, 150], "test": [9, 0]}, ["a", "b"]),
            Level.AMBER,
            "train 9, validation 250, test 9 images; no image of b in test",
        ),
        (
            judge_splits({"train": [5, 4], "validation": [30, 40], "test": [9, 1]}, ["a", "b"]),
            Level.AMBER,
            "train 9, validation 70, test 10 images; on so few of validation an accuracy of 0.9 means anything from "
            "0.81 to 0.95",
        ),
        (
            judge_changes({"added": 3, "removed": 0, "relabelled": 0, "moved": 0}, before="1.0.0", images=90),
            Level.GREEN,
            "since version 1.0.0: 3 added",
        ),
        (
            judge_changes({"added": 0, "removed": 1, "relabelled": 2, "moved": 0}, before="1.0.0", images=90),
            Level.AMBER,
            "since version 1.0.0: 1 removed, 2 relabelled",
        ),
        (
            judge_changes({"added": 0, "removed": 30, "relabelled": 0, "moved": 0}, before="1.0.0", images=90),
            Level.AMBER,
            "since version 1.0.0: 30 removed",
        ),
    ],
)
def test_what_is_said(finding, level, text):
    assert (finding.level, finding.text) == (level, text)
    assert bool(finding.short) == (level is not Level.GREEN)


def test_a_probe_that_guesses_stops_training():
    finding = judge_ceiling(60, images=200, commonest=0.28)
    assert finding.level is Level.RED
    assert finding.short == "what the pictures show does not tell the labels apart"


@pytest.mark.parametrize(("accuracy", "level"), [(0.3, Level.GREEN), (0.65, Level.AMBER), (0.85, Level.RED)])
def test_a_shortcut_is_measured_by_what_the_pictures_tell(accuracy, level):
    found = [Shortcut(facts=("size", "brightness"), accuracy=accuracy), Shortcut(facts=("size",), accuracy=0.28)]
    finding = judge_shortcuts(found, probe=0.95, classes=5)
    assert finding.level is level
    assert finding.text.startswith(f"size and brightness alone tell {accuracy:.3f} of the labels right")
    assert finding.short == ("" if level is Level.GREEN else "size gives the labels away")


def test_more_photos_are_asked_for_where_they_surely_help():
    counts = np.array([100.0, 200.0, 300.0, 400.0])
    flat = LearningCurve(
        counts=counts, errors=np.full(4, 0.1), intervals=np.zeros((4, 2)), laws=np.array([[np.log(0.1), 0.0]] * 9)
    )
    assert judge_curve(flat, more=200).level is Level.GREEN
    of_fewer = judge_curve(flat, more=200, beside=90_000).text
    assert of_fewer.endswith(f", if what holds up to {round(flat.counts[-1]):,} photos holds for 90,000")
    assert judge_curve(flat, more=200).text.startswith("200 more photos: about +0.0 points of the probe's accuracy")
    steep = LearningCurve(
        counts=counts, errors=np.full(4, 0.1), intervals=np.zeros((4, 2)), laws=np.array([[np.log(4.0), 0.5]] * 9)
    )
    assert judge_curve(steep, more=200).short == "more photos would surely help"
