import re

import numpy as np
import pytest
from scipy import stats

from pipeline.command import DataError
from pipeline.noninferiority import PairedCounts, score_statistic
from pipeline.predictions import Predictions
from retrain import gate
from retrain.answers import Pair, Prediction, Rival, read_answers
from retrain.gate import Decision, judge
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


def judged(challenger, champion, *, labels=LABELS, seen=(), config=CONFIG, own=LABELS, **more):
    """Judges by answers alone; `labels`: the champion's, `own`: the challenger's."""
    rival = None if champion is None else Rival(name="the champion", answers=champion, labels=labels, trained_on=seen)
    return judge(challenger, own, rival, config=config, **more)


def test_first_model_is_promoted_at_the_floor():
    verdict = judged(answers(80, 100), None)
    assert verdict.promote
    assert "no champion" in verdict.reasons[-1]
    assert verdict.figures == {"test_images": 100, "accuracy": 0.8}


def test_nothing_below_the_floor_is_promoted_even_if_better_than_the_champion():
    verdict = judged(answers(79, 100), answers(10, 100))
    assert not verdict.promote
    assert verdict.reasons == ("test accuracy 0.7900 on 100 images is below minimum_accuracy 0.8",)


def test_equal_answers_on_many_images_are_promoted_with_the_interval_printed():
    verdict = judged(answers(190, 200), answers(190, 200))
    assert verdict.promote
    low, high = verdict.figures["interval"]
    assert -0.02 <= low <= 0 <= high
    assert f"90 % interval [{low:+.4f}, {high:+.4f}]" in verdict.reasons[-1]
    assert (verdict.figures["wins"], verdict.figures["losses"]) == (0, 0)


def test_better_challenger_is_promoted():
    assert judged(answers(98, 100), answers(85, 100)).promote


def test_worse_challenger_is_not_promoted():
    verdict = judged(answers(900, 1000), answers(950, 1000))
    assert not verdict.promote
    assert verdict.figures["difference"] == pytest.approx(-0.05)
    assert verdict.reasons[-1].endswith("it is worse")


def test_same_accuracy_on_different_images_is_not_enough():
    """Pairing: 50 wins and 50 losses among 1000 leave more doubt than two identical models do."""
    strict = GateConfig(margin=0.01, minimum_accuracy=0.8)
    challenger, champion = answers(950, 1000), answers(950, 1000, wrong_first=True)
    assert judged(challenger, challenger, config=strict).promote
    verdict = judged(challenger, champion, config=strict)
    assert (verdict.figures["wins"], verdict.figures["losses"]) == (50, 50)
    assert not verdict.promote


def test_too_few_images_for_the_margin_is_said():
    verdict = judged(answers(50, 50), answers(50, 50))
    assert not verdict.promote
    assert "takes 149 test images" in verdict.reasons[-1]


def test_a_class_unknown_to_the_champion_cannot_buy_promotion():
    """The challenger knows a third class and has become worse on the two old ones."""
    old = [(f"old{i}", LABELS[i % 2]) for i in range(400)]
    new = [(f"new{i}", "fox") for i in range(200)]
    challenger = [Prediction(i, label, label if n >= 40 else "fox") for n, (i, label) in enumerate(old)]
    challenger += [Prediction(i, label, label) for i, label in new]
    champion = [Prediction(i, label, label) for i, label in old] + [Prediction(i, label, "cat") for i, label in new]
    verdict = judged(challenger, champion, labels=("dog", "cat"))
    assert verdict.figures["accuracy"] > 0.9  # overall far above the champion's 0.667
    assert not verdict.promote
    assert verdict.figures["pairs"] == 400
    assert verdict.figures["new_labels"] == ["fox"]
    assert verdict.figures["new_labels_accuracy"] == 1.0
    assert "fox" in verdict.reasons[1]


def test_a_class_that_is_gone_counts_against_a_champion_that_still_answers_it():
    challenger = answers(200, 200)
    champion = [Prediction(p.id, p.label, "fox" if n < 20 else p.label) for n, p in enumerate(challenger)]
    verdict = judged(challenger, champion, labels=("cat", "dog", "fox"), removed_labels=["fox"])
    assert verdict.promote
    assert verdict.figures["wins"] == 20


def test_images_that_the_champion_was_trained_on_do_not_count():
    """It has them all right, by heart; on the others the challenger is better."""
    challenger, champion = answers(450, 500), answers(440, 500)
    seen = [p.id for p in challenger[300:]]
    champion[300:] = [Prediction(p.id, p.label, p.label) for p in challenger[300:]]
    unfair = judged(challenger, champion)
    assert not unfair.promote
    fair = judged(challenger, champion, seen=seen)
    assert fair.promote
    assert (fair.figures["pairs"], fair.figures["seen_by_champion"]) == (300, 200)
    assert "200 images that the champion was trained on" in fair.reasons[1]


def test_no_common_label_is_not_promoted():
    verdict = judged(answers(100, 100), answers(0, 100), labels=("fox",), removed_labels=["fox"])
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
        judged(challenger, champion)


def _file(path, *, ids=("a", "b"), labels=(0, -1)):
    logits = np.log(np.tile([0.25, 0.75], (len(ids), 1)))
    found = Predictions(ids=ids, labels=np.array(labels), names=["Löwe\u2028", "cat"], log_probabilities=logits)
    path.write_bytes(found.to_bytes())
    return path


def test_answers_are_read_with_labels_that_the_model_does_not_know(tmp_path):
    truth = {"a": "Löwe\u2028", "b": "fox", "c": "cat"}
    found = read_answers(_file(tmp_path / "p.npz"), truth)
    assert found == [Prediction("a", "Löwe\u2028", "cat", pytest.approx(0.25)), Prediction("b", "fox", "cat", 0.0)]


@pytest.mark.parametrize(("ids", "message"), [((), "the test split is empty"), (("z",), "the dataset has no image z")])
def test_other_answers_are_refused(tmp_path, ids, message):
    file = _file(tmp_path / "p.npz", ids=ids, labels=(0,) * len(ids))
    with pytest.raises(DataError, match=message):
        read_answers(file, {"a": "cat"})


def test_damaged_answers_are_named(tmp_path):
    file = _file(tmp_path / "p.npz")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"p\.npz: damaged .*; remove it, and the next pass scores the model anew"):
        read_answers(file, {})


def of_labels(counts, *, total=50):
    """Makes answers to `total` images of each label, of which so many are right, the last ones wrong."""
    return [Prediction(f"{label}{n}", label, label if n < right else "none")
            for label, right in counts.items() for n in range(total)]  # fmt: skip


ANIMALS = tuple("abcdefghij")


def test_one_label_may_not_be_ruined_while_the_mean_rises():
    """One label falls from 0.92 to 0.60, the other nine rise."""
    champion = of_labels(dict.fromkeys(ANIMALS, 40) | {"c": 46})
    challenger = of_labels(dict.fromkeys(ANIMALS, 47) | {"c": 30})
    verdict = judged(challenger, champion, labels=ANIMALS, own=ANIMALS)
    assert verdict.figures["difference"] > 0.09
    assert verdict.decision is Decision.NOT_PROMOTED
    assert verdict.reasons[-1].startswith("label c is ruined: of its 50 test images 16 are lost, 0 won (p = ")
    p_values = [stats.binomtest(16, 16, alternative="greater").pvalue]
    assert verdict.reasons[-1].endswith(f"(p = {10 * p_values[0]:.2g})")


def test_a_small_loss_and_a_label_of_few_images_are_no_ruin():
    champion = of_labels(dict.fromkeys(ANIMALS, 40))
    challenger = of_labels(dict.fromkeys(ANIMALS, 48) | {"c": 34})
    assert judged(challenger, champion, labels=ANIMALS, own=ANIMALS).promote  # 6 of 50 lost: 0.12
    few = of_labels({"z": 0}, total=19)
    right = of_labels({"z": 19}, total=19)
    names = (*ANIMALS, "z")
    assert judged([*of_labels(dict.fromkeys(ANIMALS, 48)), *few], [*champion, *right], labels=names, own=names).promote


def test_labels_of_equal_models_are_ruined_as_rarely_as_alpha_says():
    random = np.random.default_rng(0)
    ruined = 0
    for _ in range(200):
        pairs = random.random((2, 300)) < 0.8
        champion, challenger = (
            [Prediction(str(n), "abc"[n % 3], "abc"[n % 3] if right else "none") for n, right in enumerate(row)]
            for row in pairs
        )
        ruined += bool(
            gate._ruined_labels(
                [Pair(new, old, new.right) for new, old in zip(challenger, champion, strict=True)], CONFIG
            )[0]
        )
    assert stats.binomtest(ruined, 200, 0.05, alternative="greater").pvalue > 0.001


def test_what_is_not_shown_is_inconclusive_and_how_many_images_would_do_is_said():
    challenger, champion = answers(475, 500), answers(475, 500, wrong_first=True)
    verdict = judged(challenger, champion)
    assert verdict.decision is Decision.INCONCLUSIVE
    needed = int(re.search(r"about ([\d,]+) test images", verdict.reasons[-1])[1].replace(",", ""))
    random, shown = np.random.default_rng(0), 0
    for _ in range(200):  # pairs that differ as often, of equally good models
        wins, losses, _ = random.multinomial(needed, [0.05, 0.05, 0.9])
        counts = PairedCounts(pairs=needed, wins=int(wins), losses=int(losses))
        shown += score_statistic([wins], [losses], needed, -0.02)[0] > 1.6449
        assert counts.pairs == needed
    assert 0.7 < shown / 200 < 0.9


def test_a_challenger_that_is_shown_to_be_worse_is_not_promoted():
    assert judged(answers(400, 500), answers(480, 500)).decision is Decision.NOT_PROMOTED


def test_a_label_that_the_challenger_cannot_answer_is_refused_unless_named():
    found = judged(answers(200, 200), answers(200, 200), labels=("cat", "dog", "fox"))
    assert found.decision is Decision.NOT_PROMOTED
    assert found.reasons[-1].startswith("it cannot answer fox, which the champion can; if that is meant, ")
    assert judged(answers(200, 200), answers(200, 200), labels=("cat", "dog", "fox"), removed_labels=["fox"]).promote


def test_small_losses_do_not_add_up_where_there_is_an_anchor():
    anchor = Rival(name="the anchor, model 1,", answers=answers(1_000, 1_000), labels=LABELS)
    assert judged(answers(960, 1_000), answers(965, 1_000)).promote
    verdict = judged(answers(960, 1_000), answers(965, 1_000), anchor=anchor)
    assert verdict.decision is Decision.NOT_PROMOTED
    assert "against the anchor, model 1,'s 1.0000" in verdict.reasons[-1]
    assert verdict.figures["anchor"]["losses"] == 40


def test_a_first_model_is_warned_of_a_test_split_that_can_prove_nothing():
    assert "takes 149 test images" in judged(answers(90, 100), None).reasons[1]
    assert len(judged(answers(190, 200), None).reasons) == 2


def test_log_loss_is_told_of_the_images_compared():
    champion = [Prediction("a", "cat", "cat", 0.5), Prediction("b", "fox", "cat", 0.0)]
    challenger = [Prediction("a", "cat", "cat", 0.8), Prediction("b", "fox", "fox", 0.9)]
    figures = judged(challenger, champion).figures
    assert figures["log_loss"] == pytest.approx(-np.log(0.8))
    assert figures["champion_log_loss"] == pytest.approx(-np.log(0.5))


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
        {"label_margin": 2},
        {"label_images": 0},
        {"anchor": "1"},
    ],
)
def test_bad_gate_settings(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        GateConfig(**{"margin": 0.01, "minimum_accuracy": 0.9, **bad})
