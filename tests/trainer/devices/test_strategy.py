"""Tests which devices train: flags, TF_CONFIG, and what happens to a batch that the replicas cannot share out."""

import concurrent.futures
import dataclasses
import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from pipeline.command import TryAgainError, UsageError
from tests.trainer.runs import small_recipe
from trainer.devices import choice
from trainer.devices import strategy as strategy_module
from trainer.devices.choice import choose
from trainer.devices.cluster import Cluster, read_cluster, wait_for_others
from trainer.devices.strategy import describe, describe_tpu, make_strategy, reads_elsewhere
from trainer.devices.workers import Workers
from trainer.recipes.overrides import to_dict
from trainer.rundir import fit_batch, refuse_another_run

HOSTS = ["a:1", "b:2"]
TWO = Cluster(addresses=("a:1", "b:2"), index=0)


def tf_config(cluster, kind="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_tf_config_names_the_workers_and_which_of_them_this_is():
    assert read_cluster(tf_config({"worker": HOSTS}, index=1)) == Cluster(addresses=("a:1", "b:2"), index=1)
    with_chief = {"chief": ["c:9"], "worker": HOSTS}
    assert read_cluster(tf_config(with_chief, "chief")) == Cluster(addresses=("c:9", "a:1", "b:2"), index=0)
    assert read_cluster(tf_config(with_chief, "worker", 1)).index == 2


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TF_CONFIG": ""},
        {"TF_CONFIG": "{}"},
        tf_config({"worker": ["a:1"]}),
        tf_config({"chief": ["a:1"]}, "chief"),
    ],
)
def test_without_other_workers_there_is_no_cluster(environment):
    assert read_cluster(environment) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"'}, "TF_CONFIG=.*write it like"),
        ({"TF_CONFIG": "[1]"}, "TF_CONFIG=.*write it like"),
        (tf_config({"worker": HOSTS, "ps": ["p:1"]}), 'job "ps" has no part'),
        (tf_config({"worker": HOSTS}, index=2), r'task .*"index": 2.* is none of the cluster\'s: worker 0, worker 1'),
        (tf_config({"worker": HOSTS}, "chief"), "is none of the cluster's"),
        ({"TF_CONFIG": json.dumps({"cluster": {"worker": HOSTS}})}, "is none of the cluster's"),
        (tf_config({"worker": ["a:1", "b"]}), '"b" is not host:port'),
        (tf_config({"worker": ["a:1", "a:1"]}), "an address comes twice"),
        (tf_config({"worker": ["a:1", 7]}), '"7" is not host:port'),
    ],
)
def test_a_damaged_tf_config_is_named_with_the_fix(environment, message):
    with pytest.raises(UsageError, match=message):
        read_cluster(environment)


def _free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def test_workers_wait_for_one_another_and_leave_their_ports_free():
    ports = _free_ports(3)
    clusters = [Cluster(addresses=tuple(f"localhost:{port}" for port in ports), index=i) for i in range(3)]
    everybody = threading.Barrier(3, timeout=30)

    def work(cluster):
        wait_for_others(cluster, seconds=30)
        with socket.create_server(("", ports[cluster.index])):  # as TensorFlow's server does then
            everybody.wait()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(work, clusters[0])
        time.sleep(0.5)
        assert not first.done()
        for waiting in [first, *(pool.submit(work, cluster) for cluster in clusters[1:])]:
            waiting.result()


def test_who_does_not_come_in_time_is_named_and_so_is_a_port_that_is_taken():
    one, two = _free_ports(2)
    cluster = Cluster(addresses=(f"localhost:{one}", f"localhost:{two}"), index=0)
    with pytest.raises(TryAgainError, match=f"nobody listens at localhost:{two} after 0 s"):
        wait_for_others(cluster, seconds=0.3)
    with socket.create_server(("", one)), pytest.raises(TryAgainError, match=f"port {one} is taken"):
        wait_for_others(cluster, seconds=0.3)


@pytest.mark.parametrize(
    ("kind", "tpu", "cluster", "chosen"),
    [
        ("auto", "", None, "auto"),
        ("auto", "local", None, "tpu"),
        ("auto", "local", TWO, "tpu"),
        ("auto", "", TWO, "multiworker"),
        ("cpu", "", TWO, "cpu"),
        ("mirrored", "", TWO, "mirrored"),
        ("tpu", "", None, "tpu"),
        ("multiworker", "", TWO, "multiworker"),
    ],
)
def test_the_choice_follows_the_flags_then_what_there_is(kind, tpu, cluster, chosen, monkeypatch):
    monkeypatch.setattr(choice, "find_chips", lambda: SimpleNamespace(usable=True))
    assert choose(kind, tpu=tpu, cluster=cluster) == chosen


@pytest.mark.parametrize(
    ("kind", "tpu", "message"),
    [
        ("cpu", "local", "--strategy=cpu and --tpu=local contradict"),
        ("mirrored", "my-tpu", "--strategy=mirrored and --tpu=my-tpu contradict"),
        ("multiworker", "", "--strategy=multiworker needs .*TF_CONFIG"),
        ("tpu", "", "--tpu=local: no TPU on this machine"),
        ("auto", "local", "--tpu=local: no TPU on this machine"),
    ],
)
def test_contradictions_are_refused(kind, tpu, message):
    with pytest.raises(UsageError, match=message):
        choose(kind, tpu=tpu, cluster=None)


def test_one_cpu_and_a_strategy_by_name():
    strategy = make_strategy(kind="cpu")
    assert describe(strategy) == "1 replica on CPU"
    assert not reads_elsewhere(strategy)
    workers = Workers(strategy)
    assert (workers.count, workers.is_chief, workers.gather(3)) == (1, True, [3])
    with pytest.raises(UsageError, match="--tpu=local: no TPU on this machine"):
        make_strategy(kind="tpu")


def test_servers_that_are_not_there_are_named(monkeypatch):
    monkeypatch.setattr(strategy_module, "_CONNECT_SECONDS", 0.3)
    with socket.create_server(("localhost", 0)) as there:
        port = there.getsockname()[1]
        with pytest.raises(UsageError, match="no TensorFlow server listens at localhost:9, localhost:8;"):
            make_strategy(f"grpc://localhost:9,grpc://localhost:{port},grpc://localhost:8")


def test_a_tpu_is_described_by_its_chips():
    assert describe_tpu("v5e", (2, 4, 1, 1), hosts=2) == "TPU v5e, 8 chips of 15.75 GiB (2x4x1) on 2 hosts"
    assert describe_tpu(None, (2, 2, 1, 2), hosts=1) == "TPU, 4 chips (2x2x1) on 1 host"


@pytest.mark.parametrize(("asked", "replicas", "size"), [(8, 1, 8), (8, 4, 8), (8, 3, 9), (100, 8, 104), (1, 8, 8)])
def test_a_batch_is_rounded_up_to_the_replicas(asked, replicas, size, caplog):
    recipe = fit_batch(small_recipe(f"batch_size={asked}"), replicas=replicas)
    assert recipe.batch_size == size
    warned = f"batch_size={asked} cannot be shared out equally to {replicas} replicas: it is {size} now" in caplog.text
    assert warned == (size != asked)


@pytest.mark.parametrize(
    ("settings", "replicas", "size"),
    [
        (["batch_size=64"], 1, 42),
        (["batch_size=64"], 4, 48),
        (["batch_size=64", "accumulate=4"], 2, 48),
        (["batch_size=41"], 1, 41),
        (["batch_size=40"], 8, 40),
    ],
)
def test_a_batch_is_no_larger_than_the_training_split(settings, replicas, size, caplog):
    recipe = small_recipe(*settings)
    fitted = fit_batch(recipe, replicas=replicas, num_train=41)
    assert fitted.batch_size == size
    assert (f"is more than the 41 training images: it is {size} now" in caplog.text) == (size < recipe.batch_size)


def test_pieces_that_come_out_unequal_are_refused():
    recipe = small_recipe("batch_size=32", "accumulate=4")
    assert fit_batch(recipe, replicas=8).batch_size == 32
    with pytest.raises(
        UsageError, match=r"batch_size=32 gives each of 16 replicas 2 images.*--set=batch_size=64 works"
    ):
        fit_batch(recipe, replicas=16)


def _started(directory, recipe, **more):
    (directory / "checkpoints").mkdir()
    (directory / "config.json").write_text(json.dumps({"recipe": to_dict(recipe), **more}))
    return directory


def test_a_run_keeps_its_rounded_batch_on_other_replicas(tmp_path):
    asked = small_recipe("batch_size=100")
    run = _started(tmp_path, dataclasses.replace(asked, batch_size=104), asked_batch_size=100)
    for replicas in (1, 2, 4, 13):
        assert fit_batch(asked, replicas=replicas, directory=run).batch_size == 104
    with pytest.raises(UsageError, match="a run in batches of 104, which 3 replicas cannot share out"):
        fit_batch(asked, replicas=3, directory=run)
    # Another batch than the run's is for the comparison of configurations to refuse.
    assert fit_batch(small_recipe("batch_size=64"), replicas=2, directory=run).batch_size == 64


def test_a_run_from_before_a_setting_existed_goes_on(tmp_path):
    recipe = small_recipe()
    run = _started(tmp_path, recipe)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["recipe"]["sam_rho"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    refuse_another_run(run, {"recipe": to_dict(recipe)})
    refuse_another_run(run, {"recipe": to_dict(recipe), "data": "where it was moved to"})
    with pytest.raises(UsageError, match=r"recipe.sam_rho: 0.0 → 0.05"):
        refuse_another_run(run, {"recipe": to_dict(dataclasses.replace(recipe, sam_rho=0.05))})


def test_a_run_that_needed_no_rounding_is_not_rounded_later(tmp_path):
    asked = small_recipe("batch_size=100")
    run = _started(tmp_path, asked)
    assert fit_batch(asked, replicas=4, directory=run).batch_size == 100
    with pytest.raises(UsageError, match="a run in batches of 100, which 8 replicas cannot share out"):
        fit_batch(asked, replicas=8, directory=run)
