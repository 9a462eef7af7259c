import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import types

import pytest

from pipeline.command import ExitCode
from trainer.devices.chips import Chips, find_chips
from trainer.doctor import checks, diagnosis
from trainer.doctor.checks import Finding, Status

SETUP = pathlib.Path(diagnosis.__file__).parents[2] / "setup.py"
NO_CHIPS = Chips(generation=None, on_bus=0, device_files=0)


def test_the_known_good_ranges_are_those_of_setup_py():
    text = SETUP.read_text()
    tensorflow, ((lowest, below),) = next(iter(checks.LIBTPU_RANGES)), checks.LIBTPU_RANGES.values()
    assert f'"tensorflow-tpu=={checks._dotted(tensorflow)}.' in text
    assert f'"libtpu>={checks._dotted(lowest)},<{checks._dotted(below)}"' in text
    lowest, below = (checks._dotted(v) for v in checks.TENSORFLOW_RANGE)
    assert f'TENSORFLOW_RANGE = ">={lowest},<{below}"' in text


def test_distributions_are_known_by_their_normalised_names(tmp_path):
    for name, version in (("tensorflow_tpu", "2.20.0"), ("Keras", "3.15.1")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    found = checks.installed_versions(importlib.metadata.distributions(path=[str(tmp_path)]))
    assert found == {"tensorflow-tpu": "2.20.0", "keras": "3.15.1"}


@pytest.mark.parametrize(
    ("installed", "status", "expected"),
    [
        ({}, Status.ERROR, "not installed"),
        ({"tensorflow": "2.21.0"}, Status.OK, "tensorflow 2.21.0"),
        ({"tensorflow-cpu": "2.21.0"}, Status.OK, "tensorflow-cpu 2.21.0"),
        ({"tensorflow-tpu": "2.20.0", "tf-keras": "2.21.0"}, Status.OK, "tensorflow-tpu 2.20.0"),
        ({"tensorflow": "2.15.1"}, Status.ERROR, "2.19 or later and below 2.22"),
        ({"tensorflow": "2.22.0"}, Status.ERROR, "2.19 or later and below 2.22"),
        ({"tensorflow": "2.21.0", "tensorflow-tpu": "2.20.0"}, Status.ERROR, "overwritten each other"),
    ],
)
def test_wheels(installed, status, expected):
    finding = checks.check_wheels(installed)
    assert finding.status is status
    assert expected in finding.text


def test_two_wheels_are_both_named_in_the_fix():
    finding = checks.check_wheels({"tensorflow": "2.21.0", "tensorflow-tpu": "2.20.0"})
    assert "pip uninstall -y tensorflow tensorflow-tpu" in finding.fix


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("0.0.13", Status.ERROR),
        ("0.0.14", Status.OK),
        ("0.0.31", Status.OK),
        ("0.0.32", Status.ERROR),
        ("0.0.32.1", Status.ERROR),
        ("0.0.52", Status.ERROR),
        (None, Status.ERROR),
    ],
)
def test_libtpu(version, status):
    installed = {"tensorflow-tpu": "2.20.0"} | ({"libtpu": version} if version else {})
    finding = checks.check_libtpu(installed, {})
    assert finding.status is status
    assert status is Status.OK or "libtpu>=0.0.14,<0.0.32" in finding.fix


def test_libtpu_of_an_unknown_tensorflow_or_a_replaced_library_is_a_warning():
    installed = {"tensorflow-tpu": "2.23.0", "libtpu": "0.0.60"}
    assert checks.check_libtpu(installed, {}).status is Status.WARNING
    installed = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.20"}
    assert checks.check_libtpu(installed, {"TPU_LIBRARY_PATH": "/x.so"}).status is Status.WARNING


def test_libtpu_beside_plain_tensorflow_is_nobodys_business():
    assert checks.check_libtpu({"tensorflow": "2.21.0", "libtpu": "0.0.52"}, {}) is None


def pci_device(root, *, name, vendor, device):
    folder = root / "sys/bus/pci/devices" / name
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "device").write_text(device + "\n")


def test_chips_are_counted_and_other_google_devices_are_not(tmp_path):
    assert find_chips(tmp_path) == NO_CHIPS
    pci_device(tmp_path, name="0000:00:04.0", vendor="0x1ae0", device="0x0042")  # gVNIC, the network card
    (tmp_path / "dev/vfio").mkdir(parents=True)
    for name in ("vfio", "0"):
        (tmp_path / "dev/vfio" / name).touch()
    assert find_chips(tmp_path) == NO_CHIPS
    for index in range(4):
        pci_device(tmp_path, name=f"0000:00:0{5 + index}.0", vendor="0x1ae0", device="0x0063")
    assert find_chips(tmp_path) == Chips(generation="v5e", on_bus=4, device_files=1)


@pytest.mark.parametrize(
    ("chips", "wheel", "environment", "status"),
    [
        (NO_CHIPS, "tensorflow", {}, Status.NOTE),
        (NO_CHIPS, "tensorflow-tpu", {}, Status.WARNING),
        (NO_CHIPS, "tensorflow-tpu", {"TPU_SKIP_MDS_QUERY": "1"}, Status.NOTE),
        (Chips(generation="v4", on_bus=4, device_files=0), "tensorflow-tpu", {}, Status.WARNING),
        (Chips(generation="v4", on_bus=4, device_files=4), "tensorflow-tpu", {}, Status.OK),
        (Chips(generation="v4", on_bus=4, device_files=4), "tensorflow", {}, Status.ERROR),
        (Chips(generation="v7x", on_bus=4, device_files=4), "tensorflow-tpu", {}, Status.ERROR),
    ],
)
def test_chips_and_wheel_must_fit(chips, wheel, environment, status):
    assert checks.check_chips(chips, {wheel: "2.20.0"}, environment).status is status


HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def test_a_lock_that_a_process_holds_names_it_and_one_left_behind_does_not_alarm(tmp_path):
    file = tmp_path / "lock"
    assert checks.check_lock(file) is None
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        finding = checks.check_lock(file)
        assert finding.status is Status.WARNING
        assert f"process {holder.pid} (" in finding.text
        assert f"kill {holder.pid}" in finding.fix
    finally:
        holder.kill()
        holder.communicate()
    assert checks.check_lock(file).status is Status.NOTE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_lock_file_of_another_user_is_an_error():
    code = "import os, sys, pathlib; from trainer.doctor import checks as m; os.setuid(65534); " + (
        "print(m.check_lock(pathlib.Path(sys.argv[1])).status.value)"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        os.chmod(folder, 0o755)
        file = pathlib.Path(folder) / "lock"
        file.touch(mode=0o600)
        command = [sys.executable, "-c", code, file]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "ERROR\n", done.stderr


def test_disk_is_that_of_the_first_folder_that_exists(tmp_path, monkeypatch):
    assert str(tmp_path) in checks.check_disk(tmp_path / "a" / "b").text
    for free, status in ((1 << 29, Status.ERROR), (5 << 30, Status.WARNING), (11 << 30, Status.OK)):
        usage = types.SimpleNamespace(free=free)
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert checks.check_disk(tmp_path).status is status


def test_memory_is_the_containers_where_that_is_less(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable: 16777216 kB\n")
    assert "16.0 of the machine's 32.0 GiB free" in checks.check_memory(proc=tmp_path, cgroup=tmp_path).text
    (tmp_path / "memory.max").write_text(f"{4 << 30}\n")
    (tmp_path / "memory.current").write_text(f"{1 << 30}\n")
    finding = checks.check_memory(proc=tmp_path, cgroup=tmp_path)
    assert "3.0 of the container's 4.0 GiB free" in finding.text
    assert finding.status is Status.WARNING
    (tmp_path / "memory.max").write_text("max\n")
    assert checks.check_memory(proc=tmp_path, cgroup=tmp_path).status is Status.OK


def test_credentials_are_found_where_tensorflow_looks(tmp_path):
    home, nothing = {"HOME": str(tmp_path)}, tmp_path / "no_product"
    check = checks.check_credentials
    assert check(home, needed=False, product=nothing).status is Status.NOTE
    assert check(home, needed=True, product=nothing).status is Status.ERROR
    gcloud = tmp_path / ".config/gcloud/application_default_credentials.json"
    gcloud.parent.mkdir(parents=True)
    gcloud.write_text('{"type": "authorized_user"}')
    assert "authorized_user from gcloud" in check(home, needed=True, product=nothing).text
    key = tmp_path / "key.json"
    environment = home | {"GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    for content in (None, "no json", "[]", "{}"):
        if content:
            key.write_text(content)
        assert check(environment, needed=False, product=nothing).status is Status.ERROR
    key.write_text('{"type": "service_account"}')
    assert check(environment, needed=True, product=nothing).status is Status.OK


def test_a_workdir_is_written_to_and_left_clean(tmp_path):
    assert diagnosis.check_write(str(tmp_path / "runs")).status is Status.OK
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "file").touch()
    finding = diagnosis.check_write(str(tmp_path / "file" / "runs"))
    assert finding.status is Status.ERROR
    assert "NotADirectory" in finding.text


def fake_tensorflow(folder, code):
    """Writes a `tensorflow`, found before the real one, that ends as that does with a wrong libtpu, or hangs."""
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow/__init__.py").write_text(textwrap.dedent(code))


ABORTS = """
    import os, sys
    sys.stderr.write("2026-01-01 10:00:00.1: F external/tpu_library_init_fns.inc:12] DoWork not available.\\n")
    sys.stderr.write("chatter that comes later\\n")
    os.abort()
"""


def test_an_import_that_aborts_is_reported_with_its_reason(tmp_path, monkeypatch):
    fake_tensorflow(tmp_path, ABORTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    (finding,) = diagnosis.probe(NO_CHIPS, use_tpu=False)
    assert "import tensorflow was killed by signal 6" in finding.text
    assert "DoWork not available" in finding.text
    assert finding.exit_code == ExitCode.INTERNAL


@pytest.mark.slow
def test_an_import_that_hangs_is_given_up(tmp_path, monkeypatch):
    fake_tensorflow(tmp_path, "import sys, time; print('asking', file=sys.stderr, flush=True); time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(diagnosis, "_PROBE_SECONDS", 6)
    (finding,) = diagnosis.probe(NO_CHIPS, use_tpu=False)
    assert "gave no result in 6 s: asking" in finding.text


def test_what_the_probe_saw_is_judged():
    facts = {"version": "2.21.0", "keras_backend": "tensorflow", "tpu_kernels": False, "devices": ["CPU"]}
    assert [f.status for f in diagnosis.judge_facts(facts, nvidia=False)] == [Status.OK]
    assert [f.subject for f in diagnosis.judge_facts(facts, nvidia=True)] == ["devices", "GPU"]
    assert [f.subject for f in diagnosis.judge_facts(facts | {"keras_backend": "jax"}, nvidia=False)] == [
        "devices",
        "Keras",
    ]
    step = {"strategy": "1 replica on CPU", "first": 0.3, "second": 0.002, "loss": 0.7, "moved": True}
    assert diagnosis.judge_step(step).status is Status.OK
    assert diagnosis.judge_step(step | {"moved": False}).status is Status.ERROR
    assert diagnosis.judge_step(step | {"loss": json.loads("NaN")}).status is Status.ERROR


def finding(status, code=ExitCode.USAGE):
    return Finding(status=status, subject="x", text="x", fix="y", exit_code=code)


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([finding(Status.OK), finding(Status.WARNING)], ExitCode.DONE),
        ([finding(Status.ERROR)], ExitCode.USAGE),
        ([finding(Status.ERROR, ExitCode.INTERNAL)], ExitCode.INTERNAL),
        ([finding(Status.ERROR, ExitCode.INTERNAL), finding(Status.ERROR)], ExitCode.USAGE),
    ],
)
def test_the_exit_code_tells(findings, code):
    assert diagnosis.summarize(findings)[1] == code


def test_a_problem_without_a_fix_cannot_be_reported():
    with pytest.raises(ValueError, match="needs a fix"):
        Finding(status=Status.ERROR, subject="x", text="x")


@pytest.mark.slow
def test_the_command_on_this_machine(tmp_path):
    command = [sys.executable, "-m", "trainer.doctor", f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert any(line.split()[:3] == ["ok", "training", "step"] for line in lines)
    assert lines[-2].startswith("ready: trains with ")
    assert lines[-1].startswith("next, build a dataset: ")
    assert done.stderr == ""
