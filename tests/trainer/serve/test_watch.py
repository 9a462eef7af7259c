"""Changes the model of a running server, under load, and gives it models that cannot be served."""

import collections
import contextlib
import json
import os
import pathlib
import shutil
import threading
import time

import pytest

from retrain.registry import Model, publish, set_champion
from tests.trainer.serve.conftest import LABELS
from tests.trainer.serve.servers import Running, serving

IN_CAPITALS = [label.upper() for label in LABELS]


def contents(export: pathlib.Path) -> dict[str, str]:
    return {path.name: str(path) for path in export.iterdir()}


@pytest.fixture
def registry(exports, tmp_path):
    """Holds the models 1 and 2; 1 is the champion."""
    root = tmp_path / "MODELS"
    for name in ("one", "other"):
        publish(str(root), contents(exports / name), {"pass_id": name})
    champion(root, 1)
    return root


def champion(root, number):
    set_champion(str(root), Model(number, str(root / str(number))))


class Clients:
    """Asks about a photo all the time, and notes what is answered."""

    def __init__(self, server: Running, photo: bytes, count: int) -> None:
        self.answers: collections.Counter[tuple[str, bool]] = collections.Counter()
        self.failures: list[object] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server, photo)) for _ in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, server, photo):
        with contextlib.closing(server.connect()) as connection:
            while not self._over.is_set():
                try:
                    connection.request("POST", "/predict", photo, {"content-type": "image/jpeg"})
                    response = connection.getresponse()
                    found = json.loads(response.read())
                    if response.status != 200 or response.headers["x-model-version"] != found["version"]:
                        self.failures.append((response.status, found))
                    else:
                        self.answers[found["version"], found["label"] in IN_CAPITALS] += 1
                except Exception as error:
                    self.failures.append(error)
                    return


def wait_for(server, version, seconds=20.0):
    deadline = time.monotonic() + seconds
    while (found := server.ask("GET", "/healthz")[1]["x-model-version"]) != version:
        assert time.monotonic() < deadline, f"{found} still answers, not {version}: {''.join(server.errors)}"
        time.sleep(0.02)


def resident(server) -> int:
    return int(pathlib.Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("swaps", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_the_champion_changes_and_no_request_is_lost(registry, photos, swaps):
    with serving(f"--model={registry / 'champion'}", "--watch") as server:
        assert server.photo(photos[0])[1]["version"] == "1"
        early = 0
        with Clients(server, photos[0], 4) as clients:
            for swap in range(swaps):
                number = 2 - swap % 2
                champion(registry, number)
                wait_for(server, str(number))
                if swap == swaps // 4:
                    early = resident(server)
        threads = len(list(pathlib.Path(f"/proc/{server.process.pid}/task").iterdir()))
        assert clients.failures == []
        # Every answer is of the model that it names.
        assert set(clients.answers) == {("1", False), ("2", True)}
        assert sum(clients.answers.values()) > 10 * swaps
        assert threads < 40
        assert resident(server) < early * 1.3 + (32 << 20)
        assert f'serve_model_changes_total{{result="changed"}} {swaps}.0' in server.ask("GET", "/metrics")[2].decode()
        assert server.end() == 0


def test_what_cannot_be_served_is_logged_and_the_model_before_goes_on(registry, exports, photos, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(exports / "other", broken)
    (broken / "model.tflite").write_bytes((broken / "model.tflite").read_bytes()[:-5_000])
    publish(str(registry), contents(broken), {"pass_id": "broken"})
    # Whole when it was published, and changed since.
    (registry / "2" / "labels.txt").write_text("A\nB\nC\n")
    with serving(f"--model={registry / 'champion'}", "--watch") as server, Clients(server, photos[0], 2) as clients:
        for count, number in enumerate((3, 2), start=1):
            champion(registry, number)
            deadline = time.monotonic() + 20
            text = f'serve_model_changes_total{{result="refused"}} {count}.0'
            while text not in server.ask("GET", "/metrics")[2].decode():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        time.sleep(1)
        assert server.photo(photos[0])[1]["version"] == "1"
        logged = "".join(server.errors)
        assert logged.count("; 1 goes on") == 2  # once each
        assert "labels.txt is not what was published" in logged
        assert "Traceback" not in logged
        (registry / "2" / "labels.txt").write_bytes((exports / "other" / "labels.txt").read_bytes())
        wait_for(server, "2")  # mended
    assert clients.failures == []


@pytest.mark.slow
def test_an_export_that_is_replaced_in_its_place_is_followed(exports, photos, tmp_path):
    export = tmp_path / "export"
    shutil.copytree(exports / "one", export)
    with serving(f"--model={export}", "--watch") as server:
        assert server.photo(photos[0])[1]["label"] in LABELS
        export.rename(tmp_path / "old")
        time.sleep(0.6)  # there is none for a while
        assert server.photo(photos[0])[0] == 200
        shutil.copytree(exports / "other", export)
        deadline = time.monotonic() + 20
        while server.photo(photos[0])[1]["label"] not in IN_CAPITALS:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.end() == 0
