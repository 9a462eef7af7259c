"""Tests the downloads of a build: once each, within every host's limit, on any engine, killed bundles or not."""

import dataclasses
import json
import pathlib
import threading
import time

import pyarrow.parquet
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_jobs import build, downloaded
from beam_jobs.corrections import read_corrections
from beam_jobs.download.policy import DownloadPolicy, FetchPolicy
from beam_jobs.download.store import DownloadStore
from beam_jobs.elements import Item, Reject
from beam_jobs.sources import open_source
from pipeline.command import CommandError
from tests.beam_jobs.image_folders import config, files_of
from tests.beam_jobs.misbehaving_server import running_server
from tests.beam_jobs.test_remote_build import jpeg, write_table

FETCH = FetchPolicy(allowed_networks=("127.0.0.1/32",), attempt_seconds=5, max_bytes=1 << 20)
POLICY = DownloadPolicy(fetch=FETCH, attempts=2, backoff_seconds=0.01, total_seconds=10)


@pytest.fixture
def server():
    with running_server() as running:
        running.files = {
            f"{label}/{i}.jpg": jpeg(i + 1000 * ord(label[0])) for label in ("cat", "dog") for i in range(30)
        }
        yield running


def source_of(tmp_path, server, *more):
    table = write_table(tmp_path / "t.csv", server, *more)
    return open_source("csv", input_path=str(table), options={"download_dir": str(tmp_path / "downloads")})


def settings(tmp_path, source, **changes):
    values = {"source_name": "csv", "download": POLICY, "max_reject_fraction": 0.5}
    return config(tmp_path / "out", **values | changes)


@pytest.mark.parametrize(
    "engine",
    ["in_memory", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bundle_repeat", "multi_processing"))],
)
def test_every_url_is_asked_for_once(server, tmp_path, engine):
    source = source_of(tmp_path, server, f"{server.url}/status/404,cat")
    runner = FnApiRunner(bundle_repeat=1) if engine == "bundle_repeat" else None
    arguments = ["--direct_num_workers=2"] if engine == "multi_processing" else []
    outcome = build.build(source, settings(tmp_path, source), arguments, runner=runner)
    assert outcome.rejects == {"http_status": 1}
    assert all(server.hits(f"/file/{name}") == 1 for name in server.files)
    assert server.hits("/status/404") == 1
    (tmp_path / "again").mkdir()
    again = source_of(tmp_path / "again", server, f"{server.url}/status/404,cat")
    fresh = build.build(
        again, config(tmp_path / "again/out", source_name="csv", download=POLICY, max_reject_fraction=0.5)
    )
    assert files_of(fresh.directory) == files_of(outcome.directory)


@pytest.mark.slow
def test_what_a_person_leaves_out_is_not_asked_for(server, tmp_path):
    source = source_of(tmp_path, server)
    out = f"{server.url}/file/cat/3.jpg"
    (tmp_path / "exclude.csv").write_text(f"uri\n{out}\n")
    corrections = read_corrections(str(tmp_path / "exclude.csv"), None)
    outcome = build.build(source, settings(tmp_path, source, corrections=corrections))
    assert outcome.rejects == {"excluded": 1}
    assert server.hits("/file/cat/3.jpg") == 0
    assert build.build(source, settings(tmp_path, source)).rejects == {}
    assert server.hits("/file/cat/3.jpg") == 1


@pytest.mark.slow
def test_what_failed_is_asked_for_again_when_told_so(server, tmp_path):
    source = source_of(tmp_path, server, f"{server.url}/file/cat/late.jpg,cat")
    assert build.build(source, settings(tmp_path, source)).rejects == {"http_status": 1}
    server.files["cat/late.jpg"] = jpeg(4_711)
    asked = len(server.requests)
    assert not build.build(source, settings(tmp_path, source)).built
    assert len(server.requests) == asked
    outcome = build.build(source, settings(tmp_path, source, download=dataclasses.replace(POLICY, retry_failed=True)))
    assert (outcome.version, dict(outcome.rejects)) == ("2.0.0", {})
    assert len(server.requests) == asked + 2  # robots.txt and the image


def test_a_host_is_asked_for_no_more_at_a_time_than_its_limit(server, tmp_path):
    """Over two worker processes, which know nothing of each other."""
    slow = [f"{server.url}/slow/{i},cat" for i in range(40)]
    source = source_of(tmp_path, server, *slow)
    policy = dataclasses.replace(POLICY, fetch=dataclasses.replace(FETCH, per_host=3))
    with pytest.raises(CommandError, match="duplicate|refused|distinct"):  # they all lead to the same picture
        build.build(
            source, settings(tmp_path, source, download=policy, max_reject_fraction=0.0), ["--direct_num_workers=2"]
        )
    assert 1 < server.most_active <= 3


def fetch(items, store, policy):
    """Runs the downloading step on one bundle; returns its items and rejects."""
    step = downloaded.FetchAll(store, settings_of(items, store, policy))
    step.setup()
    return bundle(step, items, policy)


def bundle(step, items, policy):
    step.start_bundle()
    for item in items:
        key, value = downloaded.by_host(item, policy.fetch.per_host)
        assert not list(step.process((key, [value])))
    outputs = [windowed.value if hasattr(windowed, "tag") else windowed for windowed in step.finish_bundle()]
    found = [getattr(output, "value", output) for output in outputs]
    return [one for one in found if isinstance(one, Item)], [one for one in found if isinstance(one, Reject)]


def settings_of(items, store, policy):
    build_config = config("unused", download=policy)

    @dataclasses.dataclass
    class Known:
        build: object = build_config
        run: str = "run"

    return Known()


def test_a_host_that_was_dead_in_one_bundle_is_dead_in_the_next(server, tmp_path):
    """Each share of a host may come as a bundle of its own, and to find out takes minutes."""
    policy = dataclasses.replace(POLICY, max_wait_seconds=0.1)
    store = DownloadStore(str(tmp_path))
    step = downloaded.FetchAll(store, settings_of([], store, policy))
    step.setup()
    asked, given_up = [], 0
    for share in range(4):
        items = [Item(uri=f"{server.url}/unavailable/{share}/{i}", label="cat") for i in range(2500)]
        fetched, refused = bundle(step, items, policy)
        assert (len(fetched), len(refused)) == (0, 2500)
        given_up += sum("given up" in reject.detail for reject in refused)
        asked.append(len(server.requests))
    assert asked[0] == asked[3] < 40  # robots.txt and the first few
    assert given_up > 9_980
    fetched, _ = bundle(step, [Item(uri=f"http://localhost:{server.server_port}/unique/1", label="cat")], policy)
    assert len(fetched) == 1


def test_what_a_server_says_is_fit_to_be_written(server, tmp_path):
    odd = [f"{server.url}/odd_words/{what}" for what in ("status", "redirect")]
    odd += [
        "http://[::1",
        "http://127.0.0.1:99999/x",
        "http://\u2100.example/\u00ad",
        "http:///",
        "https://" + "a" * 70_000,
    ]
    source = source_of(tmp_path, server, *(f'"{url}",cat' for url in odd))
    outcome = build.build(source, settings(tmp_path, source))
    assert outcome.rejects == {"http_status": 1, "too_many_redirects": 1, "bad_url": 5}
    rejects = (pathlib.Path(outcome.directory) / "rejects.jsonl").read_text("utf-8").splitlines()
    assert all(json.loads(line)["detail"].isprintable() for line in rejects)
    assert len(pyarrow.parquet.read_table(next(pathlib.Path(outcome.directory).glob("rows-*.parquet")))) > 0


def test_one_bundle_uses_all_of_a_hosts_limit(server, tmp_path):
    items = [Item(uri=f"{server.url}/slow/{i}", label="cat") for i in range(24)]
    policy = dataclasses.replace(POLICY, fetch=dataclasses.replace(FETCH, per_host=3))
    fetched, refused = fetch(items, DownloadStore(str(tmp_path)), policy)
    assert (len(fetched), len(refused)) == (24, 0)
    assert server.most_active == 3


def test_a_bundle_that_comes_again_fetches_nothing_and_says_the_same(server, tmp_path):
    items = [Item(uri=f"{server.url}/unique/{i}", label="cat") for i in range(10)]
    items.append(Item(uri=f"{server.url}/status/404", label="cat"))
    store = DownloadStore(str(tmp_path))
    first = fetch(items, store, POLICY)
    asked = len(server.requests)
    again = fetch(items, store, dataclasses.replace(POLICY, retry_failed=True))
    assert len(server.requests) == asked
    order = lambda found: sorted(found, key=lambda one: getattr(one, "uri", ""))  # noqa: E731
    assert (order(again[0]), again[1]) == (order(first[0]), first[1])
    assert all(item.stamp.startswith("sha256:") for item in first[0])
    assert [reject.item.stamp for reject in first[1]] == ["failed:http_status"]


@pytest.mark.slow
def test_what_came_is_noted_although_another_url_keeps_the_bundle_waiting(server, tmp_path):
    items = [Item(uri=f"{server.url}/unique/{i}", label="cat") for i in range(5)]
    items.append(Item(uri=f"{server.url}/drip_body", label="cat"))
    store = DownloadStore(str(tmp_path))
    waiting = threading.Thread(target=fetch, args=(items, store, dataclasses.replace(POLICY, attempts=1)), daemon=True)
    waiting.start()
    while sum(len(store.read_note(path)) for path in store.notes()) < 5:
        assert waiting.is_alive()
        time.sleep(0.05)
    waiting.join()
    assert sum(len(store.read_note(path)) for path in store.notes()) == 6
