"""Tests that a damaged version never counts: whoever runs the command again gets a sound one, as the messages say."""

import hashlib
import json

import pytest

from tests.beam_jobs.image_folders import make_folder, run_build, run_command


def shards(version):
    return sorted(version.glob("*.tfrecord-*"))


def flip(version):
    path = shards(version)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


DAMAGE = {
    "shard gone": lambda version: shards(version)[0].unlink(),
    "shard cut": lambda version: cut(shards(version)[0]),
    "manifest gone": lambda version: (version / "manifest.json").unlink(),
    "manifest cut": lambda version: cut(version / "manifest.json"),
    "manifest empty": lambda version: (version / "manifest.json").write_bytes(b""),
}


def is_sound(version):
    listed = json.loads((version / "manifest.json").read_text())["splits"]
    return {shard["name"]: shard["sha256"] for several in listed.values() for shard in several} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards(version)
    }


@pytest.mark.parametrize(
    "damage",
    [name if name == "manifest gone" else pytest.param(name, marks=pytest.mark.slow) for name in DAMAGE],
)
def test_the_same_build_ends_with_a_sound_version(tmp_path, damage):
    make_folder(tmp_path / "in", images=15)
    data = tmp_path / "data"
    run_build(tmp_path / "in", data)
    before = {path.name: path.read_bytes() for path in shards(data / "versions/1.0.0")}
    DAMAGE[damage](data / "versions/1.0.0")
    assert run_build(tmp_path / "in", data).built
    version = data / "versions" / (data / "CURRENT").read_text().strip()
    assert is_sound(version)
    assert {path.name: path.read_bytes() for path in shards(version)} == before
    assert not run_build(tmp_path / "in", data).built


@pytest.mark.slow
def test_repair_finds_what_only_reading_shows_and_leaves_a_sound_version_alone(tmp_path):
    make_folder(tmp_path / "in", images=15)
    data = tmp_path / "data"
    assert run_command(tmp_path / "in", data, "--repair").returncode == 0  # nothing there yet
    sound = run_command(tmp_path / "in", data, "--repair")
    assert "nothing to do" in sound.stdout
    assert sound.stderr == ""
    flip(data / "versions/1.0.0")
    repaired = run_command(tmp_path / "in", data, "--repair")
    name = shards(data / "versions/1.0.0")[0].name
    assert f"{name}: its sha256 is not the manifest's; it is built anew" in repaired.stderr
    assert is_sound(data / "versions" / (data / "CURRENT").read_text().strip())
