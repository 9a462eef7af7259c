"""Finds the TPU chips of this machine. Free of TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import pathlib

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chips:
    """Counts the TPU chips of this machine: on its PCI bus, and as device files that a process can open."""

    generation: str | None
    on_bus: int
    device_files: int

    @property
    def usable(self) -> bool:
        return self.device_files > 0


def find_chips(root: pathlib.Path = pathlib.Path("/")) -> Chips:
    """Looks for chips below `root`, in /sys/bus/pci/devices, /dev/accel* and /dev/vfio/<number>."""
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


def spare_metadata_server() -> None:
    """Keeps libtpu from asking a metadata server for a TPU that is not there, unless the user says otherwise.

    It would wait for minutes (measured: 8) when TensorFlow is imported, so commands call this before they do.
    """
    if not find_chips().usable:
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
