"""Takes the documentation's pictures of real pages, with a headless Chromium.

    python -m scripts.docs.pictures PHOTOS-model/index.html DATA/checks/1.0.0/report.html RUN/report.html

The page of trainer.quickstart, the report of a check and that of a run, as their first screens show them.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import tempfile

from PIL import Image

from pipeline.command import UsageError, run_command

PICTURES = pathlib.Path(__file__).resolve().parents[2] / "docs" / "pictures"
NAMES = ("quickstart.png", "check.png", "run.png")
LARGEST = 200_000  # bytes
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_WIDTH, _HEIGHT = 1100, 820
_COLOURS = 128


def take(page: pathlib.Path, picture: pathlib.Path) -> None:
    """Writes the first screen of a page as a PNG of few colours; UsageError where that cannot be done."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        raise UsageError(f"no Chromium on the PATH ({', '.join(_PROGRAMS)})")
    if not page.is_file():
        raise UsageError(f"{page}: no such file; give the pages that the first lines of this file name")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shot = pathlib.Path(folder, "shot.png")
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        size = f"--window-size={_WIDTH},{_HEIGHT}"
        subprocess.run(
            [
                program,
                *options,
                size,
                f"--user-data-dir={folder}/profile",
                f"--screenshot={shot}",
                page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        with Image.open(shot) as image:
            few = image.convert("RGB").quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE)
            few.save(picture, optimize=True)
    if picture.stat().st_size > LARGEST:
        raise UsageError(f"{picture}: {picture.stat().st_size} bytes, {LARGEST} are the most; show less of the page")


def main(arguments: list[str]) -> None:
    """Takes the pictures."""
    if len(arguments) != len(NAMES):
        raise UsageError(f"give {len(NAMES)} pages: python -m scripts.docs.pictures INDEX.html CHECK.html RUN.html")
    PICTURES.mkdir(exist_ok=True)
    for page, name in zip(arguments, NAMES, strict=True):
        take(pathlib.Path(page), PICTURES / name)
        print(PICTURES / name)


if __name__ == "__main__":
    run_command(main, accepts_arguments=True)
