"""Tests that what runs models in browsers is fetched once, by the real npm from a registry of our own, and checked."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from typing import ClassVar

import pytest

from pipeline.command import DataError, TryAgainError, UsageError
from trainer.serving.page import runtime as module
from trainer.serving.page.runtime import VERSION, fetch_runtime, read_runtime

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on the PATH")
BUILD = "litert_wasm_compat_internal"


def archive(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def sha512(content):
    return base64.b64encode(hashlib.sha512(content).digest()).decode()


ARCHIVES = {
    "@litertjs/core": archive(
        {
            "package.json": json.dumps({"name": "@litertjs/core", "version": VERSION}).encode(),
            "dist/index.js": b"the module",
            f"wasm/{BUILD}.js": b"the script",
            f"wasm/{BUILD}.wasm": b"the code",
        }
    ),
    "@litertjs/wasm-utils": archive(
        {
            "package.json": json.dumps({"name": "@litertjs/wasm-utils", "version": VERSION}).encode(),
            "dist/index.js": b"the loader",
        }
    ),
}


class Registry(http.server.BaseHTTPRequestHandler):
    """Answers what `npm pack` asks."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        path = self.path.replace("%2f", "/").strip("/")
        self.asked.append(path)
        if path.endswith(".tgz"):
            return self._answer(ARCHIVES[path.removesuffix(".tgz")])
        if path not in ARCHIVES:
            return self.send_error(404)
        place = f"http://127.0.0.1:{self.server.server_address[1]}/{path}.tgz"
        dist = {"tarball": place, "integrity": f"sha512-{sha512(ARCHIVES[path])}"}
        versions = {VERSION: {"name": path, "version": VERSION, "dist": dist}}
        return self._answer(json.dumps({"name": path, "versions": versions, "dist-tags": {"latest": VERSION}}).encode())

    def _answer(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Points npm to a registry of our own; the names of what it was asked for are yielded."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_address[1]}/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setattr(Registry, "asked", [])
    with contextlib.closing(server.socket):
        yield Registry.asked
        server.shutdown()


@pytest.fixture
def pinned(monkeypatch):
    """Pins the archives of our own registry."""
    for name in ("LITERT", "LOADER"):
        package = getattr(module, name)
        own = dataclasses.replace(package, sha512=sha512(ARCHIVES[package.name]))
        monkeypatch.setattr(module, name, own)


@needs_npm
def test_it_is_fetched_once_and_a_damaged_part_again(registry, pinned, tmp_path):
    folder = tmp_path / "runtime"
    assert read_runtime(folder) is None
    assert fetch_runtime(folder) == [f"@litertjs/core@{VERSION}", f"@litertjs/wasm-utils@{VERSION}"]
    found = read_runtime(folder)
    assert (found.litert, found.loader) == (b"the module", b"the loader")
    assert (found.glue, found.wasm) == (b"the script", b"the code")

    asked = len(registry)
    assert fetch_runtime(folder) == []
    assert len(registry) == asked

    file = folder / module.LITERT.file
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert read_runtime(folder) is None
    assert fetch_runtime(folder) == [f"@litertjs/core@{VERSION}"]
    assert read_runtime(folder) == found


@needs_npm
def test_another_archive_than_the_pinned_one_is_refused(registry, tmp_path):
    with pytest.raises(DataError, match=r"@litertjs/core@.*: its archive has sha512 .* nothing is kept of it"):
        fetch_runtime(tmp_path / "runtime")
    assert not (tmp_path / "runtime").exists()


@needs_npm
def test_without_a_network_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    with pytest.raises(TryAgainError, match=r"@litertjs/core@.* cannot be fetched: .*ECONNREFUSED"):
        fetch_runtime(tmp_path / "runtime")


@needs_npm
@pytest.mark.slow
def test_a_registry_that_does_not_have_it_is_named(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LITERT", dataclasses.replace(module.LITERT, name="@litertjs/none"))
    with pytest.raises(UsageError, match=r"@litertjs/none@.*: the npm registry does not have it"):
        fetch_runtime(tmp_path / "runtime")


def test_without_npm_the_command_says_what_to_do(tmp_path):
    environment = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "trainer.serving.page"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 64
    assert "npm is not installed" in done.stderr
    assert f"put {module.LITERT.file} into {tmp_path / 'tpu-retraining' / 'page-runtime' / VERSION}" in done.stderr
    assert "Traceback" not in done.stderr
