"""Stands in for Google's storage before fake-gcs-server: TLS on 127.0.0.1:443, for TensorFlow's own gs:// client.

    python gcs_front.py CERTIFICATE KEY PORT_OF_FAKE_GCS_SERVER

TensorFlow has no option for an endpoint: it talks to www.googleapis.com and storage.googleapis.com. In a mount
namespace whose /etc/hosts calls both 127.0.0.1, and with CURL_CA_BUNDLE naming a CA of ours, it talks to this. Its
libcurl sends `Transfer-Encoding: identity`, which Go's server refuses, and frames some uploads in chunks all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import sys

_HOP = (b"transfer-encoding", b"connection", b"expect", b"content-length")
_LIMIT = 1 << 20

Headers = list[tuple[bytes, bytes]]


async def _head(reader: asyncio.StreamReader) -> tuple[bytes, Headers]:
    """Reads a first line and the header fields; TensorFlow wants their names as they were spelt."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    return first, [(name.strip(), value.strip()) for name, _, value in pairs]


def _value(headers: Headers, wanted: bytes) -> bytes:
    return next((value for name, value in headers if name.lower() == wanted), b"")


def _length(headers: Headers) -> int:
    return int(_value(headers, b"content-length") or 0)


async def _chunks(reader: asyncio.StreamReader, line: bytes) -> bytes:
    """Reads a body in chunks, of which the first one's size has been read."""
    body = b""
    while count := int(line, 16):
        body += (await reader.readexactly(count + 2))[:-2]
        line = await reader.readline()
    await reader.readline()
    return body


async def _question_body(reader: asyncio.StreamReader, headers: Headers) -> bytes:
    size = _length(headers)
    if not _value(headers, b"transfer-encoding") or not size:
        return await reader.readexactly(size)
    line = await reader.readline()
    if re.fullmatch(rb"[0-9a-fA-F]+\r\n", line) and int(line, 16) <= size:
        return await _chunks(reader, line)
    return line + await reader.readexactly(size - len(line))


async def _ask(port: int, first: bytes, headers: Headers, body: bytes) -> tuple[bytes, Headers, bytes]:
    """Passes a question on and reads all of the answer."""
    fields = [pair for pair in headers if pair[0].lower() not in (*_HOP, b"host")]
    if first.startswith((b"POST", b"PUT")) and not _value(fields, b"content-type"):
        fields.append((b"content-type", b"application/octet-stream"))
    fields += [(b"host", b"127.0.0.1:%d" % port), (b"connection", b"close"), (b"content-length", b"%d" % len(body))]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LIMIT)
    writer.write(first + b"\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in fields) + b"\r\n" + body)
    await writer.drain()
    status, answer = await _head(reader)
    chunked = _value(answer, b"transfer-encoding")
    content = await _chunks(reader, await reader.readline()) if chunked else await reader.read()
    writer.close()
    return status, answer, content


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            first, headers = await _head(reader)
            status, answer, content = await _ask(port, first, headers, await _question_body(reader, headers))
            inner, outer = b"http://127.0.0.1:%d" % port, b"https://www.googleapis.com"
            fields = [(name, value.replace(inner, outer)) for name, value in answer if name.lower() not in _HOP]
            size = _length(answer) if first.startswith(b"HEAD") else len(content)
            fields.append((b"content-length", b"%d" % size))
            writer.write(status + b"\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in fields) + b"\r\n" + content)
            await writer.drain()
    writer.close()


async def main(certificate: str, key: str, port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(
        lambda reader, writer: _serve(reader, writer, port), "127.0.0.1", 443, ssl=context, limit=_LIMIT
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
