"""Tests which host of a TPU slice does what, with a metadata server on loopback in the place of Compute Engine's."""

import http.server
import threading

import pytest
import tensorflow as tf

from pipeline.command import UsageError
from trainer.devices.chips import Chips
from trainer.devices.tpu import hosts, server
from trainer.devices.tpu.hosts import SliceHost, TpuPlace, find_host, find_place, refuse_own_disks

NOBODY = "http://127.0.0.1:9/"


@pytest.fixture
def metadata():
    answers = {"/agent-worker-number": "2", "/worker-network-endpoints": "a:b:10.0.0.1,c:d:10.0.0.2,e:f:10.0.0.3"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers["Metadata-Flavor"] == "Google" and self.path in answers
            self.send_response(200 if known else 403)
            self.end_headers()
            self.wfile.write(answers[self.path].encode() if known else b"Missing Metadata-Flavor:Google header.")

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", answers
        server.shutdown()


def test_compute_engine_tells_the_host(metadata):
    address, answers = metadata
    hosts = ("10.0.0.1:8470", "10.0.0.2:8470", "10.0.0.3:8470")
    assert find_host({}, metadata=address) == SliceHost(number=2, addresses=hosts)
    answers["/worker-network-endpoints"] = "unknown:unknown:10.0.0.1"
    assert find_host({}, metadata=address) == SliceHost()
    del answers["/worker-network-endpoints"]
    assert find_host({}, metadata=address) == SliceHost()


def test_kubernetes_tells_the_host():
    environment = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a, b"}
    assert find_host(environment, metadata=NOBODY) == SliceHost(number=1, addresses=("a:8470", "b:8470"))


def test_where_nobody_tells_there_is_one_host():
    assert find_host({}, metadata=NOBODY) == SliceHost()


@pytest.mark.parametrize("number", ["2", "", "-1", "one"])
def test_a_number_that_is_none_of_the_hosts_is_refused(number):
    with pytest.raises(UsageError, match=f'this host is "{number}" of the 2 hosts a, b'):
        find_host({"TPU_WORKER_ID": number, "TPU_WORKER_HOSTNAMES": "a,b"}, metadata=NOBODY)


@pytest.fixture
def on_a_host(monkeypatch):
    chips = Chips(generation="v5e", on_bus=4, device_files=4)
    monkeypatch.setattr(hosts, "find_chips", lambda: chips)


def slice_of(number):
    return {"TPU_WORKER_ID": str(number), "TPU_WORKER_HOSTNAMES": "a,b,c"}


def test_the_first_host_trains_and_all_serve(on_a_host):
    addresses = ("a:8470", "b:8470", "c:8470")
    for number in range(3):
        place = find_place("my-tpu", slice_of(number), metadata=NOBODY)
        assert place == TpuPlace(addresses=addresses, serves=number, trains=number == 0)
        assert place.target == "grpc://a:8470,grpc://b:8470,grpc://c:8470"


def test_a_tpu_of_one_host_is_local_by_whatever_name(on_a_host):
    for tpu in ("local", "my-tpu"):
        assert find_place(tpu, {}, metadata=NOBODY) == TpuPlace()
    assert TpuPlace().target == "local"


def test_local_is_refused_where_chips_work_together_only(on_a_host):
    with pytest.raises(UsageError, match="--tpu=local: this is host 1 of a slice of 3"):
        find_place("local", slice_of(1), metadata=NOBODY)


def test_a_machine_without_chips_needs_addresses():
    with pytest.raises(UsageError, match="--tpu=my-tpu: this machine is no host of a TPU; .*grpc://"):
        find_place("my-tpu", {}, metadata=NOBODY)
    for tpu in ("grpc://a:8470,b:8471", "grpc://a:8470, grpc://b:8471"):
        place = find_place(tpu, {}, metadata=NOBODY)
        assert place == TpuPlace(addresses=("a:8470", "b:8471"))
        assert place.target == "grpc://a:8470,grpc://b:8471"


@pytest.mark.parametrize("tpu", ["grpc://a", "grpc://a:8470,", "grpc://a:x", "grpc://:8470", "grpc://a:70000"])
def test_what_is_no_address_is_refused(tpu):
    with pytest.raises(UsageError, match=r"--tpu=.*is not host:port; write grpc://host:port"):
        find_place(tpu, {}, metadata=NOBODY)


def test_an_address_that_comes_twice_is_refused():
    with pytest.raises(UsageError, match="an address comes twice"):
        find_place("grpc://a:8470,a:8470", {}, metadata=NOBODY)


def test_what_lies_on_a_disk_is_refused_for_servers():
    refuse_own_disks({"data": "gs://bucket/data", "workdir": "gs://bucket/run"})
    for place in ("data", "/data", "s3://bucket/data"):
        with pytest.raises(UsageError, match=f"--data={place}: every host of the TPU reads and writes there"):
            refuse_own_disks({"workdir": "gs://bucket/run", "data": place})


def test_tensorflow_finds_the_hosts_behind_what_it_is_given():
    """Without Google's API client, which the [tpu] extra does not have, and without a network."""
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="grpc://a:8470,grpc://b:8471")
    assert resolver.cluster_spec().as_dict() == {server.JOB: ["a:8470", "b:8471"]}
    assert resolver.master() == "grpc://a:8470"
