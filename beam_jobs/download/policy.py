"""Says what an attempt to download may cost, where it may go, and how it introduces itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json

PRODUCT = "tpu-retraining-image-builder"
USER_AGENT = f"{PRODUCT}/0.1 (downloads listed images to build a training set; obeys robots.txt and noai)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchPolicy:
    """Sets the limits of one attempt.

    Attributes:
      user_agent: the `User-Agent` header; its part before "/" is the name that robots.txt may address.
      max_bytes: largest body.
      attempt_seconds: for all of one attempt, redirects included.
      max_redirects: hops after the first answer.
      per_host: requests under way to one host at a time.
      allowed_networks: networks (CIDR) that may be connected to although they are not public.
      obey_robots: respect robots.txt and `X-Robots-Tag: noai, noimageai`.
    """

    user_agent: str = USER_AGENT
    max_bytes: int = 64 << 20
    attempt_seconds: float = 30.0
    max_redirects: int = 5
    per_host: int = 4
    allowed_networks: tuple[str, ...] = ()
    obey_robots: bool = True

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.attempt_seconds, self.per_host) <= 0 or self.max_redirects < 0:
            raise ValueError(f"limits must be positive, got {self}")
        if not self.user_agent.isascii() or not self.user_agent.isprintable() or not self.product:
            raise ValueError(f"a User-Agent is plain ASCII, name/version (contact), got {self.user_agent!r}")

    @property
    def product(self) -> str:
        return self.user_agent.partition("/")[0].strip()

    def digest(self) -> str:
        """Identifies the policy but for `per_host`: a failure is remembered only for the policy it happened under."""
        limits = dataclasses.asdict(self)
        del limits["per_host"]  # changes nothing about what fails
        text = json.dumps(limits, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
