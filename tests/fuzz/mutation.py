"""Changes bytes as damage, carelessness and malice do: a pure function of the bytes and of a random generator."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

from tests.fuzz.shapes import Shape

_ODD_NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 127, 128, 255, 256, 257, 1000, 4095, 32_767, 32_768, 65_499, 65_500, 65_535),
    *(65_536, 178_956_970, (1 << 24) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1),
)


def _place(data: bytes, rng: random.Random) -> int:
    # Headers come first, and are where most can go wrong.
    return rng.randrange(min(len(data), 64) if rng.random() < 0.3 else len(data)) if data else 0


def _odd_number(rng: random.Random, size: int) -> int:
    return (rng.choice(_ODD_NUMBERS) if rng.random() < 0.7 else rng.getrandbits(8 * size)) % (1 << 8 * size)


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _set_byte(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes([rng.choice((0, 0xFF, 0x80, 0x0A, rng.randrange(256)))]) + data[at + 1 :]


def _set_number(data: bytes, rng: random.Random) -> bytes:
    at, size = _place(data, rng), rng.choice((1, 2, 4, 8))
    return data[:at] + _odd_number(rng, size).to_bytes(size, rng.choice(("big", "little"))) + data[at + size :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _delete(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 1, 2, 4, 16, 64)) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    piece = data[at : at + rng.choice((1, 2, 8, 32, 128))]
    return data[:at] + piece * rng.choice((2, 2, 3, 16, 200)) + data[at + len(piece) :]


def _blank(data: bytes, rng: random.Random) -> bytes:
    at, size = _place(data, rng), rng.choice((2, 8, 64, 512))
    return data[:at] + (rng.choice((b"\0", b"\xff", b"\x55")) * size)[: len(data) - at] + data[at + size :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 13, 64))) + data[at:]


_ANYWHERE: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_flip, _flip, _set_byte, _set_byte, _set_number, _set_number, _truncate, _delete, _repeat, _blank, _insert),
)


def _change_bytes(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(_ANYWHERE)(data, rng) if data else rng.randbytes(rng.randrange(1, 64))


def _change_field(data: bytes, rng: random.Random, shape: Shape) -> bytes:
    """Puts another number where a decoder expects one."""
    fields = [field for field in shape.fields(data) if 0 <= field[0] < len(data)]
    if not fields:
        return _change_bytes(data, rng)
    at, size, order = rng.choice(fields)
    if rng.random() < 0.3:  # a little more or less is the most plausible
        number = (int.from_bytes(data[at : at + size], order) + rng.choice((-2, -1, 1, 2))) % (1 << 8 * size)
    else:
        number = _odd_number(rng, size)
    return data[:at] + number.to_bytes(size, order) + data[at + size :]


def _change_parts(data: bytes, rng: random.Random, shape: Shape, others: Sequence[bytes]) -> bytes:
    """Drops, repeats, swaps or changes whole parts, or takes one out of another file."""
    parts = shape.parts(data)
    first, second = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(7):
        case 0:
            del parts[first]
        case 1:
            parts.insert(second, parts[first])
        case 2:
            parts[first : first + 1] = [parts[first]] * rng.choice((2, 3, 50))
        case 3:
            parts[first], parts[second] = parts[second], parts[first]
        case 4:
            parts.insert(first, rng.choice(shape.parts(rng.choice(others))))
        case _:
            opened = shape.inside(parts[first])
            parts[first] = opened[1](_change_bytes(opened[0], rng)) if opened else _change_bytes(parts[first], rng)
    return shape.join(parts)


def _splice(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def mutate(data: bytes, rng: random.Random, shape: Shape, others: Sequence[bytes], *, max_bytes: int) -> bytes:
    """Changes a file once to five times.

    Args:
      data: the file; may be empty.
      rng: decides everything.
      shape: of its format.
      others: files of the target, to take parts from.
      max_bytes: what is longer is cut.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        chance = rng.random()
        try:
            if chance < 0.35:
                data = _change_bytes(data, rng)
            elif chance < 0.6:
                data = _change_field(data, rng, shape)
            elif chance < 0.95:
                data = _change_parts(data, rng, shape, others)
            else:
                data = _splice(data, rng, others)
        except struct.error:  # a length beyond what its field can say
            data = _change_bytes(data, rng)
    return data[:max_bytes]
