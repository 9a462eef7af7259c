"""Tests the protocol of the dataset root: numbers, claims, the pointer, what is found again, what is removed."""

import os
import pathlib
import subprocess
import sys
import threading
import time
import uuid

import pytest

from beam_jobs import root
from pipeline.command import UsageError
from pipeline.format.manifest import Manifest, Shard, current_version


def put_version(base: pathlib.Path, version: str, fingerprint: str = "f") -> None:
    """Makes a version with nothing in it but its manifest and an empty shard."""
    manifest = Manifest(
        name="photos",
        version=version,
        labels=("a", "b"),
        splits={"train": (Shard(name="s", examples=0, bytes=0, sha256=""),)},
        source_fingerprint=fingerprint,
        build={"seed": 0},
        code_version="0",
        max_height=1,
        max_width=1,
    )
    directory = base / "versions" / version
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "s").touch()
    (directory / "manifest.json").write_text(manifest.to_json())


def begin(base: pathlib.Path, version: str, *, seconds_ago: float) -> None:
    """Makes a version that a build began and never finished."""
    directory = base / "versions" / version
    directory.mkdir(parents=True)
    (base / ".build/claims").mkdir(parents=True, exist_ok=True)
    (base / ".build/claims" / version).write_text(f"key-of-{version} {time.time() - seconds_ago:.0f}")


def test_versions_count_up_and_the_pointer_follows(tmp_path):
    for number in range(1, 12):
        version = root.claim(str(tmp_path), f"key {number}".replace(" ", "-"))
        assert version == f"{number}.0.0"
        put_version(tmp_path, version)
        assert root.set_current(str(tmp_path), version) == version
        assert current_version(tmp_path) == version
    assert root.versions(str(tmp_path)) == [f"{number}.0.0" for number in range(1, 12)]  # 10 after 9


def test_the_pointer_never_goes_back(tmp_path):
    for version in ("1.0.0", "2.0.0", "10.0.0"):
        put_version(tmp_path, version)
    assert root.set_current(str(tmp_path), "10.0.0") == "10.0.0"
    assert root.set_current(str(tmp_path), "2.0.0") == "10.0.0"
    assert current_version(tmp_path) == "10.0.0"


def test_a_pointer_that_another_build_moved_meanwhile_ends_at_the_newest(tmp_path, monkeypatch):
    put_version(tmp_path, "1.0.0")
    write = root.storage.write_atomically

    def late(path, content, **options):
        """Stands for a build that publishes between this one's reading and writing, and took its lease away."""
        monkeypatch.setattr(root.storage, "write_atomically", write)
        put_version(tmp_path, "2.0.0")
        (tmp_path / "CURRENT").write_text("2.0.0\n")
        write(path, content, **options)

    monkeypatch.setattr(root.storage, "write_atomically", late)
    assert root.set_current(str(tmp_path), "1.0.0") == "2.0.0"
    assert current_version(tmp_path) == "2.0.0"


def test_a_build_that_is_slow_to_write_the_pointer_never_moves_it_back(tmp_path, monkeypatch):
    put_version(tmp_path, "1.0.0")
    put_version(tmp_path, "2.0.0")
    seen: list[str] = []
    newer = threading.Thread(target=root.set_current, args=(str(tmp_path), "2.0.0"))
    write = root.storage.write_atomically

    def slow(path, content, **options):
        if newer.ident is None:
            newer.start()
            time.sleep(0.5)  # it has read by now that there is no pointer
        write(path, content, **options)
        seen.append((tmp_path / "CURRENT").read_text().strip())

    monkeypatch.setattr(root.storage, "write_atomically", slow)
    root.set_current(str(tmp_path), "1.0.0")
    newer.join()
    assert seen == sorted(seen)
    assert current_version(tmp_path) == "2.0.0"


def test_a_file_in_place_of_the_root_is_a_user_mistake(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"--output={tmp_path}/file: is a file, not a directory"):
        root.versions(str(tmp_path / "file"))


def test_a_directory_without_manifest_is_no_version(tmp_path):
    put_version(tmp_path, "1.0.0")
    begin(tmp_path, "2.0.0", seconds_ago=0)
    assert root.versions(str(tmp_path)) == ["1.0.0"]
    assert root.claim(str(tmp_path), "another") == "3.0.0"
    assert root.claim(str(tmp_path), "key-of-2.0.0") == "2.0.0"


def test_pruning_keeps_the_newest_and_the_current_one(tmp_path):
    for number in range(1, 6):
        put_version(tmp_path, f"{number}.0.0")
    (tmp_path / "CURRENT").write_text("2.0.0\n")
    assert root.prune(str(tmp_path), keep=2) == ["1.0.0", "3.0.0"]
    assert root.versions(str(tmp_path)) == ["2.0.0", "4.0.0", "5.0.0"]
    assert root.prune(str(tmp_path), keep=10) == []


def test_only_the_newest_version_is_found_again_by_input_and_configuration(tmp_path):
    base = str(tmp_path)
    put_version(tmp_path, "1.0.0", "one")
    put_version(tmp_path, "2.0.0", "two")
    assert root.published_as(base, root.build_key("one", {"seed": 0})) is None
    assert root.published_as(base, root.build_key("two", {"seed": 0})) == "2.0.0"
    assert root.published_as(base, root.build_key("two", {"seed": 1})) is None
    root.remember(base, "touched", "2.0.0")
    root.remember(base, "reverted", "1.0.0")
    assert root.published_as(base, "touched") == "2.0.0"
    assert root.published_as(base, "reverted") is None


def test_a_number_behind_the_newest_version_is_not_taken_up_again(tmp_path):
    begin(tmp_path, "2.0.0", seconds_ago=60)
    put_version(tmp_path, "3.0.0")
    assert root.claim(str(tmp_path), "key-of-2.0.0") == "4.0.0"
    assert root.claim(str(tmp_path), "key-of-2.0.0") == "4.0.0"


def test_only_what_was_abandoned_long_ago_is_removed(tmp_path):
    put_version(tmp_path, "1.0.0")
    begin(tmp_path, "2.0.0", seconds_ago=8 * 24 * 3600)
    begin(tmp_path, "3.0.0", seconds_ago=3600)
    (tmp_path / "versions/4.0.0").mkdir()  # nobody knows whose, or since when
    root.tidy(str(tmp_path))
    assert sorted(os.listdir(tmp_path / "versions")) == ["1.0.0", "3.0.0", "4.0.0"]


_CLAIMANT = """
import sys, time
from beam_jobs import root
from pipeline.command import UsageError
base, key, at = sys.argv[1:]
while time.time() < float(at):
    pass
print(root.claim(base, key))
"""


@pytest.mark.parametrize("store", ["local", "gcs", pytest.param("s3", marks=pytest.mark.slow)])
def test_of_processes_that_claim_at_once_each_key_gets_one_number(request, tmp_path, store):
    base = str(tmp_path) if store == "local" else f"{request.getfixturevalue(store)}/{uuid.uuid4().hex}"
    at = str(time.time() + (1 if store == "local" else 4))
    keys = ["a", "a", "b", "c"]
    claimants = [
        subprocess.Popen([sys.executable, "-c", _CLAIMANT, base, key, at], stdout=subprocess.PIPE, text=True)
        for key in keys
    ]
    found = [claimant.communicate(timeout=60)[0].strip() for claimant in claimants]
    assert all(claimant.returncode == 0 for claimant in claimants)
    assert found[0] == found[1]
    assert sorted(set(found)) == ["1.0.0", "2.0.0", "3.0.0"]


def test_readers_never_see_a_missing_pointer(tmp_path):
    put_version(tmp_path, "1.0.0")
    root.set_current(str(tmp_path), "1.0.0")
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nwhile True:\n    text = open(sys.argv[1]).read()\n    assert text.endswith('.0.0\\n'), text\n",
            str(tmp_path / "CURRENT"),
        ]
    )
    try:
        end = time.monotonic() + 1.0
        number = 1
        while time.monotonic() < end:
            number += 1
            root.set_current(str(tmp_path), f"{number}.0.0")
            assert reader.poll() is None, "a reader saw no pointer, or half of one"
    finally:
        reader.kill()
        reader.wait()
