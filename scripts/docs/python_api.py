"""Makes the reference of `trainer.api` from its signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):$")
_ENTRY = re.compile(r"^  ([\w, ]+): (.*)")


def reference(module: object) -> str:
    """Returns a heading, a signature and the docstring of each name in a module's `__all__`, as Markdown."""
    parts = []
    things = {name: getattr(module, name) for name in module.__all__}  # type: ignore[attr-defined]
    for name, thing in sorted(things.items(), key=lambda item: inspect.isclass(item[1])):  # functions first
        parts.append(f"### {name}")
        if inspect.isfunction(thing):
            signature = textwrap.fill(f"{name}{_signature(thing)}", 88, subsequent_indent=" " * 4)
            parts.append(f"```text\n{signature}\n```")
        parts.append("\n".join(_lines(inspect.cleandoc(thing.__doc__ or ""))))
        if inspect.isclass(thing):
            for method, function in inspect.getmembers(thing, inspect.isfunction):
                if not method.startswith("_") and function.__doc__:
                    parts.append(f"`{name}.{method}{_signature(function)}`")
                    parts.append("\n".join(_lines(inspect.cleandoc(function.__doc__))))
    return "\n\n".join(parts)


def _signature(function: object) -> str:
    """Returns a signature without its types, which the text tells."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values() if p.name != "self"]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def _lines(text: str) -> Iterator[str]:
    """Turns the sections of a docstring into lists."""
    section = ""
    for line in text.replace("<", "&lt;").splitlines():
        if found := _SECTION.match(line):
            section = found[1]
            yield f"**{section}**\n"
        elif section and (entry := _ENTRY.match(line)):
            yield f"- `{entry[1]}`: {entry[2]}"
        else:
            yield line.strip() if not section else f"  {line.strip()}" if line.strip() else ""
