"""Collects the blocks of the README and the documentation that can be run, and says what is to become of each.

A block is fenced as `sh` (commands), `console` (`$ commands` with the output that is expected) or `python`. It is run
by tests/docs/test_run.py, unless the line before it is one of

    <!-- not run: REASON -->
    <!-- run by: tests/FILE.py -->
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = ("sh", "console", "python")
OTHERS = ("yaml", "text", "json")  # languages of blocks that hold no commands
_MARK = re.compile(r"<!-- (not run|run by): (.+) -->")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Holds a fenced block.

    Attributes:
      page: relative to the repository.
      line: of its first line, from 1.
      language: that the fence names, "" for none.
      lines: between the fences.
      mark: "not run", "run by" or "".
      why: the reason, or the file of the test.
    """

    page: str
    line: int
    language: str
    lines: tuple[str, ...]
    mark: str = ""
    why: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[tuple[str, tuple[str, ...]]]:
        """Returns the commands, each as a shell takes it, with the lines that it is expected to print: () for any."""
        if self.language != "console":
            text = "\n".join(self.lines)
            return [(f"python - <<'END'\n{text}\nEND" if self.language == "python" else text, ())]
        found: list[tuple[list[str], list[str]]] = []
        goes_on = False
        for line in self.lines:
            if line.startswith("$ "):
                found.append(([line[2:]], []))
            elif goes_on:
                found[-1][0].append(line)
            elif found:
                found[-1][1].append(line)
            goes_on = (line.startswith("$ ") or goes_on) and line.endswith("\\")
        return [("\n".join(command), tuple(output)) for command, output in found]


def pages() -> list[pathlib.Path]:
    """Lists what users read: the README, then the documentation in the order in which it is read."""
    return [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in _in_order("index"))]


def _in_order(name: str) -> list[str]:
    """Follows the tables of contents from a page on."""
    found = [name]
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for table in re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for entry in table.splitlines():
            if entry and not entry.startswith(":"):
                found += _in_order(str(pathlib.PurePosixPath(name).parent / entry))
    return found


def blocks(page: pathlib.Path) -> list[Block]:
    """Collects the fenced blocks of a page, but for Sphinx's own directives."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    begun = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if begun is None:
            begun = number
            continue
        language = lines[begun].removeprefix("```").strip()
        mark = _MARK.fullmatch(lines[begun - 1].strip()) if begun else None
        if not language.startswith("{"):
            found.append(
                Block(
                    page=page.relative_to(ROOT).as_posix(),
                    line=begun + 2,
                    language=language,
                    lines=tuple(lines[begun + 1 : number]),
                    mark=mark[1] if mark else "",
                    why=mark[2] if mark else "",
                )
            )
        begun = None
    assert begun is None, f"{page}: a fence is not closed"
    return found


def all_blocks() -> list[Block]:
    """Collects the blocks of all pages, in the order in which they are read."""
    return [block for page in pages() for block in blocks(page)]
