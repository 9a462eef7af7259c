"""Makes the environment that pages are rendered in: their style, and how numbers and names are shown."""

from __future__ import annotations

import re
import shlex

import jinja2
from markupsafe import Markup, escape

_RATES_DIGITS = 4


def environment(package: str) -> jinja2.Environment:
    """Returns what renders the templates of a package; they may include those of this one."""
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, ""), jinja2.PackageLoader(__package__, "")]),
        autoescape=jinja2.select_autoescape(enabled_extensions=(".html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(
        percent=percent, number=number, md=escape_markdown, quote=shlex.quote, name=name, duration=duration
    )
    return made


def percent(share: float | None, digits: int = 1) -> str:
    """Formats a share as `97.3 %`; nothing short of all is shown as 100."""
    if share is None:
        return "–"
    shown = f"{100 * share:.{digits}f}"
    if share < 1 and float(shown) == 100:
        shown = f"{100 - 10**-digits:.{digits}f}"
    return f"{shown}\u00a0%"


def number(value: float) -> str:
    """Formats a number: whole ones with commas, others by their first digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.{_RATES_DIGITS}g}"


def escape_markdown(text: object) -> str:
    """Escapes what means something in Markdown, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(text).split()))


def name(text: object) -> Markup:
    """Returns a label that may be broken after its underscores and slashes, as it is between words.

    Isolated, so that a label that is written from right to left does not turn the numbers beside it.
    """
    parts = re.sub("([_/])", r"\1<wbr>", str(escape(text)))
    return Markup(f"<bdi>{parts}</bdi>")


def duration(seconds: float) -> str:
    """Formats a time span: seconds up to two minutes, minutes up to two hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
