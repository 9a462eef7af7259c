"""Checks what can be known without TensorFlow: wheels, libtpu, chips, who holds the TPU, disk, memory, credentials."""

from __future__ import annotations

import dataclasses
import enum
import fcntl
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import struct
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence

from pipeline.command import ExitCode
from trainer.devices.chips import Chips

# Distributions that own the folder `tensorflow`: of two, the one installed last has overwritten parts of the other.
TENSORFLOW_WHEELS = ("tensorflow", "tensorflow-tpu", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly", "tf-nightly-tpu")
TENSORFLOW_RANGE = ((2, 19), (2, 22))  # from, below; what setup.py allows
# tensorflow-tpu's minor version → libtpu from, below. Outside, `import tensorflow` aborts (tried: BUILD_NOTES.md).
LIBTPU_RANGES: dict[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {(2, 20): ((0, 0, 14), (0, 0, 32))}

_TOO_NEW = ("v7x",)  # generations of chips
LOCK_FILE = pathlib.Path("/tmp/libtpu_lockfile")  # libtpu's own, fixed name
_FLOCK = "hhqqi"  # struct flock of Linux on 64 bits: type, whence, start, length, pid
_GIB = 1 << 30
_DISK_ERROR, _DISK_WARNING = 1 * _GIB, 10 * _GIB  # checkpoints and exports of EfficientNetB0 take 0.3 GiB a run
_MEMORY_ERROR, _MEMORY_WARNING = 2 * _GIB, 4 * _GIB  # TensorFlow alone takes 0.6 GiB
_METADATA = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/email"
_METADATA_SECONDS = 3


class Status(enum.Enum):
    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "ERROR"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Describes one finding, a line of the diagnosis.

    Attributes:
      status: an error means that training cannot work.
      subject: what was looked at, a word or two.
      text: what was found.
      fix: what to do about it; warnings and errors have one.
      exit_code: of an error: USAGE where the fix is known to help, else INTERNAL.
    """

    status: Status
    subject: str
    text: str
    fix: str = ""
    exit_code: ExitCode = ExitCode.USAGE

    def __post_init__(self) -> None:
        if self.status in (Status.WARNING, Status.ERROR) and not self.fix:
            raise ValueError(f"{self.subject}: a {self.status.value} needs a fix")


def parse_version(text: str) -> tuple[int, ...]:
    """Reads the leading numbers of a version: `2.20.0rc1` → (2, 20, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def installed_versions(distributions: Iterable[importlib.metadata.Distribution]) -> dict[str, str]:
    """Maps normalised names (PEP 503) to versions: tensorflow-tpu calls itself tensorflow_tpu."""
    return {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in distributions if d.metadata["Name"]}


def check_wheels(installed: Mapping[str, str]) -> Finding:
    """Checks that one TensorFlow is installed, in a version that fits; `installed` maps distributions to versions."""
    found = [f"{name} {installed[name]}" for name in TENSORFLOW_WHEELS if name in installed]
    names = [text.split()[0] for text in found]
    if not found:
        return Finding(
            status=Status.ERROR,
            subject="tensorflow",
            text="not installed",
            fix="pip install '.[cpu]', or '.[gpu]' or '.[tpu]'",
        )
    if len(found) > 1:
        return Finding(
            status=Status.ERROR,
            subject="tensorflow",
            text=f"{' and '.join(found)} share one folder and have overwritten each other's files",
            fix=f"pip uninstall -y {' '.join(names)}, then pip install '.[tpu]' (or '.[cpu]', '.[gpu]'). "
            "tf-keras, tensorflow-text and keras-hub pull in plain tensorflow: leave them out",
        )
    version, (lowest, below) = parse_version(installed[names[0]]), TENSORFLOW_RANGE
    if not lowest <= version < below:
        return Finding(
            status=Status.ERROR,
            subject="tensorflow",
            text=f"{found[0]}, but {_range(lowest, below)} is needed",
            fix="pip install --upgrade '.[cpu]', or '.[gpu]' or '.[tpu]'",
        )
    return Finding(status=Status.OK, subject="tensorflow", text=found[0])


def check_libtpu(installed: Mapping[str, str], environment: Mapping[str, str]) -> Finding | None:
    """Checks that libtpu fits tensorflow-tpu; None where that is not installed."""
    if "tensorflow-tpu" not in installed:
        return None
    if path := environment.get("TPU_LIBRARY_PATH"):
        return Finding(
            status=Status.WARNING,
            subject="libtpu",
            text=f"TPU_LIBRARY_PATH={path} replaces the installed one; its version is not known",
            fix="unset TPU_LIBRARY_PATH",
        )
    tensorflow, version = installed["tensorflow-tpu"], installed.get("libtpu")
    allowed = LIBTPU_RANGES.get(parse_version(tensorflow)[:2])
    wanted = f"libtpu>={_dotted(allowed[0])},<{_dotted(allowed[1])}" if allowed else "libtpu"
    if version is None:
        return Finding(status=Status.ERROR, subject="libtpu", text="not installed", fix=f"pip install '{wanted}'")
    if allowed is None:
        return Finding(
            status=Status.WARNING,
            subject="libtpu",
            text=f"{version}; which ones work with tensorflow-tpu {tensorflow} is not known here",
            fix="pip install '.[tpu]' takes a pair that works",
        )
    if not allowed[0] <= parse_version(version) < allowed[1]:
        return Finding(
            status=Status.ERROR,
            subject="libtpu",
            text=f"{version} makes tensorflow-tpu {tensorflow} abort on import; {_range(*allowed)} works",
            fix=f"pip install '{wanted}'",
        )
    return Finding(status=Status.OK, subject="libtpu", text=f"{version} (known to work: {_range(*allowed)})")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _range(lowest: Sequence[int], below: Sequence[int]) -> str:
    return f"{_dotted(lowest)} or later and below {_dotted(below)}"


def check_chips(chips: Chips, installed: Mapping[str, str], environment: Mapping[str, str]) -> Finding:
    """Checks whether the chips that are there can be used by the TensorFlow that is."""
    for_tpu = "tensorflow-tpu" in installed
    if chips.generation in _TOO_NEW:
        return Finding(
            status=Status.ERROR,
            subject="TPU chips",
            text=f"{chips.on_bus} chips ({chips.generation}), which TensorFlow does not drive: it ends at 2.20 and v6e",
            fix="take a TPU of v6e or before",
        )
    if chips.on_bus and not chips.usable:
        return Finding(
            status=Status.WARNING,
            subject="TPU chips",
            text=f"{chips.on_bus} chips ({chips.generation}) on the PCI bus, but no /dev/accel* or /dev/vfio/*",
            fix="in a container: docker run --privileged --net=host; on a TPU VM: create the VM again",
        )
    if chips.usable and not for_tpu:
        return Finding(
            status=Status.ERROR,
            subject="TPU chips",
            text=f"{chips.device_files} chips, but this TensorFlow has no TPU kernels and would train on the CPU",
            fix="pip uninstall -y tensorflow && pip install '.[tpu]'",
        )
    if chips.usable:
        return Finding(
            status=Status.OK, subject="TPU chips", text=f"{chips.device_files} ({chips.generation or 'unknown type'})"
        )
    if for_tpu and environment.get("TPU_SKIP_MDS_QUERY") != "1":
        return Finding(
            status=Status.WARNING,
            subject="TPU chips",
            text="none; importing TensorFlow may take minutes, as libtpu asks Google Cloud's metadata server",
            fix="export TPU_SKIP_MDS_QUERY=1 on machines without a TPU",
        )
    return Finding(status=Status.NOTE, subject="TPU chips", text="none on this machine")


def check_lock(file: pathlib.Path = LOCK_FILE) -> Finding | None:
    """Checks whether a process holds the TPU, or its lock file is in the way; None where there is no such file."""
    if not file.exists():
        return None
    owner = file.stat().st_uid
    try:
        # As libtpu opens it. Linux refuses O_CREAT on another user's file in /tmp (fs.protected_regular), root or not.
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        return Finding(
            status=Status.ERROR,
            subject="TPU lock",
            text=f"{file} belongs to user {owner} and cannot be opened ({error.strerror}), so libtpu refuses to start",
            fix=f"sudo lsof -w {file}; when nobody holds it: sudo rm {file}",
        )
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, holder = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    finally:
        os.close(descriptor)
    if kind == fcntl.F_UNLCK:
        text = f"{file} was left behind by a process that ended; held by nobody, libtpu takes it over"
        return Finding(
            status=Status.NOTE, subject="TPU lock", text=text, fix=f"if a TPU is said to be in use: rm {file}"
        )
    return Finding(
        status=Status.WARNING,
        subject="TPU lock",
        text=f"process {holder} ({_command(holder)}) holds the TPU; another one gets none",
        fix=f"let it finish, or: kill {holder}",
    )


def _command(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()[:80]
    except OSError:
        return "another user's"


def check_disk(directory: pathlib.Path) -> Finding:
    """Checks the free space where runs are written; `directory` need not exist yet."""
    place = next(p for p in (directory, *directory.parents) if p.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / _GIB:.1f} GiB free at {place}"
    if free >= _DISK_WARNING:
        return Finding(status=Status.OK, subject="disk", text=text)
    status = Status.ERROR if free < _DISK_ERROR else Status.WARNING
    return Finding(status=status, subject="disk", text=text, fix="free some, or name another disk with --run")


def check_memory(*, proc: pathlib.Path = pathlib.Path("/proc"), cgroup: pathlib.Path | None = None) -> Finding:
    """Checks the memory that a new process can have: the machine's, or less where a container has its own limit."""
    fields = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
    total, free = (int(fields[key].split()[0]) << 10 for key in ("MemTotal", "MemAvailable"))
    limit = "machine"
    cgroup = cgroup or pathlib.Path("/sys/fs/cgroup")
    if (cgroup / "memory.max").exists() and (most := (cgroup / "memory.max").read_text().strip()) != "max":
        left = int(most) - int((cgroup / "memory.current").read_text())
        if left < free:
            total, free, limit = int(most), left, "container"
    text = f"{free / _GIB:.1f} of the {limit}'s {total / _GIB:.1f} GiB free"
    if free >= _MEMORY_WARNING:
        return Finding(status=Status.OK, subject="memory", text=text)
    status = Status.ERROR if free < _MEMORY_ERROR else Status.WARNING
    return Finding(status=status, subject="memory", text=text, fix="end other programs, or take a larger machine")


def check_credentials(
    environment: Mapping[str, str],
    *,
    needed: bool,
    product: pathlib.Path = pathlib.Path("/sys/class/dmi/id/product_name"),
) -> Finding:
    """Finds the Google Cloud credentials that gs:// paths would use, in the order in which TensorFlow looks for them.

    Args:
      environment: of the process.
      needed: whether a gs:// path is to be used, so that none at all is an error.
      product: names the machine's maker; only on Google's own machines is the metadata server asked.
    """
    subject = "credentials"
    if path := environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return _check_key_file(pathlib.Path(path), source="GOOGLE_APPLICATION_CREDENTIALS")
    configuration = environment.get("CLOUDSDK_CONFIG") or pathlib.Path(environment.get("HOME", "/")) / ".config/gcloud"
    if (file := pathlib.Path(configuration) / "application_default_credentials.json").exists():
        return _check_key_file(file, source="gcloud")
    if product.exists() and product.read_text().startswith("Google"):
        request = urllib.request.Request(_METADATA, headers={"Metadata-Flavor": "Google"})
        try:
            with urllib.request.urlopen(request, timeout=_METADATA_SECONDS) as answer:
                return Finding(status=Status.OK, subject=subject, text=f"service account {answer.read().decode()}")
        except (urllib.error.URLError, TimeoutError):
            pass  # a VM without a service account
    return Finding(
        status=Status.ERROR if needed else Status.NOTE,
        subject=subject,
        text="none for gs:// paths" + ("" if needed else "; only public buckets can be read"),
        fix="gcloud auth application-default login, or give the VM a service account with Storage Object Admin",
    )


def _check_key_file(file: pathlib.Path, *, source: str) -> Finding:
    try:
        kind = json.loads(file.read_text())["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding(
            status=Status.ERROR,
            subject="credentials",
            text=f"{file} ({source}) cannot be read as a key: {type(error).__name__}",
            fix="gcloud auth application-default login, and unset GOOGLE_APPLICATION_CREDENTIALS",
        )
    return Finding(status=Status.OK, subject="credentials", text=f"{kind} from {source} ({file})")
