"""What `trainer.doctor` finds out about the machine: who holds the TPU, disk, memory, Google Cloud credentials."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import shutil
import struct
import urllib.error
import urllib.request
from collections.abc import Mapping

from trainer.doctor_checks import Finding, Status

LOCK_FILE = pathlib.Path("/tmp/libtpu_lockfile")  # libtpu's own, fixed name
_FLOCK = "hhqqi"  # struct flock of Linux on 64 bits: type, whence, start, length, pid
_GIB = 1 << 30
_DISK_ERROR, _DISK_WARNING = 1 * _GIB, 10 * _GIB  # checkpoints and exports of EfficientNetB0 take 0.3 GiB a run
_MEMORY_ERROR, _MEMORY_WARNING = 2 * _GIB, 4 * _GIB  # TensorFlow alone takes 0.6 GiB
_METADATA = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/email"
_METADATA_SECONDS = 3


def check_lock(file: pathlib.Path = LOCK_FILE) -> Finding | None:
    """Whether another process holds the TPU, or its lock file is in the way; None where there is no such file."""
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
    """Free space where runs are written; `directory` need not exist yet."""
    place = next(p for p in (directory, *directory.parents) if p.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / _GIB:.1f} GiB free at {place}"
    if free >= _DISK_WARNING:
        return Finding(status=Status.OK, subject="disk", text=text)
    status = Status.ERROR if free < _DISK_ERROR else Status.WARNING
    return Finding(status=status, subject="disk", text=text, fix="free some, or name another disk with --workdir")


def check_memory(*, proc: pathlib.Path = pathlib.Path("/proc"), cgroup: pathlib.Path | None = None) -> Finding:
    """Memory that a new process can have: the machine's, or less where a container has a limit of its own."""
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
    """Which Google Cloud credentials gs:// paths would use, in the order in which TensorFlow looks for them.

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
