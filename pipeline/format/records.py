"""Reads and writes the record schema (tf.Example) and the TFRecord framing, without TensorFlow.

Serialization is written out by hand because shards must be byte-identical everywhere: protobuf leaves the order of map
entries open. Wire format: https://protobuf.dev/programming-guides/encoding/, message: tensorflow/core/example/*.proto,
framing: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Container, Iterator
from typing import IO

import google_crc32c

from pipeline.command import FormatError

# Feature keys; TFDS's own names, so that `tfds.builder_from_directory` reads the shards.
IMAGE, LABEL, ID, SOURCE, HEIGHT, WIDTH = "image", "label", "id", "source", "height", "width"
_KEYS = frozenset({IMAGE, LABEL, ID, SOURCE, HEIGHT, WIDTH})

Buffer = bytes | memoryview

_CRC_MASK_DELTA = 0xA282EAD8
_HEADER = struct.Struct("<QI")  # length, masked crc32c of the 8 length bytes
_FOOTER = struct.Struct("<I")  # masked crc32c of the payload
FRAME_BYTES = _HEADER.size + _FOOTER.size
_MAX_RECORD_BYTES = 1 << 31  # protobuf's own limit; a larger length can only be a damaged header


class RecordError(FormatError):
    """Reports a damaged TFRecord frame or tf.Example: its message says what is wrong, its catcher in which shard."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Holds one training example.

    Attributes:
      image: an encoded JPEG, or PNG where the source was pixels; RGB or greyscale, upright, `height` × `width` pixels.
      label: index into the manifest's label names.
      id: sha256 (hex) of the source file's bytes, or of the raw pixels where there is no file.
      source: URI of where the image came from.
      height: pixels.
      width: pixels.
    """

    image: bytes
    label: int
    id: str
    source: str
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.label < 0:
            raise ValueError(f"label must be 0 or more, got {self.label}")
        if len(self.id) != 64:
            raise ValueError(f"id must be a sha256 in 64 hex digits, got {self.id!r}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"height and width must be positive, got {self.height}x{self.width}")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, size: int) -> bytes:
    """Encodes what precedes the `size` bytes of a length-delimited field (wire type 2)."""
    return bytes((number << 3 | 2, size)) if size < 0x80 else _varint(number << 3 | 2) + _varint(size)


@functools.lru_cache(4_096)  # most values are of few lengths
def _before(key: bytes, size: int, kind: int) -> bytes:
    """Encodes what precedes the `size` bytes of a map entry's value: a Feature with list number `kind`."""
    item = _field(1, size)
    values = _field(kind, len(item) + size)
    feature = _field(2, len(values) + len(item) + size)
    body = key + feature + values + item
    return _field(1, len(body) + size) + body


def _entry(key: bytes, value: bytes, kind: int) -> tuple[bytes, bytes]:
    return _before(key, len(value), kind), value


_BYTES_LIST, _INT64_LIST = 1, 3
_KEY_FIELDS = {key: _field(1, len(key)) + key.encode() for key in _KEYS}


def encode_example(record: Record) -> bytes:
    """Serializes a record as a tf.Example; map entries in alphabetical order, so equal records give equal bytes."""
    entries = (
        *_entry(_KEY_FIELDS[HEIGHT], _varint(record.height), _INT64_LIST),
        *_entry(_KEY_FIELDS[ID], record.id.encode(), _BYTES_LIST),
        *_entry(_KEY_FIELDS[IMAGE], record.image, _BYTES_LIST),
        *_entry(_KEY_FIELDS[LABEL], _varint(record.label), _INT64_LIST),
        *_entry(_KEY_FIELDS[SOURCE], record.source.encode(), _BYTES_LIST),
        *_entry(_KEY_FIELDS[WIDTH], _varint(record.width), _INT64_LIST),
    )
    # One join: the image is copied once, not once for each of the messages around it.
    return b"".join((_field(1, sum(map(len, entries))), *entries))


def _read_varint(data: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise RecordError("truncated varint in a tf.Example")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: Buffer) -> Iterator[tuple[int, Buffer | int]]:
    """Yields (field number, payload): bytes for wire type 2, an int for wire type 0."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _read_varint(data, at)
            yield number, value
        elif wire == 2:
            length, at = _read_varint(data, at)
            if at + length > len(data):
                raise RecordError("truncated field in a tf.Example")
            yield number, data[at : at + length]
            at += length
        else:
            raise RecordError(f"unexpected wire type {wire} in a tf.Example")


def _message(payload: Buffer | int) -> Buffer:
    if isinstance(payload, int):
        raise RecordError("a number where a tf.Example has a message")
    return payload


def _scalar(feature: Buffer) -> Buffer | int:
    """Reads the first value of a Feature's bytes_list or int64_list (packed or not)."""
    for kind, values in _fields(feature):
        for _, value in _fields(_message(values)):
            if kind == 1:
                return _message(value)
            if kind == 3:
                return value if isinstance(value, int) else _read_varint(value, 0)[0]
    raise RecordError("a feature without a value")


def read_features(data: Buffer, keys: Container[str]) -> dict[str, Buffer | int]:
    """Reads the first value of those features of a tf.Example that `keys` names and the example has.

    Args:
      data: a serialized tf.Example; of a memoryview, the values of type bytes are views, too: nothing is copied.
      keys: names of features of type bytes or int64. Negative numbers come as 2^64 + number.

    Raises:
      RecordError: damaged bytes, or a feature without a value.
    """
    values: dict[str, Buffer | int] = {}
    for number, features in _fields(data):
        if number != 1:
            continue
        for _, entry in _fields(_message(features)):
            pair = dict(_fields(_message(entry)))
            try:
                key = bytes(_message(pair.get(1, b""))).decode()
            except UnicodeDecodeError as error:
                raise RecordError(str(error)) from error
            if key in keys:
                values[key] = _scalar(_message(pair.get(2, b"")))
    return values


def decode_example(data: bytes) -> Record:
    """Inverts `encode_example`; also reads what TensorFlow or TFDS wrote under the same keys.

    Raises:
      RecordError: damaged bytes, or a key is absent or of the wrong type (the message names it).
    """
    values = read_features(data, _KEYS)

    def get(key: str, kind: type) -> object:
        if key not in values:
            raise RecordError(f'no feature "{key}" in the record (it has {", ".join(sorted(values)) or "none"})')
        if not isinstance(values[key], kind):
            raise RecordError(f'feature "{key}" is not of type {kind.__name__}')
        return values[key]

    try:
        return Record(
            image=get(IMAGE, bytes),  # type: ignore[arg-type]
            label=get(LABEL, int),  # type: ignore[arg-type]
            id=get(ID, bytes).decode(),  # type: ignore[attr-defined]
            source=get(SOURCE, bytes).decode(),  # type: ignore[attr-defined]
            height=get(HEIGHT, int),  # type: ignore[arg-type]
            width=get(WIDTH, int),  # type: ignore[arg-type]
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise RecordError(str(error)) from error


def _masked_crc32c(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _CRC_MASK_DELTA) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """Wraps a serialized example as one TFRecord: length, crc, payload, crc."""
    length = struct.pack("<Q", len(payload))
    return length + _FOOTER.pack(_masked_crc32c(length)) + payload + _FOOTER.pack(_masked_crc32c(payload))


def scan_frames(file: IO[bytes]) -> Iterator[bytes | RecordError]:
    """Yields the payloads of an open TFRecord file, in order, and in place of a damaged record its RecordError.

    Both checksums are verified. A RecordError names the record's number. The scan goes on after a
    payload whose checksum fails; after a damaged header or a truncation the next record cannot be found, and it ends.
    """
    number = 0
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            yield RecordError(f"record {number}: truncated header")
            return
        length, length_crc = _HEADER.unpack(header)
        if _masked_crc32c(header[:8]) != length_crc or length > _MAX_RECORD_BYTES:
            yield RecordError(f"record {number}: damaged header")
            return
        payload, footer = file.read(length), file.read(_FOOTER.size)
        if len(payload) < length or len(footer) < _FOOTER.size:
            yield RecordError(f"record {number}: truncated")
            return
        damaged = _masked_crc32c(payload) != _FOOTER.unpack(footer)[0]
        yield RecordError(f"record {number}: checksum mismatch") if damaged else payload
        number += 1


def read_frames(file: IO[bytes]) -> Iterator[bytes]:
    """Yields the payloads of an open TFRecord file, in order, with both checksums verified.

    Raises:
      RecordError: naming the record's number and what is damaged.
    """
    for payload in scan_frames(file):
        if isinstance(payload, RecordError):
            raise payload
        yield payload
