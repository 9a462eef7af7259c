"""Measures trainer.serve and servers that others would write, in turn, with the same photos and the same clients.

    python -m benchmarks.serve --export=RUN/export --photos=FOLDER
    python -m benchmarks.serve --export=RUN/export --photos=FOLDER --litserve=VENV/bin/python

Clients are one process that keeps connections and sends the next photo when it has an answer. A server is started anew
in every round; ready is when it has answered its first photo. Memory is that of all its processes after the load: RSS
counts what they share once each, PSS once in all.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import glob
import http.client
import multiprocessing
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

from absl import flags

from benchmarks.process_tree import process_tree
from pipeline.command import UsageError, run_command

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "export", None, "The export that is served; with model_int8.tflite, that is served, too.", required=True
)
flags.DEFINE_string("photos", None, "A folder of JPEGs.", required=True)
flags.DEFINE_string(
    "litserve", "", "An interpreter that has LitServe and TensorFlow; without it, LitServe is left out."
)
flags.DEFINE_float("seconds", 10.0, "Of load, for each number of clients.")
flags.DEFINE_integer("rounds", 3, "How often all of them are measured.")
flags.DEFINE_list("clients", ["1", "32"], "Numbers of clients.")
flags.DEFINE_list("only", [], "Names of servers; all by default.")
_PHOTOS = 100
_START_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Server:
    """Says how a server is started, on the port that stands for {port}, and whether it wants a form."""

    name: str
    command: Sequence[str]
    form: bool = False


@dataclasses.dataclass(frozen=True)
class Load:
    """Holds the seconds of each answer, and those of all together."""

    latencies: Sequence[float]
    seconds: float

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def servers() -> list[Server]:
    """Lists what is measured."""
    starlette, litserve = (str(pathlib.Path(__file__).with_name(f"serve_{of}.py")) for of in ("starlette", "litserve"))
    model, int8 = (os.path.join(FLAGS.export, name) for name in ("model.tflite", "model_int8.tflite"))
    ours = [sys.executable, "-m", "trainer.serve", "--port={port}", "--model"]
    found = [Server("ours", [*ours, model])]
    if os.path.exists(int8):
        found.append(Server("ours, int8", [*ours, int8]))
    found.append(Server("starlette+tf", [sys.executable, starlette, FLAGS.export, "{port}"]))
    if FLAGS.litserve:
        found.append(Server("litserve+tf", [FLAGS.litserve, litserve, FLAGS.export, "{port}"], form=True))
    return [one for one in found if not FLAGS.only or one.name in FLAGS.only]


def request(photo: bytes, *, form: bool) -> bytes:
    """Returns the bytes of a request about a photo."""
    kind, body = "image/jpeg", photo
    if form:
        head = b'--b\r\nContent-Disposition: form-data; name="content"; filename="a.jpg"\r\n\r\n'
        kind, body = "multipart/form-data; boundary=b", head + photo + b"\r\n--b--\r\n"
    head_lines = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head_lines.encode() + body


async def _client(port: int, requests: Sequence[bytes], first: int, until: float, latencies: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    at = first
    while time.perf_counter() < until:
        start = time.perf_counter()
        writer.write(requests[at % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        latencies.append(time.perf_counter() - start)
        at += 1
    writer.close()


def load(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Has so many clients ask for so long."""

    async def ask() -> Load:
        start, latencies = time.perf_counter(), []
        until = start + seconds
        await asyncio.gather(*(_client(port, requests, 7 * one, until, latencies) for one in range(clients)))
        return Load(latencies, time.perf_counter() - start)

    return asyncio.run(ask())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextlib.contextmanager
def running(server: Server, first: bytes) -> Iterator[tuple[int, int, float]]:
    """Runs a server; yields its process id, its port and the seconds until it had answered."""
    port = _free_port()
    command = [word.replace("{port}", str(port)) for word in server.command]
    with tempfile.TemporaryFile("w+") as printed:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while not _answers(port, first):
                if process.poll() is not None or time.perf_counter() - start > _START_SECONDS:
                    printed.seek(0)
                    raise RuntimeError(f"{server.name} does not answer:\n{printed.read()[-3000:]}")
                time.sleep(0.01)
            yield process.pid, port, time.perf_counter() - start
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _answers(port: int, first: bytes) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(first)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status == 200
    return False


def memory(pid: int) -> tuple[int, int]:
    """Returns RSS and PSS of a process and its descendants, in bytes."""
    totals = {"Rss:": 0, "Pss:": 0}
    for one in process_tree(pid):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                key, *rest = line.split()
                if key in totals:
                    totals[key] += int(rest[0]) << 10
    return totals["Rss:"], totals["Pss:"]


def measure(server: Server, photos: Sequence[bytes], pool: concurrent.futures.Executor) -> Mapping[str, float]:
    """Measures a server once; returns figures by their name."""
    requests = [request(photo, form=server.form) for photo in photos]
    with running(server, requests[0]) as (pid, port, ready):
        figures = {"ready s": ready}
        pool.submit(load, port, requests, 8, 2.0).result()
        for clients in map(int, FLAGS.clients):
            found = pool.submit(load, port, requests, clients, FLAGS.seconds).result()
            figures[f"{clients} clients: requests/s"] = found.rate
            figures[f"{clients} clients: p50 ms"] = 1e3 * found.quantile(0.5)
            figures[f"{clients} clients: p99 ms"] = 1e3 * found.quantile(0.99)
        rss, pss = memory(pid)
        return {**figures, "RSS MB": rss / 1e6, "PSS MB": pss / 1e6}


def main(arguments: list[str]) -> None:
    del arguments
    files = sorted(glob.glob(os.path.join(FLAGS.photos, "*.jp*g")))[:_PHOTOS]
    if not files:
        raise UsageError(f"--photos={FLAGS.photos}: no JPEGs there")
    photos = [pathlib.Path(file).read_bytes() for file in files]
    rounds: dict[str, list[Mapping[str, float]]] = {}
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number in range(FLAGS.rounds):
            for server in servers():
                figures = measure(server, photos, pool)
                rounds.setdefault(server.name, []).append(figures)
                told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                print(f"round {number + 1}, {server.name}: {told}", flush=True)
    print(f"\nmedians of {FLAGS.rounds} rounds, {len(photos)} photos, {FLAGS.seconds:g} s each:")
    for name, found in rounds.items():
        medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in medians.items()))


if __name__ == "__main__":
    run_command(main)
