"""Turns plain values into bytes and back (MessagePack): equal values, equal bytes, on every machine."""

from __future__ import annotations

from typing import Any

import msgpack


def pack(fields: Any) -> bytes:
    """Encodes text, numbers, bytes, None, lists and mappings; text that UTF-8 cannot spell keeps its odd characters."""
    data: bytes = msgpack.packb(fields, unicode_errors="surrogatepass")
    return data


def unpack(data: bytes) -> Any:
    """Decodes what `pack` encoded; lists come as tuples. Raises ValueError or TypeError for other bytes."""
    return msgpack.unpackb(data, use_list=False, unicode_errors="surrogatepass", strict_map_key=False)
