import resource

import numpy as np
import pytest
import tensorflow as tf

from trainer.train.checkpoint import Checkpoints, Snapshot
from trainer.train.selection import Outcomes


def _state(size=3):
    return {"model": {"a/b": tf.Variable(tf.zeros([size])), "c": tf.Variable(1)}, "average": [tf.Variable([0.5])]}


def test_what_is_written_is_what_was_copied_however_soon_training_goes_on(tmp_path):
    variables, checkpoints = _state(), Checkpoints(tmp_path)
    snapshot = Snapshot(variables)
    for number in range(20):
        variables["model"]["a/b"].assign([number, number, number])
        checkpoints.save({"step": number}, snapshot, number=number)
        variables["model"]["a/b"].assign([-1, -1, -1])
    checkpoints.wait()
    found = checkpoints.candidates()
    assert [progress for _, progress in found] == [{"step": 19}, {"step": 18}]
    for path, progress in found:
        assert checkpoints.restore(path, snapshot)
        np.testing.assert_array_equal(variables["model"]["a/b"], [progress["step"]] * 3)


def test_the_best_weights_are_those_of_the_call(tmp_path):
    weights = {"a/b": tf.Variable([1.0, 2.0])}
    checkpoints = Checkpoints(tmp_path)
    outcomes = Outcomes(labels=np.array([0, 1]), predicted=np.array([1, 1]), losses=np.array([0.5, 0.25]))
    checkpoints.save_best(Snapshot(weights), outcomes)
    weights["a/b"].assign([0.0, 0.0])
    for name, values in vars(checkpoints.best_outcomes()).items():
        np.testing.assert_array_equal(values, getattr(outcomes, name))
    elsewhere = Checkpoints(tmp_path / "earlier version")
    elsewhere.save_best(Snapshot(weights))
    assert elsewhere.best_outcomes() is None
    with np.load(tmp_path / "best.npz") as arrays:
        np.testing.assert_array_equal(arrays["a/b"], [1, 2])


def test_a_disk_that_is_full_fails_the_next_call_and_leaves_the_checkpoint_before(tmp_path):
    variables, checkpoints = _state(size=100_000), Checkpoints(tmp_path)
    snapshot = Snapshot(variables)
    checkpoints.save({"step": 1}, snapshot, number=1)
    checkpoints.wait()
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 10, most))
        checkpoints.save({"step": 2}, snapshot, number=2)
        with pytest.raises(tf.errors.OpError, match="File too large"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not checkpoints.is_writing()
    assert not list(tmp_path.glob("state/*_temp"))
    ((path, progress),) = checkpoints.candidates()
    assert progress == {"step": 1}
    assert checkpoints.restore(path, snapshot)
    checkpoints.save({"step": 3}, snapshot, number=3)
    checkpoints.wait()
    assert [progress for _, progress in checkpoints.candidates()] == [{"step": 3}, {"step": 1}]


def test_what_a_killed_write_left_is_removed(tmp_path):
    half = tmp_path / "state/ckpt-7_temp"
    half.mkdir(parents=True)
    (half / "part-00000-of-00001.data-00000-of-00001.tempstate1").write_bytes(b"x")
    assert Checkpoints(tmp_path).candidates() == []
    assert not half.exists()
