"""Says what downloads may cost, where they may go, when to try again, and how they introduce themselves."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json

from beam_jobs.download.headers import Header, check_headers
from pipeline.command import installed_version

PRODUCT = "tpu-retraining-image-builder"


@functools.cache
def default_user_agent() -> str:
    """Names us, our version and what we do."""
    purpose = "downloads listed images to build a training set; obeys robots.txt and noai"
    return f"{PRODUCT}/{installed_version() or 0} ({purpose})"


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
      headers: fields to send besides, see headers.py; not for robots.txt. They may be secrets.
    """

    user_agent: str = dataclasses.field(default_factory=default_user_agent)
    max_bytes: int = 64 << 20
    attempt_seconds: float = 30.0
    max_redirects: int = 5
    per_host: int = 4
    allowed_networks: tuple[str, ...] = ()
    obey_robots: bool = True
    headers: tuple[Header, ...] = dataclasses.field(default=(), repr=False)

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.attempt_seconds, self.per_host) <= 0 or self.max_redirects < 0:
            raise ValueError(f"limits must be positive, got {self}")
        if not self.user_agent.isascii() or not self.user_agent.isprintable() or not self.product:
            raise ValueError(f"a User-Agent is plain ASCII, name/version (contact), got {self.user_agent!r}")
        check_headers(self.headers)

    @property
    def product(self) -> str:
        return self.user_agent.partition("/")[0].strip()

    def digest(self) -> str:
        """Identifies the policy but for `per_host`: a failure is remembered only for the policy it happened under."""
        limits = dataclasses.asdict(self)
        del limits["per_host"]  # changes nothing about what fails
        text = json.dumps(limits, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownloadPolicy:
    """Sets how a list of URLs is downloaded.

    Attributes:
      fetch: the limits of one attempt.
      attempts: tries for one URL in all, as long as the failure is one that may pass.
      total_seconds: for all tries of one URL together, waiting included.
      backoff_seconds: upper end of the first random wait; doubles with every further one.
      max_wait_seconds: longest wait, a server's Retry-After included.
      at_once: downloads at a time in one worker process.
      retry_failed: try again what failed in an earlier run.
    """

    fetch: FetchPolicy = dataclasses.field(default_factory=FetchPolicy)
    attempts: int = 4
    total_seconds: float = 120.0
    backoff_seconds: float = 1.0
    max_wait_seconds: float = 60.0
    at_once: int = 64
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if min(self.attempts, self.at_once, self.total_seconds) <= 0:
            raise ValueError(f"limits must be positive, got {self}")
