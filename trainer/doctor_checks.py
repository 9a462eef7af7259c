"""What `trainer.doctor` finds out without importing TensorFlow: the wheels, libtpu and the TPU chips."""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from pipeline.command import ExitCode

# Distributions that own the folder `tensorflow`: of two, the one installed last has overwritten parts of the other.
TENSORFLOW_WHEELS = ("tensorflow", "tensorflow-tpu", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly", "tf-nightly-tpu")
TENSORFLOW_RANGE = ((2, 19), (2, 22))  # from, below; what setup.py allows
# tensorflow-tpu's minor version → libtpu from, below. Outside, `import tensorflow` aborts (tried: BUILD_NOTES.md).
LIBTPU_RANGES: dict[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {(2, 20): ((0, 0, 14), (0, 0, 32))}
# Google's PCI ids of TPU chips, as in JAX's hardware_utils.py.
_GOOGLE = "0x1ae0"
_CHIPS = {
    "0x0027": "v2/v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "v7x",
}


class Status(enum.Enum):
    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "ERROR"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the diagnosis.

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
    """The leading numbers of a version: `2.20.0rc1` → (2, 20, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def installed_versions(distributions: Iterable[importlib.metadata.Distribution]) -> dict[str, str]:
    """Version by normalised name (PEP 503): tensorflow-tpu calls itself tensorflow_tpu."""
    return {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in distributions if d.metadata["Name"]}


def check_wheels(installed: Mapping[str, str]) -> Finding:
    """Exactly one TensorFlow may be installed; `installed` maps distributions to versions."""
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
    """libtpu must fit tensorflow-tpu; None where that is not installed."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chips:
    """TPU chips of this machine: on its PCI bus, and as device files that a process can open."""

    generation: str | None
    on_bus: int
    device_files: int

    @property
    def usable(self) -> bool:
        return self.device_files > 0


def find_chips(root: pathlib.Path = pathlib.Path("/")) -> Chips:
    """Looks below `root`: /sys/bus/pci/devices, /dev/accel*, /dev/vfio/<number>."""
    generations = [
        _CHIPS[device]
        for vendor in sorted(root.glob("sys/bus/pci/devices/*/vendor"))
        if vendor.read_text().strip() == _GOOGLE
        and (device := (vendor.parent / "device").read_text().strip()) in _CHIPS
    ]
    files = [*root.glob("dev/accel[0-9]*"), *root.glob("dev/vfio/[0-9]*")]
    # A vfio file can belong to any device that is handed to a virtual machine, so it counts beside a chip only.
    files = [f for f in files if generations or "accel" in f.name]
    return Chips(generation=generations[0] if generations else None, on_bus=len(generations), device_files=len(files))


def check_chips(chips: Chips, installed: Mapping[str, str], environment: Mapping[str, str]) -> Finding:
    """Whether the chips that are there can be used by the TensorFlow that is."""
    for_tpu = "tensorflow-tpu" in installed
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
