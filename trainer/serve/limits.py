"""Says how much the world may ask for."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds what requests may take.

    Attributes:
      body: bytes of a request's body.
      waiting: images that are being answered or wait for it, of all requests together.
      batch: images that the model is asked about at once.
      seconds: in which a client must have sent its request, or taken its answer.
      linger: seconds that new requests are still answered after SIGTERM, while readiness already says no.
    """

    body: int
    waiting: int
    batch: int
    seconds: float
    linger: float
