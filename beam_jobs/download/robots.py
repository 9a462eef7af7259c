"""Says what a site's owner allows: robots.txt (RFC 9309) and the `X-Robots-Tag` answer header.

`urllib.robotparser` takes the first rule that matches and knows no wildcards; RFC 9309 asks for the longest match.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Iterable

MAX_BYTES = 500 << 10  # the RFC asks crawlers to parse at least 500 KiB

_NOAI = frozenset({"noai", "noimageai"})
# Directives that carry a value after a colon; anything else before a colon names a crawler.
_VALUED_DIRECTIVES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_OCTET = re.compile(r"%([0-9a-fA-F]{2})")


@dataclasses.dataclass(frozen=True)
class Rule:
    allow: bool
    pattern: str


def _normalize(path: str) -> str:
    """Percent-encodes what must be and decodes what need not be, so that both sides of a comparison agree."""
    return urllib.parse.quote(_OCTET.sub(_decode_octet, path), safe="/%:?#[]@!$&'()*+,;=~")


def _decode_octet(match: re.Match[str]) -> str:
    char = chr(int(match[1], 16))
    return char if char.isascii() and (char.isalnum() or char in "-._~") else match[0].upper()


def _matches(pattern: str, path: str) -> bool:
    """Says whether `path` starts with `pattern`; `*` is anything, a final `$` the end. Linear: no backtracking."""
    anchored = pattern.endswith("$")
    first, *parts = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    if not parts:
        return not anchored or at == len(path)
    *middle, last = parts
    for part in middle:
        found = path.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    if anchored:
        return len(path) - at >= len(last) and path.endswith(last)
    return path.find(last, at) >= 0


class RobotsFile:
    """Holds the rules of one robots.txt that concern one crawler."""

    def __init__(self, text: str, *, product: str) -> None:
        """Parses the `text` of the file for `product`, the crawler's token (the User-Agent's part before "/")."""
        groups: dict[str, list[Rule]] = {}
        agents: list[str] = []
        in_rules = False
        for line in text.splitlines():
            key, colon, value = line.partition("#")[0].partition(":")
            key, value = key.strip().lower(), value.strip()
            if not colon:
                continue
            if key == "user-agent":
                if in_rules:
                    agents, in_rules = [], False
                agents.append(value.lower())
                groups.setdefault(value.lower(), [])
            elif key in ("allow", "disallow"):
                in_rules = True
                if value:  # an empty Disallow allows all
                    for agent in agents:
                        groups[agent].append(Rule(key == "allow", _normalize(value)))
        self._rules = groups.get(product.lower(), groups.get("*", []))

    def allows(self, path: str) -> bool:
        """Says whether the crawler may fetch `path` (path and query of a URL); the longest matching rule decides."""
        if path == "/robots.txt":
            return True
        path = _normalize(path)
        matching = [rule for rule in self._rules if _matches(rule.pattern, path)]
        # Equally long rules: the RFC says that allow wins.
        return max(matching, key=lambda rule: (len(rule.pattern), rule.allow)).allow if matching else True


def forbids_ai(headers: Iterable[str], *, product: str) -> str | None:
    """Finds the `noai` or `noimageai` that `X-Robots-Tag` values address to all crawlers or to `product`, or None."""
    for header in headers:
        agent = "*"
        for token in header.lower().split(","):
            name, colon, value = (part.strip() for part in token.partition(":"))
            if colon and name not in _VALUED_DIRECTIVES:
                agent, name = name, value
            if name in _NOAI and agent in ("*", product.lower()):
                return name
    return None
