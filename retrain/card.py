"""Gives a published model's card its own name, and commands that find it where it lies."""

from __future__ import annotations

import os

from pipeline.format import storage

CARD_FILE = "model_card.md"
_WRITTEN = ".model_card.md"  # in the run


def write_card(run: str, *, name: str, number: int, registry: str, verdict: str) -> dict[str, str]:
    """Writes the card of a model that is about to be published; returns its name in the model's folder → the file.

    Args:
      run: whose card it is made of; none comes of a run without.
      name: of the dataset.
      number: of the model.
      registry: its folder.
      verdict: why it is promoted.
    """
    try:
        lines = storage.read_text(storage.join(run, CARD_FILE)).split("\n")
    except FileNotFoundError:
        return {}
    title = next((at for at, line in enumerate(lines) if line.startswith("# ")), 0)
    lines[title : title + 1] = [f"# {name}, model {number}: image classifier", "", f"Promoted: {verdict}."]
    place = f"{os.path.basename(registry)}/{number}"
    text = "\n".join(line.replace("RUN/export", place).replace("--run=RUN", f"--model={place}") for line in lines)
    export = f"python -m trainer.export --model={place}"  # what is exported already
    text = "\n".join(line for line in text.split("\n") if not line.startswith(export))
    written = storage.join(run, _WRITTEN)
    storage.write_atomically(written, text)
    return {CARD_FILE: written}
