"""Says what a site's owner allows: robots.txt (RFC 9309) and the `X-Robots-Tag` answer header."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterable

from protego import Protego

MAX_BYTES = 500_000  # the RFC asks crawlers to parse at least 500 KiB of 1,000 bytes, or so

_MAX_SITES = 1000
_MAX_TEXT = 8 << 20  # characters, of all sites' files together: a parsed file takes some times its size

_NOAI = frozenset({"noai", "noimageai"})
# Directives that carry a value after a colon; anything else before a colon names a crawler.
_VALUED_DIRECTIVES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
# All spellings that Protego takes for the line that names a crawler.
_AGENT = re.compile(r"\s*user(?:-|\s{1,9})?agent(?:\s{0,9}:|\s)([^#]*)", re.IGNORECASE)
_SOMEBODY_ELSE = "User-agent: -"


class RobotsFile:
    """Holds the rules of one robots.txt that concern one crawler.

    Attributes:
      size: characters of the file.
    """

    def __init__(self, text: str, *, product: str) -> None:
        """Parses the `text` of the file for `product`, the crawler's token (the User-Agent's part before "/")."""
        own = {product.lower(), "*"}
        # All others are one: a group that names thousands, each with thousands of rules, would take minutes to parse.
        lines = [
            _SOMEBODY_ELSE if (agent := _AGENT.match(line)) and agent[1].strip().lower() not in own else line
            for line in text.splitlines()
        ]
        self.size = len(text)
        self._product = product
        self._rules = Protego.parse("\n".join(lines))

    def allows(self, path: str) -> bool:
        """Says whether the crawler may fetch `path` (path and query of a URL); the longest matching rule decides."""
        return self._rules.can_fetch(f"http://any.example{path}", self._product)


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
