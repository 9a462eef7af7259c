"""Lets requests in: bodies up to a size and within a time, and no more images than will soon be answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from trainer.serve.limits import Limits

_BODIES = 4  # of the largest size, in memory at one time
_DISCARD_SECONDS = 2.0
_DIGITS = 20  # of a number of bytes
_CLOSE = {"connection": "close"}


class Intake:
    """Counts what is under way, and refuses what would be too much."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self.images = 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Yields a request's body, which counts as being in memory for as long as the block runs.

        Raises:
          HTTPException: 413 if it is too large, 408 if it is too slow, 503 if too much is in memory.
        """
        declared = request.headers.get("content-length", "")
        chunks = _chunks(request)
        if declared.isdecimal() and int(declared[:_DIGITS]) > self._limits.body:
            await self._refuse_large(request, chunks)
        body = bytearray()
        try:
            await self._read(request, chunks, body)
            yield bytes(body)
        finally:
            self._bytes -= len(body)

    async def _read(self, request: Request, chunks: AsyncIterator[bytes], body: bytearray) -> None:
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for chunk in chunks:
                    body += chunk
                    self._bytes += len(chunk)
                    if len(body) > self._limits.body:
                        await self._refuse_large(request, chunks)
                    if self._bytes > _BODIES * self._limits.body:
                        await _discard(request, chunks)
                        raise busy("too many bytes are waiting")
        except TimeoutError as error:
            raise HTTPException(408, f"the body took more than {self._limits.seconds:g} s", _CLOSE) from error

    @contextlib.contextmanager
    def room_for(self, images: int) -> Iterator[None]:
        """Counts images as waiting for as long as the block runs.

        Raises:
          HTTPException: 413 if there are more than may ever wait, 503 if more than may wait now.
        """
        if images > self._limits.waiting:
            raise HTTPException(413, f"{images} images; a request may have {self._limits.waiting}")
        if self.images + images > self._limits.waiting:
            raise busy(f"{self.images} images are waiting")
        self.images += images
        try:
            yield
        finally:
            self.images -= images

    async def _refuse_large(self, request: Request, chunks: AsyncIterator[bytes]) -> None:
        await _discard(request, chunks)
        raise HTTPException(413, f"the body is larger than {self._limits.body} bytes", _CLOSE)


def busy(what: str) -> HTTPException:
    """Makes the answer of a server that has too much to do."""
    return HTTPException(503, f"busy: {what}; try again", {"retry-after": "1"})


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _discard(request: Request, chunks: AsyncIterator[bytes]) -> None:
    """Reads what is still sent, for a while: who meets a closed connection while sending does not see the answer."""
    if "expect" in request.headers:  # it waits for a word before it sends
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            async for _ in chunks:
                pass
