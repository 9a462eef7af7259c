"""Tests the real command on a table of URLs, served by a real server on loopback."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from beam_jobs import downloaded
from beam_jobs.download.policy import DownloadPolicy
from pipeline.format.manifest import open_dataset
from pipeline.format.records import decode_example, read_frames
from tests.beam_jobs.misbehaving_server import running_server


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((40, 30)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def server():
    with running_server() as running:
        running.files = {
            f"{label}/{i}.jpg": jpeg(i + 100 * ord(label[0])) for label in ("cat", "dog") for i in range(20)
        }
        yield running


def command(table, output, *flags):
    arguments = ["--source=csv", f"--input={table}", f"--output={output}", "--allow_private_addresses", *flags]
    return [sys.executable, "-m", "beam_jobs.build_tfrecords", *arguments]


def build(table, output, *flags):
    return subprocess.run(command(table, output, *flags), capture_output=True, text=True, check=False)


def write_table(path, server, *extra):
    lines = [f"{server.url}/file/{name},{name[:3]}" for name in server.files]
    path.write_text("uri,label\n" + "\n".join([*lines, *extra]) + "\n")
    return path


def records(output):
    data = open_dataset(output)
    for split in data.manifest.splits:
        for path in data.shard_paths(split):
            with open(path, "rb") as file:
                for payload in read_frames(file):
                    record = decode_example(payload)
                    yield record.source, data.manifest.labels[record.label], record.image


def rejects(output):
    lines = (pathlib.Path(open_dataset(output).path) / "rejects.jsonl").read_text().splitlines()
    return {row["uri"].split("/", 3)[3]: row["code"] for row in map(json.loads, lines)}


@pytest.mark.slow
def test_build_from_urls_then_nothing_then_one_more(server, tmp_path):
    server.robots = (200, "User-agent: *\nDisallow: /unique\n")
    bad = ["status/404", "html", "unique/1", "noai/noai"]
    table = write_table(tmp_path / "t.csv", server, *(f"{server.url}/{path},cat" for path in bad))
    done = build(table, tmp_path / "data")
    assert done.returncode == 0, done.stderr
    found = {source.split("/file/")[1]: (label, image) for source, label, image in records(tmp_path / "data")}
    assert found == {name: (name[:3], data) for name, data in server.files.items()}
    assert rejects(tmp_path / "data") == dict(zip(bad, ["http_status", "content_type", "robots", "noai"], strict=True))
    assert all(server.hits(f"/file/{name}") == 1 for name in server.files)

    asked = len(server.requests)
    again = build(table, tmp_path / "data")
    assert "nothing to do" in again.stdout, again
    assert len(server.requests) == asked

    server.files["dog/new.jpg"] = jpeg(7)
    table = write_table(table, server, *(f"{server.url}/{path},cat" for path in bad))
    assert build(table, tmp_path / "data").returncode == 0
    assert len(server.requests) == asked + 2  # robots.txt and the new image
    assert open_dataset(tmp_path / "data").manifest.version == "2.0.0"


@pytest.mark.slow
def test_addresses_are_refused_by_default_and_failures_count(server, tmp_path):
    table = write_table(tmp_path / "t.csv", server)
    flags = [flag for flag in command(table, tmp_path / "data") if flag != "--allow_private_addresses"]
    done = subprocess.run(flags, capture_output=True, text=True, check=False)
    assert done.returncode == 65, done
    assert "private_address" in done.stderr
    assert "Traceback" not in done.stderr
    assert not server.requests
    assert not (tmp_path / "data" / "CURRENT").exists()


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGTERM, 75, "error: terminated; run the same command again to continue\n"),
        pytest.param(
            signal.SIGINT, 130, "interrupted; run the same command again to continue\n", marks=pytest.mark.slow
        ),
    ],
)
def test_a_download_ends_at_once_when_told_to(server, tmp_path, number, code, message):
    """Although the server would hold it up for seconds."""
    table = write_table(tmp_path / "t.csv", server, *(f"{server.url}/drip_body/{i},cat" for i in range(4)))
    process = subprocess.Popen(command(table, tmp_path / "data"), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not any("drip" in path for path, _ in list(server.requests)):
        time.sleep(0.01)
    process.send_signal(number)
    start = time.monotonic()
    _, errors = process.communicate()
    assert time.monotonic() - start < 3
    assert (process.returncode, errors) == (code, message)


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_was(server, tmp_path):
    server.files = {f"{label}/{i}.jpg": jpeg(i + 1000 * ord(label[0])) for label in ("cat", "dog") for i in range(300)}
    table = write_table(tmp_path / "t.csv", server)
    for _ in range(3):
        process = subprocess.Popen(command(table, tmp_path / "data"), start_new_session=True)
        asked = len(server.requests)
        while process.poll() is None and len(server.requests) < asked + 100:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "data" / "CURRENT").exists()
    done = build(table, tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert len(list(records(tmp_path / "data"))) == 600
    twice = sum(server.hits(f"/file/{name}") > 1 for name in server.files)
    # What each kill cost: downloads that were not noted yet, and those under way at the one host.
    assert twice <= 3 * (downloaded._NOTED + DownloadPolicy().fetch.per_host)
    clean = build(table, tmp_path / "clean")
    assert clean.returncode == 0, clean.stderr
    for path in pathlib.Path(open_dataset(tmp_path / "data").path).glob("*.tfrecord*"):
        assert path.read_bytes() == (pathlib.Path(open_dataset(tmp_path / "clean").path) / path.name).read_bytes()
