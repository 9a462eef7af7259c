"""Tests the training loop: what trains, what does not, resume, replicas."""

import contextlib
import itertools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.command import CommandError, TryAgainError, UsageError
from pipeline.linear.regression import GENTLE, STRENGTHS
from tests import datasets
from tests.trainer.runs import SOLVED, small_recipe, train, weights
from trainer.devices.workers import Workers
from trainer.train.evaluation import Metrics
from trainer.train.features import FeatureCache
from trainer.train.loop import next_save
from trainer.train.model import build_from_recipe
from trainer.train.plan import Plan, Position, class_weights
from trainer.train.solve import solve_head


def _differing(before, after):
    return {path for path in before if not np.array_equal(before[path], after[path])}


def _stop_after(calls):
    counter = itertools.count(1)
    return lambda: next(counter) >= calls


@pytest.fixture(scope="module")
def uninterrupted(tiny_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted")
    trainer, classifier, position = train(tiny_data, small_recipe(), run)
    return run, trainer, weights(classifier), position


def test_it_learns_and_counts_every_example(tiny_data, tmp_path):
    trainer, _, position = train(tiny_data, small_recipe("phases.1.duration=12ep", "phases.1.lr_max=0.003"), tmp_path)
    assert position.best["step"] == 70  # the last, for no earlier epoch was better by more than luck
    assert position.best["validation_accuracy"] == trainer.rows[-1]["accuracy"]
    log_probabilities, labels = trainer.predictor.log_probabilities("test")
    assert log_probabilities.shape == (13, 3)
    assert sorted(labels.tolist()) == sorted(i % 3 for i in range(13))
    assert (log_probabilities.argmax(axis=1) == labels).mean() > 0.9
    np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_metrics_hold_one_row_per_epoch_and_split(uninterrupted):
    run, trainer, _, _ = uninterrupted
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == trainer.rows
    splits = ("train", "train_sample", "validation")
    assert [(r["epoch"], r["split"]) for r in rows] == [(e, s) for e in (1, 2, 3, 4) for s in splits]
    assert [r["step"] for r in rows[::3]] == [5, 10, 15, 20]  # 37 images in batches of 8
    lines = (run / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,epoch,phase,split,examples,accuracy,balanced_accuracy,macro_f1,loss,learning_rate"
    assert len(lines) == 13


@pytest.mark.slow
def test_a_frozen_backbone_stays_to_the_bit_and_the_head_moves(tiny_data, tmp_path):
    recipe = small_recipe("phases.1.duration=1st", "phases.1.lr_min=0", "phases.1.lr_max=0")
    _, first, _ = train(tiny_data, small_recipe("phases.0.duration=1st", "phases.0.lr_max=0",
                                                "phases.1.duration=1st", "phases.1.lr_min=0", "phases.1.lr_max=0"),
                        tmp_path / "untrained")  # fmt: skip
    _, second, _ = train(tiny_data, recipe, tmp_path / "head")
    moved = _differing(weights(first), weights(second))
    assert moved
    assert all(path.startswith("head/") for path in moved)


@pytest.mark.slow
def test_cached_features_train_the_head_as_the_frozen_backbone_would(tiny_data, tmp_path):
    common = ("phases.0.augment=false", "head.dropout=0", "phases.1.duration=1st", "phases.1.lr_min=0",
              "phases.1.lr_max=0")  # fmt: skip
    _, cached, _ = train(tiny_data, small_recipe(*common), tmp_path / "cached")
    _, computed, _ = train(tiny_data, small_recipe(*common, "phases.0.cached_features=false"), tmp_path / "computed")
    # The order of the examples within the epoch differs, the convex problem is the same.
    a, b = weights(cached), weights(computed)
    assert _differing(a, b) <= {p for p in a if p.startswith("head/")}
    assert np.linalg.norm(a["head/logits/kernel"] - b["head/logits/kernel"]) < 0.25 * np.linalg.norm(
        a["head/logits/kernel"]
    )


def test_a_head_that_is_solved_for_is_scikit_learns(tiny_data, tmp_path):
    recipe = small_recipe(*SOLVED, "phases.1.duration=1st", "phases.1.lr_min=0", "phases.1.lr_max=0")
    trainer, _, _ = train(tiny_data, recipe, tmp_path)
    rows = [(row["phase"], row["split"], row["step"], row["epoch"]) for row in trainer.rows]
    splits = ("train", "train_sample", "validation")
    assert rows == [
        ("head", "cross_validation", 1, 1),
        *(("head", split, 1, 1) for split in splits),
        *(("all", split, 2, 2) for split in splits),
    ]
    unseen, known = trainer.rows[:2]
    assert (unseen["examples"], "learning_rate" in known) == (37, False)

    features, labels = trainer.predictor.features("train")
    size = (features.astype(float) ** 2).sum(axis=1).mean()
    losses = []
    for strength in STRENGTHS:
        head = LogisticRegression(C=1 / (strength * size), max_iter=5000, tol=1e-8).fit(features, labels)
        losses.append(log_loss(labels, head.predict_proba(features)))
    assert min(abs(known["loss"] / loss - 1) for loss in losses) < 0.02

    # The next phase, which learns nothing, begins with another one.
    gentle = LogisticRegression(C=1 / (GENTLE * size), max_iter=5000, tol=1e-8).fit(features, labels)
    found, truth = trainer.predictor.log_probabilities("validation")
    inputs, _ = trainer.predictor.features("validation")
    np.testing.assert_allclose(np.exp(found), gentle.predict_proba(inputs), atol=2e-3)
    solved, last = (row for row in trainer.rows if row["split"] == "validation")
    assert last["loss"] == pytest.approx(log_loss(truth, gentle.predict_proba(inputs)), rel=0.01)
    assert solved["loss"] < 0.9 * last["loss"]


def test_features_that_are_no_numbers_are_refused(tiny_data, tmp_path):
    recipe = small_recipe(*SOLVED)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        classifier = build_from_recipe(recipe, num_classes=3, seed=0)
    features = np.array([[1, 2], [3, np.inf], [5, 6], [-np.inf, 7]], np.float32)
    cache = FeatureCache(splits={"train": (tf.constant(features), tf.constant([0, 1, 2, 0]))}, batch_size=4, seed=0)
    plan = Plan(recipe=recipe, data=tiny_data, seed=0, run=tmp_path, class_weights=np.ones(3),
                stop_requested=lambda: False)  # fmt: skip
    with pytest.raises(CommandError, match="not finite numbers; look at its weights"):
        solve_head(classifier, cache, plan, Workers(strategy))


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2, 3, 4, 5, 6, 7])
def test_stopped_about_the_solution_and_resumed_gives_the_same(tiny_data, tmp_path, passes):
    """The first two passes compute features, the next two compare and solve, the fifth makes a gentler head."""
    counter = itertools.count(1)

    @contextlib.contextmanager
    def at_once():
        if next(counter) == passes:
            raise TryAgainError("stopped")
        yield

    recipe = small_recipe(*SOLVED, "phases.1.duration=1ep")
    _, expected, _ = train(tiny_data, recipe, tmp_path / "whole")
    with pytest.raises(TryAgainError):
        train(tiny_data, recipe, tmp_path / "run", at_once=at_once)
    _, classifier, _ = train(tiny_data, recipe, tmp_path / "run")
    assert _differing(weights(expected), weights(classifier)) == set()
    whole, again = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "run"))
    assert again == whole


@pytest.mark.parametrize("stop_after", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 9)), 6])
def test_stopped_and_resumed_gives_the_same_weights_and_metrics(uninterrupted, tiny_data, tmp_path, stop_after):
    run, _, expected, position = uninterrupted
    with pytest.raises(TryAgainError, match="run the same command again"):
        train(tiny_data, small_recipe(), tmp_path, stop_requested=_stop_after(stop_after))
    _, classifier, resumed = train(tiny_data, small_recipe(), tmp_path)
    assert _differing(expected, weights(classifier)) == set()
    assert (tmp_path / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert resumed.best == position.best


@pytest.mark.slow
@pytest.mark.parametrize("passes", [2, 3, 4])
def test_stopped_while_it_evaluates_and_resumed_gives_the_same(uninterrupted, tiny_data, tmp_path, passes):
    """The second pass computes features of the validation split, the third and fourth validate."""
    run, _, expected, position = uninterrupted
    counter = itertools.count(1)

    @contextlib.contextmanager
    def at_once():
        yield
        if next(counter) == passes:
            raise TryAgainError("stopped")

    with pytest.raises(TryAgainError):
        train(tiny_data, small_recipe(), tmp_path, at_once=at_once)
    _, classifier, resumed = train(tiny_data, small_recipe(), tmp_path)
    assert _differing(expected, weights(classifier)) == set()
    assert (tmp_path / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert resumed.best == position.best


@pytest.mark.slow
def test_no_trained_epoch_is_lost_where_validation_is_stopped(tiny_data, tmp_path, caplog):
    @contextlib.contextmanager
    def at_once():
        yield
        if (tmp_path / "metrics.jsonl").exists() and (tmp_path / "metrics.jsonl").read_text().count("\n") == 9:
            raise TryAgainError("stopped")

    with pytest.raises(TryAgainError):
        train(tiny_data, small_recipe(), tmp_path, at_once=at_once)
    with caplog.at_level("INFO", logger="absl"):
        train(tiny_data, small_recipe(), tmp_path)
    assert "resuming phase all at step 10" in caplog.text


def test_a_finished_run_trains_no_further(uninterrupted, tiny_data):
    run, _, expected, _ = uninterrupted
    before = (run / "metrics.jsonl").read_bytes()
    _, classifier, _ = train(tiny_data, small_recipe(), run)
    assert _differing(expected, weights(classifier)) == set()
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncate", "delete"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(uninterrupted, tiny_data, tmp_path, damage):
    _, _, expected, _ = uninterrupted
    with pytest.raises(TryAgainError):
        train(tiny_data, small_recipe(), tmp_path, stop_requested=_stop_after(8))
    states = sorted(
        (tmp_path / "checkpoints" / "state").glob("*.data-*"), key=lambda p: int(p.name.split("-")[1].split(".")[0])
    )
    assert len(states) >= 2
    if damage == "truncate":
        states[-1].write_bytes(states[-1].read_bytes()[:1000])
    else:
        states[-1].unlink()
    _, classifier, _ = train(tiny_data, small_recipe(), tmp_path)
    assert _differing(expected, weights(classifier)) == set()


def test_two_replicas_equal_one_with_the_same_global_batch(tiny_data, tmp_path, two_replicas):
    recipe = small_recipe("head.dropout=0", "optimizer.clip_norm=0.5", "ema_decay=0.9")
    one, single, _ = train(tiny_data, recipe, tmp_path / "one")
    two, mirrored, _ = train(tiny_data, recipe, tmp_path / "two", strategy=two_replicas)
    for a, b in zip(one.rows, two.rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)
    expected, found = weights(single), weights(mirrored)
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], atol=5e-3, err_msg=path)


@pytest.mark.slow
def test_augmentation_on_the_accelerator_trains_alike(tiny_data, tmp_path, two_replicas):
    augment = ("augment.saturation=0.9", "augment.contrast=0.6", "augment.cutout_count=2", "augment.cutout_size=0.6")
    same = ("head.dropout=0", "phases.1.warmup=50%")
    host, _, _ = train(tiny_data, small_recipe(*same, *augment), tmp_path / "host")
    recipe = small_recipe(*same, *augment, "augment.on_accelerator=true", "accumulate=2")
    device, _, _ = train(tiny_data, recipe, tmp_path / "device", strategy=two_replicas)
    plain, _, _ = train(tiny_data, small_recipe(*same), tmp_path / "plain")
    # The first epoch that augments: later ones amplify what rounding the images to whole levels has changed.
    first = next(i for i, row in enumerate(host.rows) if row["phase"] == host.rows[-1]["phase"])
    losses = [trainer.rows[first]["loss"] for trainer in (host, device, plain)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert losses[2] != pytest.approx(losses[0], rel=2e-2)


@pytest.mark.slow
def test_replicas_drop_different_units_and_seeds_matter(tiny_data, tmp_path):
    _, first, _ = train(tiny_data, small_recipe("phases.1.duration=1ep"), tmp_path / "a")
    _, same, _ = train(tiny_data, small_recipe("phases.1.duration=1ep"), tmp_path / "b")
    _, other, _ = train(tiny_data, small_recipe("phases.1.duration=1ep"), tmp_path / "c", seed=1)
    assert _differing(weights(first), weights(same)) == set()
    assert _differing(weights(first), weights(other))


@pytest.mark.slow
def test_gradients_are_clipped_by_their_global_norm(tiny_data, tmp_path):
    """One SGD step at rate 1 moves the weights by exactly the gradient, so by the norm it was clipped to."""
    still = ("phases.0.duration=1st", "phases.0.lr_max=0", "phases.0.l2=0", "optimizer.name=sgd",
             "optimizer.momentum=0", "phases.1.duration=1st", "head.dropout=0")  # fmt: skip
    _, before, _ = train(tiny_data, small_recipe(*still, "phases.1.lr_min=0", "phases.1.lr_max=0"), tmp_path / "before")
    move = ("phases.1.lr_min=1", "phases.1.lr_max=1")
    _, clipped, _ = train(tiny_data, small_recipe(*still, *move, "optimizer.clip_norm=0.01"), tmp_path / "clipped")
    a, b = weights(before), weights(clipped)
    assert np.sqrt(sum(np.square(a[p] - b[p]).sum() for p in a)) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        ('[["head/", 1.0]]', r'no pattern of trainable covers "backbone/'),
        ('[["head/", 1.0], ["bckbone/", null], [".*", null]]', r'pattern "bckbone/" of trainable matches no variable'),
        ('[[".*", null]]', "nothing would train"),
    ],
)
def test_the_trainable_table_must_cover_every_variable(tiny_data, tmp_path, trainable, message):
    with pytest.raises(UsageError, match=message):
        train(tiny_data, small_recipe(f"phases.1.trainable={trainable}"), tmp_path)


@pytest.mark.slow
def test_accumulated_gradients_equal_those_of_the_whole_batch(tiny_data, tmp_path):
    common = ("head.dropout=0", "optimizer.name=sgd", "phases.1.duration=1ep")
    _, whole, _ = train(tiny_data, small_recipe(*common), tmp_path / "whole")
    _, pieces, _ = train(tiny_data, small_recipe(*common, "accumulate=4"), tmp_path / "pieces")
    expected, found = weights(whole), weights(pieces)
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], atol=1e-5, err_msg=path)


def test_balanced_class_weights_are_scikit_learns(tmp_path):
    records = datasets.coloured_records(30, classes=3)[::2] + datasets.coloured_records(9, classes=3, seed=4)[::3]
    data = datasets.write_dataset(tmp_path, {"train": records}, ["red", "green", "blue"])
    labels = np.array([record.label for record in records])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(class_weights(small_recipe("class_weights=balanced"), data), expected, rtol=1e-6)
    np.testing.assert_array_equal(class_weights(small_recipe(), data), 1)


@pytest.mark.slow
def test_class_weights_scale_the_gradient(tiny_data, tmp_path):
    """One SGD step at rate 1 moves the logits' bias by minus the mean of weight · (probability - truth)."""
    still = ("phases.0.duration=1st", "phases.0.lr_max=0", "phases.0.l2=0", "optimizer.name=sgd", "batch_size=37",
             "optimizer.momentum=0", "phases.1.duration=1st", "head.dropout=0", "phases.1.augment=false")  # fmt: skip
    trainer, before, _ = train(
        tiny_data, small_recipe(*still, "phases.1.lr_min=0", "phases.1.lr_max=0"), tmp_path / "before"
    )
    log_probabilities, labels = trainer.predictor.log_probabilities("train")
    recipe = small_recipe(*still, "phases.1.lr_min=1", "phases.1.lr_max=1", "class_weights=balanced")
    factor = class_weights(recipe, tiny_data)[labels]
    _, after, _ = train(tiny_data, recipe, tmp_path / "after")
    step = weights(after)["head/logits/bias"] - weights(before)["head/logits/bias"]
    np.testing.assert_allclose(
        step, -(factor[:, None] * (np.exp(log_probabilities) - np.eye(3)[labels])).mean(axis=0), atol=1e-6
    )


@pytest.mark.slow
def test_a_phase_ends_when_validation_has_not_improved_for_its_patience(tiny_data, tmp_path):
    frozen = ("phases.1.lr_min=0", "phases.1.lr_max=0", "phases.1.duration=50ep", "phases.1.patience=2")
    trainer, _, _ = train(tiny_data, small_recipe(*frozen), tmp_path)
    epochs = [row["epoch"] for row in trainer.rows if row["phase"] == "all" and row["split"] == "validation"]
    assert epochs == [3, 4, 5]  # the first one is the best of the phase


@pytest.mark.slow
def test_patience_that_ends_the_last_phase_keeps_its_last_weights(tiny_data, tmp_path):
    frozen = ("phases.1.lr_min=0", "phases.1.lr_max=0", "phases.1.duration=50ep", "phases.1.patience=2")
    trainer, classifier, position = train(tiny_data, small_recipe(*frozen, "selection=last"), tmp_path)
    assert trainer.rows[-1]["epoch"] == 5
    assert position.step == 50 * 5
    with np.load(tmp_path / "checkpoints/best.npz") as kept:
        for path, value in weights(classifier).items():
            np.testing.assert_array_equal(kept[path], value)


def _ruined():
    """Returns a recipe whose fine-tuning ruins what its head has learnt."""
    learns = ("phases.0.duration=12ep", "phases.0.lr_max=0.03", "head.hidden=0", "optimizer.name=sgd")
    forgets = ("phases.1.lr_max=3", "phases.1.lr_min=3", "optimizer.clip_norm=1")
    return small_recipe("selection=best", *learns, *forgets)


@pytest.mark.slow
def test_an_earlier_epoch_that_is_better_by_more_than_luck_is_kept(tiny_data, tmp_path):
    trainer, _, position = train(tiny_data, _ruined(), tmp_path)
    accuracies = {row["step"]: row["accuracy"] for row in trainer.rows if row["split"] == "validation"}
    assert position.best["phase"] == "head"
    assert position.best["validation_accuracy"] == accuracies[position.best["step"]] > accuracies[70] + 0.3


@pytest.mark.slow
def test_killed_before_its_last_epoch_a_run_keeps_the_same_weights(tiny_data, tmp_path):
    _, _, position = train(tiny_data, _ruined(), tmp_path / "whole")
    with pytest.raises(TryAgainError):
        train(tiny_data, _ruined(), tmp_path / "killed", stop_requested=_stop_after(33))
    _, _, again = train(tiny_data, _ruined(), tmp_path / "killed")
    assert again.best == position.best
    kept = [np.load(tmp_path / name / "checkpoints" / "best.npz") for name in ("whole", "killed")]
    for name in kept[0]:
        np.testing.assert_array_equal(kept[0][name], kept[1][name])


def _of_ten(hits):
    return Metrics(examples=10, loss=1.0, confusion=np.array([[hits, 10 - hits], [0, 0]]))


def test_patience_counts_from_the_best_of_its_own_phase():
    """A new head may begin below the one before it, and climb for many epochs before it is better than ever."""
    position = Position()
    assert position.select({"epoch": 1}, _of_ten(9), by="accuracy")
    position.begin_next_phase()
    for epoch, hits in ((2, 3), (3, 4), (4, 5), (5, 5)):
        assert not position.select({"epoch": epoch}, _of_ten(hits), by="accuracy")
    assert position.best["epoch"] == 1
    assert position.phase_best == {"epoch": 4, "validation_accuracy": 0.5}


@pytest.mark.slow
def test_tensorboard_shows_every_step_once_after_a_kill(uninterrupted, tiny_data, tmp_path):
    """Here the run is stopped a step behind an epoch, and the checkpoint of then is lost."""
    with pytest.raises(TryAgainError):
        train(tiny_data, small_recipe(), tmp_path, stop_requested=_stop_after(5))
    shutil.rmtree(tmp_path / "checkpoints")
    train(tiny_data, small_recipe(), tmp_path)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [event.step for event in events.Tensors("loss/train")] == [5, 10, 15, 20]
    assert events.Tags()["tensors"]


@pytest.mark.parametrize(("content", "message"), [(b"{", "damaged"), (b"", "0 rows")])
def test_damaged_metrics_are_named(tiny_data, tmp_path, content, message):
    with pytest.raises(TryAgainError):
        train(tiny_data, small_recipe(), tmp_path, stop_requested=_stop_after(5))
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=f"metrics.jsonl: {message}.*take another --run"):
        train(tiny_data, small_recipe(), tmp_path)


def test_a_loss_that_is_no_number_stops_the_run_names_the_step_and_keeps_the_batch(tiny_data, tmp_path):
    recipe = small_recipe("optimizer.name=sgd", "phases.1.lr_max=1e30", "phases.1.lr_min=1e30")
    message = r"the loss became (nan|inf) in phase all at step \d+ .*bad_batch\.npz.*lower lr_max"
    with pytest.raises(CommandError, match=message):
        train(tiny_data, recipe, tmp_path)
    with np.load(tmp_path / "bad_batch.npz") as batch:
        assert batch["image"].shape == (8, 16, 16, 3)
        assert batch["label"].shape == (8,)


def test_checkpoints_take_a_small_share_of_the_time():
    """As for EfficientNet-B7 (66 million parameters) with momentum and averages, to a store that takes 200 MB/s."""
    seconds = 66e6 * 3 * 4 / 200e6
    # Even where training would wait for the store.
    for waited in (0.1, seconds, 10 * seconds):
        cycle = next_save(1000.0, 1000.0 + waited, written=seconds) - 1000.0
        assert waited / cycle < 0.03
    assert next_save(0.0, 0.1, written=seconds) == pytest.approx(60.1)
    assert next_save(0.0, 0.1, written=300) == pytest.approx(600.1)
