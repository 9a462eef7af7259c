"""Reads pickles of numbers, text and arrays without running what they say, in memory that their size bounds.

A pickle is a program. This machine knows only the operations that a dictionary of arrays takes (protocol 2 and later,
Python 2's among it), and notes what an array is made of instead of calling NumPy. No declared length and no index makes
it reserve anything, and no value grows by holding others again and again: what it builds is no larger than what it
read, but for a small object an operation.
"""

from __future__ import annotations

import codecs
import dataclasses
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.command import FormatError

MAX_OPERATIONS = 1_000_000  # the largest official file takes 300,000
_SMALL = 4096  # bytes of a text or string that is copied; larger ones stay where they are
_SHORT_TEXTS = 16 << 20  # bytes of all short texts together, which may take four times as much when decoded
_NAME_BYTES = 256  # of a module or function
_TUPLE_ITEMS = 16
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Function:
    """Stands for what a pickle asks for by name."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Dtype:
    code: str


@dataclasses.dataclass
class _Array:
    """Stands for an array, empty until the pickle says what is in it."""

    content: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class _Text:
    """Holds a long text, still encoded."""

    utf8: memoryview


_FUNCTIONS = {
    ("_codecs", "encode"): _Function("encode"),
    ("numpy", "ndarray"): _Function("ndarray"),
    ("numpy", "dtype"): _Function("dtype"),
    **{
        (f"{module}.{file}", name): _Function(name)
        for module in ("numpy.core", "numpy._core")
        for file, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
    },
}
_SCALARS = (type(None), bool, int, float, str, bytes, memoryview, _Text)
_IN_TUPLES = (*_SCALARS, _Function, _Dtype)

# Operation → format of the number that follows it: the value itself, or the length or the index of the value.
_PROTO, _FRAME, _STOP = 0x80, 0x95, ord(".")
_CONSTANTS: Mapping[int, Any] = {ord("N"): None, 0x88: True, 0x89: False}
_NUMBERS = {ord("J"): "<i", ord("K"): "<B", ord("M"): "<H", ord("G"): ">d"}
_BYTES = {ord("T"): "<i", ord("U"): "<B", ord("B"): "<I", ord("C"): "<B", 0x8E: "<Q", 0x96: "<Q"}
_TEXTS = {ord("X"): "<I", 0x8C: "<B", 0x8D: "<Q"}
_PUTS = {ord("q"): "<B", ord("r"): "<I"}
_GETS = {ord("h"): "<B", ord("j"): "<I"}
_TUPLES = {ord(")"): 0, 0x85: 1, 0x86: 2, 0x87: 3}


def load_dict(data: bytes) -> dict[str, Any]:
    """Reads a pickled dictionary of scalars, lists of scalars and arrays.

    Args:
      data: the pickle; arrays and long strings are views of it.

    Returns:
      Its values by their names; arrays of type uint8, int32 or int64, byte strings as `bytes` or `memoryview`.

    Raises:
      FormatError: it is damaged, holds anything else, or takes more than `MAX_OPERATIONS`.
    """
    loaded = _Machine(data).run()
    if not isinstance(loaded, dict):
        raise FormatError(f"expected a dict, got {type(loaded).__name__.strip('_').lower()}")
    return {name: value.content if isinstance(value, _Array) else value for name, value in loaded.items()}


class _Machine:
    """Runs one pickle."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._encodable = len(data)  # bytes of text that may yet be encoded: each of the pickle's once
        self._decodable = _SHORT_TEXTS
        self._others: dict[int, Callable[[], None]] = {
            _PROTO: lambda: self._skip(1),
            _FRAME: lambda: self._skip(8),
            ord("("): lambda: self._marks.append(len(self._stack)),
            ord("]"): lambda: self._stack.append([]),
            ord("}"): lambda: self._stack.append({}),
            ord("t"): lambda: self._tuple(self._pop_marked()),
            ord("a"): lambda: self._extend([self._pop()]),
            ord("e"): lambda: self._extend(self._pop_marked()),
            ord("s"): lambda: self._set([self._pop(), self._pop()][::-1]),
            ord("u"): lambda: self._set(self._pop_marked()),
            ord("c"): lambda: self._function(self._line(), self._line()),
            ord("R"): lambda: self._call(arguments=self._pop(), function=self._pop()),
            ord("b"): lambda: self._build(self._pop()),
            0x8A: self._long,
            0x93: lambda: self._function(*[self._pop(), self._pop()][::-1]),
            0x94: lambda: self._put(len(self._memo)),
        }

    def run(self) -> Any:
        """Returns what the pickle holds. Raises FormatError."""
        for _ in range(MAX_OPERATIONS):
            code = self._take(1)[0]
            if code in _NUMBERS:
                self._stack.append(self._number(_NUMBERS[code]))
            elif code in _PUTS:
                self._put(self._number(_PUTS[code]))
            elif code in _GETS:
                self._stack.append(self._get(self._number(_GETS[code])))
            elif code in _BYTES:
                view = self._take(self._number(_BYTES[code]))
                self._stack.append(bytes(view) if len(view) <= _SMALL else view)
            elif code in _TEXTS:
                view = self._take(self._number(_TEXTS[code]))
                self._stack.append(self._decoded(view) if len(view) <= _SMALL else _Text(view))
            elif code in _TUPLES:
                self._tuple([self._pop() for _ in range(_TUPLES[code])][::-1])
            elif code in _CONSTANTS:
                self._stack.append(_CONSTANTS[code])
            elif code == _STOP:
                return self._pop()
            elif code in self._others:
                self._others[code]()
            else:
                raise FormatError(f"operation {code:#04x} at byte {self._at - 1}, which no official archive has")
        raise FormatError(f"more than {MAX_OPERATIONS} operations")

    def _take(self, size: int) -> memoryview:
        if not 0 <= size <= len(self._data) - self._at:
            raise FormatError(f"truncated: {size} bytes are to follow at byte {self._at} of {len(self._data)}")
        self._at += size
        return self._data[self._at - size : self._at]

    def _skip(self, size: int) -> None:
        self._take(size)

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _long(self) -> None:
        size = self._take(1)[0]
        if size > 8:
            raise FormatError(f"a number of {size} bytes")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _line(self) -> str:
        line, found, _ = bytes(self._data[self._at : self._at + _NAME_BYTES]).partition(b"\n")
        if not found:
            raise FormatError(f"a name without an end at byte {self._at}")
        self._at += len(line) + 1
        return line.decode("latin-1")

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise FormatError(f"damaged: nothing is left to be used at byte {self._at}")
        return self._stack.pop()

    def _pop_marked(self) -> list[Any]:
        if not self._marks:
            raise FormatError(f"damaged: no mark was set before byte {self._at}")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _top(self) -> Any:
        if not self._stack:
            raise FormatError(f"damaged: nothing is there to be used at byte {self._at}")
        return self._stack[-1]

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _get(self, index: int) -> Any:
        if index not in self._memo:
            raise FormatError(f"damaged: value {index} is used before it is there")
        return self._memo[index]

    def _tuple(self, items: list[Any]) -> None:
        """Makes a tuple; one that holds tuples goes into no other, so that none can grow with every operation."""
        if len(items) > _TUPLE_ITEMS:
            raise FormatError(f"a tuple of {len(items)} values")
        for item in items:
            flat = isinstance(item, tuple) and all(isinstance(inner, _SCALARS) for inner in item)
            if not flat and not isinstance(item, _IN_TUPLES):
                raise FormatError("values in one another deeper than in any official archive")
        self._stack.append(tuple(items))

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list) or not all(isinstance(item, _SCALARS) for item in items):
            raise FormatError("a list of other things than numbers and text")
        target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise FormatError("damaged: a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | bytes) or not isinstance(value, (*_SCALARS, list, tuple, _Array)):
                raise FormatError("a dictionary of other things than arrays, lists, numbers and text")
            target[key.decode("utf-8", "replace") if isinstance(key, bytes) else key] = value

    def _function(self, module: Any, name: Any) -> None:
        try:
            self._stack.append(_FUNCTIONS[module, name])
        except (KeyError, TypeError):
            raise FormatError(f"it asks for {module!s:.50}.{name!s:.50}, which no official archive does") from None

    def _call(self, *, arguments: Any, function: Any) -> None:
        match function, arguments:
            case _Function("_reconstruct"), tuple():
                self._stack.append(_Array())
            case _Function("dtype"), (str() | bytes() as code, *_):
                self._stack.append(_Dtype(code.decode("latin-1") if isinstance(code, bytes) else code))
            case _Function("_frombuffer"), (raw, dtype, shape, order):
                self._stack.append(_Array(_array(shape, dtype, order in ("F", b"F"), raw)))
            case _Function("encode"), (str() | _Text() as text, "latin1" | b"latin1"):
                self._stack.append(self._encoded(text))
            case _:
                raise FormatError("a call that no array needs")

    def _build(self, state: Any) -> None:
        match self._top(), state:
            case _Array() as array, (_, shape, dtype, fortran, raw):
                array.content = _array(shape, dtype, bool(fortran), raw)
            case _Dtype(), (_, "|" | "<" | b"|" | b"<", *_):
                pass
            case _:
                raise FormatError("it changes what no array needs to be changed")

    def _decoded(self, view: memoryview) -> str:
        self._decodable -= len(view)
        if self._decodable < 0:
            raise FormatError(f"more than {_SHORT_TEXTS} bytes of text")
        try:
            return str(view, "utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise FormatError(f"damaged text: {error.reason}") from error

    def _encoded(self, text: str | _Text) -> bytes | memoryview:
        """Turns text into the bytes that it stands for in pickles of protocol 2."""
        view = text.utf8 if isinstance(text, _Text) else memoryview(text.encode("utf-8", "surrogatepass"))
        self._encodable -= len(view)
        if self._encodable < 0:
            raise FormatError("text that is used more than once")
        decoder, encoded = codecs.getincrementaldecoder("utf-8")(), bytearray()
        try:
            for start in range(0, len(view), _BLOCK):
                block = view[start : start + _BLOCK]
                encoded += decoder.decode(block, final=start + _BLOCK >= len(view)).encode("latin-1")
        except UnicodeError as error:
            raise FormatError("text that stands for no bytes") from error
        return bytes(encoded) if len(encoded) <= _SMALL else memoryview(encoded)


def _array(shape: Any, dtype: Any, fortran: bool, raw: Any) -> np.ndarray:
    """Makes the array that a pickle describes, a view of its bytes."""
    if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "i8", "i4"):
        raise FormatError("an array of a type that no official archive has")
    kind = np.dtype(f"<{dtype.code}")
    sides = shape if isinstance(shape, tuple) and len(shape) <= 4 else (-1,)
    if not all(isinstance(side, int) and side >= 0 for side in sides):
        raise FormatError("an array of a shape that no official archive has")
    if not isinstance(raw, bytes | memoryview) or math.prod(sides) * kind.itemsize != len(raw):
        raise FormatError(f"an array of shape {list(sides)} from other than as many bytes")
    return np.ndarray(sides, kind, raw, order="F" if fortran else "C")
