import numpy as np
import pytest

from trainer.report.diagnosis import diagnose


def rows(*epochs, phase="all", first=1, examples=(400, 400)):
    """Makes metrics rows of epochs given as (training loss, its accuracy, validation loss, its accuracy)."""
    found = []
    for number, (loss, accuracy, validation_loss, validation_accuracy) in enumerate(epochs, first):
        where = {"step": 10 * number, "epoch": number, "phase": phase}
        found += [
            {**where, "split": "train", "loss": loss + 0.1, "accuracy": accuracy},
            {**where, "split": "train_sample", "loss": loss, "accuracy": accuracy, "examples": examples[0]},
            {
                **where,
                "split": "validation",
                "loss": validation_loss,
                "accuracy": validation_accuracy,
                "examples": examples[1],
            },
        ]
    return found


def confusion(*counts):
    return np.array(counts)


GOOD = confusion([190, 10], [12, 188])
LEARNS = ((0.6, 0.7, 0.6, 0.7), (0.3, 0.9, 0.32, 0.89), (0.15, 0.95, 0.2, 0.94))


def judge(found, matrix=GOOD, *, labels=("cat", "dog"), epoch=None, **more):
    step, kept = (10 * epoch, epoch) if epoch else (found[-1]["step"], found[-1]["epoch"])
    return diagnose(found, kept={"step": step, "epoch": kept}, confusion=matrix, labels=labels, **more)


def test_a_model_that_fits_is_said_to_fit():
    text = judge(rows(*LEARNS))
    assert text.endswith("neither over- nor under-fitting")
    assert "0.950 on training images, 0.940 on validation, gap 1.0 points" in text
    assert "\n" not in text


def test_a_model_that_only_ever_says_the_commonest_label():
    """150 to 6 training images: one label is never found, and the accuracy is high."""
    text = judge(rows((0.2, 0.96, 0.18, 0.962)), confusion([75, 0], [3, 0]), labels=("other", "rose"))
    assert "the model calls every image other: accuracy 0.962 on 78 images equals always guessing other" in text
    assert "never found: rose (0 of 3)" in text
    assert "class_weights=balanced" in text
    assert "nor under-fitting" not in text
    assert "class_weights" not in judge(
        rows((0.2, 0.96, 0.18, 0.962)), confusion([75, 0], [3, 0]), labels=("other", "rose"), class_weights="balanced"
    )


def test_a_label_that_is_never_found_beside_others_that_are():
    text = judge(rows(*LEARNS), confusion([60, 0, 0], [2, 40, 0], [3, 5, 0]), labels=("a", "b", "c"))
    assert "never found: c (0 of 8)" in text
    assert "guess" not in text


def test_many_labels_that_are_never_found_are_counted():
    matrix = np.zeros((10, 10), int)
    matrix[:5] = 20 * np.eye(10, dtype=int)[:5]
    matrix[5:, 0] = 20
    text = judge(rows(*LEARNS), matrix, labels=[f"l{i}" for i in range(10)])
    assert "never found: l5 (0 of 20), l6 (0 of 20), l7 (0 of 20) and 2 more labels" in text
    assert "fit_check" in text  # they are as common as the others


def test_answers_at_random_are_told_from_a_model():
    told = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        matrix = np.zeros((3, 3), int)
        np.add.at(matrix, (rng.integers(0, 3, 300), rng.integers(0, 3, 300)), 1)
        text = judge(rows((1.1, 0.34, 1.1, 0.33)), matrix, labels="abc")
        told += "cannot be told from one that guesses" in text
        assert "lr_max" not in text
    assert told >= 35  # the test's level is 5 %


def test_balanced_weights_may_cost_accuracy_without_being_a_guess():
    """Less accurate than the commonest label is common, but the rare one is found."""
    assert "guess" not in judge(rows(*LEARNS), confusion([180, 20], [1, 9]))


@pytest.mark.parametrize("losses", [(0.6, 0.3, 0.2, 5.0), (0.6, 0.3, 0.2, 40.0, 27.6, 27.6), (0.6, 1e6), (3.0,)])
def test_divergence_is_never_answered_by_a_higher_rate(losses):
    found = rows(*((loss, 0.5, loss, 0.5) for loss in losses))
    best = 1 + int(np.argmin(losses))
    text = judge(found, epoch=best)
    assert text.startswith("training diverged: in phase all")
    assert "a third of phases.0.lr_max" in text
    assert "raise" not in text
    assert ("the kept weights are older" in text) == (best < len(losses))


def test_a_phase_may_begin_with_a_higher_loss_than_the_one_before_ended():
    """A head on cached features ends at 0.1; what is fine-tuned behind it begins again, and gets there."""
    head = rows((0.5, 0.8, 0.5, 0.8), (0.1, 0.97, 0.2, 0.93), phase="head")
    tuned = rows((0.55, 0.8, 0.5, 0.8), (0.12, 0.96, 0.2, 0.94), first=3)
    assert "diverged" not in judge(head + tuned)
    diverging = rows((0.2, 0.8, 0.5, 0.8), (2.0, 0.5, 2.0, 0.5), first=3)
    assert "in phase all the training loss rose from 0.2 in epoch 3 to 2 in epoch 4" in judge(head + diverging, epoch=2)
    assert "phases.1.lr_max" in judge(head + diverging, epoch=2)


def test_overfitting_is_a_gap_beyond_its_uncertainty():
    fitted = (0.01, 1.0, 0.9, 0.8)
    assert "over-fitting; more photos will help more than more training" in judge(rows((0.6, 0.7, 0.6, 0.7), fitted))
    few = judge(rows((0.6, 0.7, 0.6, 0.7), (0.1, 0.95, 0.3, 0.9), examples=(70, 70)))
    assert "over-fitting cannot be told from 70 validation images" in few


def test_underfitting_says_what_the_curve_says():
    falling = [(1.2 - 0.1 * i, 0.3 + 0.04 * i, 1.2 - 0.1 * i, 0.3 + 0.04 * i) for i in range(8)]
    assert "under-fitting; the loss still falls, so train longer" in judge(rows(*falling))
    still = [*falling[:3], *[(1.0, 0.4, 1.0, 0.4)] * 8]
    assert "under-fitting; take a larger backbone" in judge(rows(*still))
    assert "lr_max" not in judge(rows(*still))


def test_growing_sure_of_mistakes():
    epochs = (*LEARNS, (0.02, 0.99, 0.6, 0.94))
    assert "validation loss was lowest in epoch 3, 0.200 against 0.600" in judge(rows(*epochs))
    assert "lowest" not in judge(rows(*epochs), epoch=3)


def test_the_kept_weights_are_judged_not_the_last():
    found = rows((0.15, 0.95, 0.2, 0.94), (0.01, 1.0, 0.22, 0.8))
    assert "nor under-fitting" in judge(found, epoch=1)
    assert "over-fitting; more" in judge(found, epoch=2)


def test_an_epoch_that_an_earlier_version_trained_is_not_judged():
    found = [row for row in rows(*LEARNS) if row["split"] != "train_sample"]
    assert judge(found).startswith("the kept weights are of an epoch without a training sample")


def test_without_validation():
    found = [row for row in rows(*LEARNS) if row["split"] == "train"]
    assert judge(found, None) == "no validation split: over-fitting cannot be told"
    assert "diverged" in judge([*found, found[-1] | {"loss": 9.0, "epoch": 4}], None)
    assert "never found" in judge(found, confusion([9, 0, 0], [0, 9, 0], [2, 2, 0]), labels="abc")
    unseen = found[0] | {"split": "cross_validation", "examples": 50, "accuracy": 0.9}
    assert judge([unseen, *found], None) == (
        "no validation split: over-fitting cannot be told; the head alone, after phase all, had an accuracy of 0.900 "
        "(0.786 to 0.957) in cross-validation"  # scipy.stats.binomtest(45, 50)
    )
