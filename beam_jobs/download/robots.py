"""Says what a site's owner allows: robots.txt (RFC 9309) and the `X-Robots-Tag` answer header."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterable

from protego import Protego

MAX_BYTES = 500_000  # the RFC asks crawlers to parse at least 500 KiB of 1,000 bytes, or so

# 1 kB each. Hosts are asked in turn: where a list names more of them than fit, none is remembered until its next turn.
_MAX_SITES = 10_000
_MAX_TEXT = 4 << 20  # characters, of all sites' files together: a parsed file takes 26 bytes a character

# Protego looks through the URL once for each rule with a wildcard: 8 ns a character and rule at worst, and 2 µs a rule
# whatever the URL, which count as so many characters. The largest files of real sites have some thousand such rules.
_MAX_MATCHING = 4 << 20
_CHARACTERS_A_RULE = 250

_NOAI = frozenset({"noai", "noimageai"})
# Directives that carry a value after a colon; anything else before a colon names a crawler.
_VALUED_DIRECTIVES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
# All spellings that Protego takes for the field that names a crawler, once its white space is single spaces.
_AGENT = re.compile(r"user[- ]?agent ?(?::|(?<= ))", re.IGNORECASE)
_SOMEBODY_ELSE = "User-agent: ¬"  # no part of any product token, which is ASCII


def _whole_lines(data: bytes) -> bytes:
    """Cuts a file at `MAX_BYTES`, without the line that it is cut in: half a path means other paths, too."""
    if len(data) <= MAX_BYTES:
        return data
    cut = data[:MAX_BYTES]
    return cut[: max(cut.rfind(b"\n"), cut.rfind(b"\r")) + 1]


class RobotsFile:
    """Holds the rules of one robots.txt that concern one crawler.

    Attributes:
      size: characters of the file.
    """

    def __init__(self, data: bytes, *, product: str) -> None:
        """Parses the first `MAX_BYTES` of a file, which takes up to two seconds where it is hostile.

        Args:
          data: the file.
          product: the crawler's token (the User-Agent's part before "/").
        """
        text = _whole_lines(data).decode("utf-8-sig", "replace")
        own = {product.lower(), "*"}
        lines, self._wildcards = [], 0
        for line in text.splitlines():
            agent = _agent(line)
            if agent is None:
                lines.append(line)
                self._wildcards += "*" in line or "$" in line
            else:
                # All others are one: a group of thousands of crawlers, each with thousands of rules, takes minutes.
                lines.append(f"User-agent: {agent}" if agent.lower() in own else _SOMEBODY_ELSE)
        self.size = len(text)
        self._product = product
        self._rules = Protego.parse("\n".join(lines))

    def refusal(self, path: str) -> str | None:
        """Says why the crawler may not fetch `path` (path and query of a URL); None if it may.

        The longest matching rule decides. A file whose rules would take too long to compare with the path forbids it:
        the work is counted, not timed, so that the answer is the same on every machine.
        """
        if self._wildcards * (len(path) + _CHARACTERS_A_RULE) > _MAX_MATCHING:
            return f"has {self._wildcards} rules with wildcards, too many to compare them with {path[:200]}"
        allowed = self._rules.can_fetch(f"http://any.example{path}", self._product)
        return None if allowed else f"forbids {path[:200]}"


def _agent(line: str) -> str | None:
    """Finds which crawler a line begins the group of, without its version; None in other lines."""
    words = " ".join(line.partition("#")[0].split())
    field = _AGENT.match(words)
    return words[field.end() :].partition("/")[0].strip() if field else None


class Site:
    """Holds what one origin's robots.txt says, once somebody has asked; `lock` is for who asks."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.rules: RobotsFile | None = None


class RobotsCache:
    """Remembers the sites used last, as many as fit."""

    def __init__(self) -> None:
        self._sites: OrderedDict[tuple[str, str, int], Site] = OrderedDict()

    def site(self, origin: tuple[str, str, int]) -> Site:
        """Returns the origin's entry, an empty one if it is new."""
        site = self._sites.get(origin)
        if site is None:
            site = self._sites[origin] = Site()
            self.trim()
        else:
            self._sites.move_to_end(origin)
        return site

    def trim(self) -> None:
        """Forgets the sites not used for the longest time, beyond what fits; the one used last stays."""
        text = sum(site.rules.size for site in self._sites.values() if site.rules)
        while len(self._sites) > 1 and (len(self._sites) > _MAX_SITES or text > _MAX_TEXT):
            _, oldest = self._sites.popitem(last=False)
            text -= oldest.rules.size if oldest.rules else 0


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
