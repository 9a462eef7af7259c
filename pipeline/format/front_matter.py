"""Writes the YAML header by which Hugging Face's hub reads a card (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def front_matter(values: Mapping[str, Any]) -> str:
    """Returns the header of a Markdown file, whatever characters the values hold."""
    text = yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False, default_flow_style=False)
    return f"---\n{text}---\n"
