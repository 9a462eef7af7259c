import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from beam_jobs import publish
from pipeline.command import TryAgainError
from pipeline.format.manifest import Manifest, Shard, current_version

_HOLDER = """
import sys, time
from beam_jobs import publish
with publish.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def put_version(root: pathlib.Path, version: str, fingerprint: str = "f") -> None:
    """Publishes, the usual way, a version directory with nothing in it but its manifest."""
    staging = root / publish.WORK_DIR / "staging"
    staging.mkdir(parents=True)
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
    (staging / "manifest.json").write_text(manifest.to_json())
    publish.publish(str(root), str(staging), version)


def test_the_lock_is_held_while_its_process_lives_and_not_longer(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TryAgainError, match=f"process {holder.pid} is building"), publish.locked(str(tmp_path)):
            pass
    finally:
        holder.kill()
        holder.wait()
    with publish.locked(str(tmp_path)):
        assert (tmp_path / ".build/lock").read_text() == f"process {os.getpid()}"


def test_versions_count_up_and_the_pointer_follows(tmp_path):
    assert publish.next_version(str(tmp_path)) == "1.0.0"
    for number in range(1, 12):
        version = publish.next_version(str(tmp_path))
        assert version == f"{number}.0.0"
        put_version(tmp_path, version)
        assert current_version(tmp_path) == version
    assert publish.versions(str(tmp_path)) == [f"{number}.0.0" for number in range(1, 12)]  # 10 after 9


def test_a_directory_without_manifest_is_no_version(tmp_path):
    put_version(tmp_path, "1.0.0")
    (tmp_path / "versions/2.0.0").mkdir()
    assert publish.versions(str(tmp_path)) == ["1.0.0"]


def test_pruning_keeps_the_newest_and_the_current_one(tmp_path):
    for number in range(1, 6):
        put_version(tmp_path, f"{number}.0.0")
    publish.set_current(str(tmp_path), "2.0.0")
    assert publish.prune(str(tmp_path), keep=2) == ["1.0.0", "3.0.0"]
    assert publish.versions(str(tmp_path)) == ["2.0.0", "4.0.0", "5.0.0"]
    assert publish.prune(str(tmp_path), keep=10) == []


def test_a_build_is_found_again_by_input_and_configuration(tmp_path):
    root = str(tmp_path)
    put_version(tmp_path, "1.0.0", "one")
    put_version(tmp_path, "2.0.0", "two")
    assert publish.published_as(root, publish.build_key("one", {"seed": 0})) == "1.0.0"
    assert publish.published_as(root, publish.build_key("two", {"seed": 0})) == "2.0.0"
    assert publish.published_as(root, publish.build_key("two", {"seed": 1})) is None
    publish.remember(root, "touched", "2.0.0")
    assert publish.published_as(root, "touched") == "2.0.0"
    publish.remember(root, "again", "2.0.0")
    publish.set_current(root, "2.0.0")
    publish.prune(root, keep=1)
    publish.remember(root, "more", "2.0.0")
    stored = json.loads((tmp_path / ".build/same_content.json").read_text())
    assert sorted(stored) == ["again", "more", "touched"]


def test_cleaning_spares_what_later_builds_use(tmp_path):
    for name in ("inspected", "downloads", "abandoned", "mine"):
        (tmp_path / ".build" / name).mkdir(parents=True)
    publish.clean(str(tmp_path), keep={"mine"})
    assert {entry.name for entry in (tmp_path / ".build").iterdir()} == {"inspected", "downloads", "mine"}


def test_readers_never_see_a_missing_pointer(tmp_path):
    put_version(tmp_path, "1.0.0")
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nwhile not sys.stdin.closed and True:\n"
            "    text = open(sys.argv[1]).read()\n"
            "    assert text in ('1.0.0\\n', '2.0.0\\n'), text\n",
            str(tmp_path / "CURRENT"),
        ]
    )
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            publish.set_current(str(tmp_path), "2.0.0")
            publish.set_current(str(tmp_path), "1.0.0")
        assert reader.poll() is None, "a reader saw no pointer, or half of one"
    finally:
        reader.kill()
        reader.wait()
