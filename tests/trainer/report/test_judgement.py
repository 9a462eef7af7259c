"""Tests the first screen of a run's report: what is said, and how serious it is."""

import dataclasses

import numpy as np
import pytest

from pipeline.pages.findings import Level
from tests.trainer.report.test_measures import some
from trainer.report.evaluation import Evaluation
from trainer.report.judgement import Judged, headline, judge, next_steps
from trainer.report.measures import Slice, measure
from trainer.report.scores import Confusion

WELL = "kept weights: …, gap 0.01: neither over- nor under-fitting"


def _judged(**changes):
    found = some(count=400, right=5.0)
    evaluation = Evaluation(temperature=1.0, measures=measure(found), slices=())
    values = {
        "split": "test",
        "evaluation": evaluation,
        "majority": 0.3,
        "probe": (180, 200),
        "diagnosis": WELL,
        "sizes": {"train": 900, "validation": 300, "test": 400},
        "confusions": [Confusion(label="label 0", predicted="label 1", count=1, examples=100)],
        "issues": 0,
        "held_out": 700,
        "selected": False,
    }
    return Judged(**{**values, **changes})


def _by(level, judged):
    return [one for one in judge(judged) if one.level is level]


def test_where_all_is_well_nothing_is_to_be_looked_at():
    judged = _judged()
    findings = judge(judged)
    assert {one.level for one in findings} <= {Level.GREEN, Level.AMBER}
    assert (
        "a head alone on the backbone as it came, cross-validated on 200 training images: 90.0\u00a0%"
        in findings[0].text
    )
    accuracy = judged.evaluation.measures.accuracy
    assert headline(judged, [one for one in findings if one.level is Level.GREEN]).startswith(
        f"{100 * accuracy:.1f}\u00a0% of 400 test images right ("
    )


@pytest.mark.parametrize(
    ("changes", "level", "short"),
    [
        ({"majority": 0.999}, Level.RED, "it cannot be told from guessing"),
        ({"diagnosis": "gap 0.2: over-fitting; more data would help"}, Level.AMBER, "over-fitting"),
        ({"diagnosis": "training diverged: in phase all …"}, Level.AMBER, "training diverged"),
        ({"sizes": {"train": 9, "validation": 70, "test": 400}}, Level.AMBER, "only 70 validation images"),
        ({"sizes": {"train": 9, "test": 400}}, Level.AMBER, "no validation split"),
        ({"split": "validation", "selected": True}, Level.AMBER, "no test split"),
        ({"issues": 24}, Level.AMBER, "24 labels that look wrong"),
        (
            {"confusions": [Confusion(label="tulips", predicted="roses", count=6, examples=32)]},
            Level.AMBER,
            "tulips taken for roses",
        ),
    ],
)
def test_what_is_amiss_is_said_in_the_headline(changes, level, short):
    judged = _judged(**changes)
    assert short in [one.short for one in _by(level, judged)]
    assert short in headline(judged, judge(judged))


def test_few_label_issues_and_single_mistakes_are_no_alarm():
    texts = {one.text: one.level for one in judge(_judged(issues=1))}
    assert texts["1 label looks wrong, of 700 images that it has not trained on"] is Level.GREEN
    assert texts["most frequent mistake: label 0 taken for label 1, 1 of 100"] is Level.GREEN
    assert any(one.text == "no mistake on the test images" for one in judge(_judged(confusions=[])))


def test_a_weak_model_s_doubts_are_no_alarm():
    weak = Evaluation(temperature=1.0, measures=measure(some(count=400, right=1.0)), slices=())
    judged = _judged(evaluation=weak, issues=90)
    (finding,) = [one for one in judge(judged) if one.subject == "issues"]
    assert finding.level is Level.GREEN
    assert finding.text.startswith("90 labels of 700 are doubted, but a model that is right ")
    assert not any("--exclude" in command for _, command in next_steps("run", "data", judged))


def test_a_label_is_weak_where_its_interval_lies_below_all_the_others():
    found = some(count=400, right=6.0)
    rows = found.log_probabilities.copy()
    rows[(found.labels == 2) & (np.arange(400) % 2 == 0)] = np.log([0.97, 0.01, 0.01, 0.01])
    weak = dataclasses.replace(found, log_probabilities=rows)
    judged = _judged(evaluation=Evaluation(temperature=1.0, measures=measure(weak), slices=()))
    assert "label 2 is found least" in [one.short for one in _by(Level.AMBER, judged)]
    assert any(what.startswith("Get more photos of label 2, ") for what, _ in next_steps("run", "data", judged))


def test_dark_images_are_named_where_they_fare_worse():
    measures = _judged().evaluation.measures
    part = Slice(
        name="darkest tenth", examples=40, accuracy=0.5, interval=(0.35, 0.65), rest=0.95, difference=(-0.6, -0.3)
    )
    judged = _judged(evaluation=Evaluation(temperature=1.3, measures=measures, slices=[part]))
    assert "the darkest tenth fare worse" in [one.short for one in _by(Level.AMBER, judged)]
    assert any("before the temperature, 1.30" in one.text for one in judge(judged))


def test_the_mistakes_are_counted_and_linked_to():
    found = some(count=400, right=2.0)
    judged = _judged(evaluation=Evaluation(temperature=1.0, measures=measure(found), slices=()))
    mistakes = int((~found.correct).sum())
    assert mistakes > 1
    assert (f"Look at the {mistakes} mistakes", "#mistakes") in list(next_steps("run", "data", judged))
    assert not any(command.startswith("#") for _, command in next_steps("run", "data", _judged()))


def test_next_steps_are_commands_that_can_be_copied():
    steps = dict(next_steps("/runs/my run", "/data", _judged(issues=3)))
    assert "python -m trainer.predict --run='/runs/my run' PHOTO.jpg" in steps.values()
    assert any("--exclude='/runs/my run/label_issues.csv'" in command for command in steps.values())
    assert "python -m trainer.check --data=/data" in steps.values()
    of_version = dict(next_steps("/run", "/photos-model/data/versions/1.0.0", _judged(issues=3)))
    assert any("--output=/photos-model/data --exclude" in command for command in of_version.values()), "not into it"
    inside = dict(next_steps("/run", "versions/1.0.0", _judged(issues=3)))
    assert any("--output=. --exclude" in command for command in inside.values()), "where the root is the folder itself"
    assert not any("--exclude" in command for _, command in next_steps("run", "data", None))
