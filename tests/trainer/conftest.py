import pathlib
import subprocess

import pytest
import tensorflow as tf

from pipeline.format.manifest import DatasetVersion
from tests import datasets, two_cpus  # noqa: F401  (two_cpus before any test uses a device)
from tests.trainer.commands import run, training_flags


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> DatasetVersion:
    """Writes three classes told apart by colour; 37, 11 and 13 images, which no batch size divides."""
    splits = {
        name: datasets.coloured_records(count, classes=3, seed=seed)
        for seed, (name, count) in enumerate({"train": 37, "validation": 11, "test": 13}.items())
    }
    return datasets.write_dataset(tmp_path_factory.mktemp("tiny"), splits, ["red", "green", "blue"])


@pytest.fixture(scope="session")
def finished(tiny_data, tmp_path_factory) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
    """Trains on it by the command; returns the run's folder, which tests leave as it is, and the finished process."""
    workdir = tmp_path_factory.mktemp("main") / "run"
    result = run(*training_flags(tiny_data, workdir))
    assert result.returncode == 0, result.stderr
    return workdir, result


@pytest.fixture(scope="session")
def two_replicas() -> tf.distribute.Strategy:
    """Makes one for all tests: a second MirroredStrategy in a process mixes up its collectives with the first one's."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
