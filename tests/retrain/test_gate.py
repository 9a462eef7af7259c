import json

import pytest

from pipeline.command import DataError
from retrain.gate import Prediction, judge, read_predictions
from retrain.limits import GateConfig

CONFIG = GateConfig(margin=0.02, minimum_accuracy=0.8)
LABELS = ("cat", "dog")


def answers(right, total, *, wrong_first=False, labels=LABELS):
    """Makes `total` predictions of which the first (or last) `right` are right."""
    made = []
    for number in range(total):
        label = labels[number % len(labels)]
        is_right = number >= total - right if wrong_first else number < right
        made.append(Prediction(f"id{number}", label, label if is_right else "other"))
    return made


def test_first_model_is_promoted_at_the_floor():
    verdict = judge(answers(80, 100), None, champion_labels=(), champion_trained_on=(), config=CONFIG)
    assert verdict.promote
    assert "no champion" in verdict.reasons[-1]
    assert verdict.figures == {"test_images": 100, "accuracy": 0.8}


def test_nothing_below_the_floor_is_promoted_even_if_better_than_the_champion():
    verdict = judge(answers(79, 100), answers(10, 100), champion_labels=LABELS, champion_trained_on=(), config=CONFIG)
    assert not verdict.promote
    assert verdict.reasons == ("test accuracy 0.7900 on 100 images is below minimum_accuracy 0.8",)


def test_equal_answers_on_many_images_are_promoted_with_the_interval_printed():
    verdict = judge(answers(190, 200), answers(190, 200), champion_labels=LABELS, champion_trained_on=(), config=CONFIG)
    assert verdict.promote
    low, high = verdict.figures["interval"]
    assert -0.02 <= low <= 0 <= high
    assert f"90 % interval [{low:+.4f}, {high:+.4f}]" in verdict.reasons[-1]
    assert (verdict.figures["wins"], verdict.figures["losses"]) == (0, 0)


def test_better_challenger_is_promoted():
    assert judge(
        answers(98, 100), answers(85, 100), champion_labels=LABELS, champion_trained_on=(), config=CONFIG
    ).promote


def test_worse_challenger_is_not_promoted():
    verdict = judge(
        answers(900, 1000), answers(950, 1000), champion_labels=LABELS, champion_trained_on=(), config=CONFIG
    )
    assert not verdict.promote
    assert verdict.figures["difference"] == pytest.approx(-0.05)
    assert "may be worse by more than the margin 0.02" in verdict.reasons[-1]


def test_same_accuracy_on_different_images_is_not_enough():
    """Pairing: 50 wins and 50 losses among 1000 leave more doubt than two identical models do."""
    strict = GateConfig(margin=0.01, minimum_accuracy=0.8)
    challenger, champion = answers(950, 1000), answers(950, 1000, wrong_first=True)
    assert judge(challenger, challenger, champion_labels=LABELS, champion_trained_on=(), config=strict).promote
    verdict = judge(challenger, champion, champion_labels=LABELS, champion_trained_on=(), config=strict)
    assert (verdict.figures["wins"], verdict.figures["losses"]) == (50, 50)
    assert not verdict.promote


def test_too_few_images_for_the_margin_is_said():
    verdict = judge(answers(50, 50), answers(50, 50), champion_labels=LABELS, champion_trained_on=(), config=CONFIG)
    assert not verdict.promote
    assert "takes 149 test images" in verdict.reasons[-1]


def test_a_class_unknown_to_the_champion_cannot_buy_promotion():
    """The challenger knows a third class and has become worse on the two old ones."""
    old = [(f"old{i}", LABELS[i % 2]) for i in range(400)]
    new = [(f"new{i}", "fox") for i in range(200)]
    challenger = [Prediction(i, label, label if n >= 40 else "fox") for n, (i, label) in enumerate(old)]
    challenger += [Prediction(i, label, label) for i, label in new]
    champion = [Prediction(i, label, label) for i, label in old] + [Prediction(i, label, "cat") for i, label in new]
    verdict = judge(challenger, champion, champion_labels=("dog", "cat"), champion_trained_on=(), config=CONFIG)
    assert verdict.figures["accuracy"] > 0.9  # overall far above the champion's 0.667
    assert not verdict.promote
    assert verdict.figures["pairs"] == 400
    assert verdict.figures["new_labels"] == ["fox"]
    assert verdict.figures["new_labels_accuracy"] == 1.0
    assert "fox" in verdict.reasons[1]


def test_a_class_that_is_gone_counts_against_a_champion_that_still_answers_it():
    challenger = answers(200, 200)
    champion = [Prediction(p.id, p.label, "fox" if n < 20 else p.label) for n, p in enumerate(challenger)]
    verdict = judge(challenger, champion, champion_labels=("cat", "dog", "fox"), champion_trained_on=(), config=CONFIG)
    assert verdict.promote
    assert verdict.figures["wins"] == 20


def test_images_that_the_champion_was_trained_on_do_not_count():
    """It has them all right, by heart; on the others the challenger is better."""
    challenger, champion = answers(450, 500), answers(440, 500)
    seen = [p.id for p in challenger[300:]]
    champion[300:] = [Prediction(p.id, p.label, p.label) for p in challenger[300:]]
    unfair = judge(challenger, champion, champion_labels=LABELS, champion_trained_on=(), config=CONFIG)
    assert not unfair.promote
    fair = judge(challenger, champion, champion_labels=LABELS, champion_trained_on=seen, config=CONFIG)
    assert fair.promote
    assert (fair.figures["pairs"], fair.figures["seen_by_champion"]) == (300, 200)
    assert "200 images that the champion was trained on" in fair.reasons[1]


def test_no_common_label_is_not_promoted():
    verdict = judge(answers(100, 100), answers(0, 100), champion_labels=("fox",), champion_trained_on=(), config=CONFIG)
    assert not verdict.promote
    assert "no test image is left" in verdict.reasons[-1]


@pytest.mark.parametrize("change", ["order", "missing", "label"])
def test_different_test_images_are_refused(change):
    challenger, champion = answers(100, 100), answers(100, 100)
    if change == "order":
        champion[:2] = champion[1::-1]
    elif change == "missing":
        champion.pop()
    else:
        champion[0] = Prediction("id0", "dog", "dog")
    with pytest.raises(DataError, match="same test images"):
        judge(challenger, champion, champion_labels=LABELS, champion_trained_on=(), config=CONFIG)


def test_read_predictions(tmp_path):
    file = tmp_path / "p.jsonl"
    row = {"id": "a", "label": "Löwe\u2028", "predicted": "cat", "probability": 0.5}
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_predictions(file) == [Prediction("a", "Löwe\u2028", "cat")]


@pytest.mark.parametrize(
    ("text", "message"), [("", "empty"), ('{"id": "a"}\n', "line 1"), ("{}\nnot json\n", "line 1")]
)
def test_damaged_predictions(tmp_path, text, message):
    file = tmp_path / "p.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_predictions(file)


@pytest.mark.parametrize(
    "bad",
    [
        {"margin": 0},
        {"margin": -0.1},
        {"margin": 1},
        {"margin": "1%"},
        {"minimum_accuracy": 90},
        {"alpha": 0},
        {"alpha": True},
    ],
)
def test_bad_gate_settings(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        GateConfig(**{"margin": 0.01, "minimum_accuracy": 0.9, **bad})
