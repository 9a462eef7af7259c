"""Reads pickles of numbers, text and containers without running what they say, in memory that their size bounds.

A pickle is a program. This machine knows only the operations that plain data takes (protocol 2 and later, Python 2's
among it); what else a kind of file may say is in its `Words`, which note what a call stands for instead of calling. No
declared length and no index makes it reserve anything, and no value grows by holding others again and again: what it
builds is no larger than what it read, but for a small object an operation. Containers may stand in one another, and
many times over, where `Words` allow it: such a value may be looked into, but not be walked through or printed.
"""

from __future__ import annotations

import codecs
import dataclasses
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pipeline.command import FormatError

MAX_OPERATIONS = 1_000_000  # the largest official file takes 300,000
_SMALL = 4096  # bytes of a text or string that is copied; larger ones stay where they are
_SHORT_TEXTS = 16 << 20  # bytes of all short texts together, which may take four times as much when decoded
_NAME_BYTES = 256  # of a module or function
_NUMBER_BYTES = 16
_TUPLE_ITEMS = 16
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Function:
    """Stands for what a pickle asks for by name."""

    name: str


@dataclasses.dataclass(frozen=True)
class Text:
    """Holds a long text, still encoded."""

    utf8: memoryview


class Words:
    """Says what a kind of pickle may hold beyond numbers, text, flat tuples, and lists and dictionaries of them.

    Attributes:
      kind: what such a pickle comes in, for errors.
      functions: what may be asked for by name, as (module, name), and what stands for it.
      in_tuples: types that tuples may hold besides plain values; also `Function`, in any case.
      in_dicts: types that dictionaries may hold besides plain values.
    """

    kind: ClassVar[str]
    functions: ClassVar[Mapping[tuple[str, str], Function]]
    in_tuples: ClassVar[tuple[type, ...]] = ()
    in_dicts: ClassVar[tuple[type, ...]] = ()

    def call(self, *, function: Any, arguments: Any) -> Any:
        """Returns what stands for the result. Raises FormatError."""
        raise FormatError(f"a call that no {self.kind} needs")

    def build(self, *, target: Any, state: Any) -> None:
        """Gives an object that was made before its content. Raises FormatError."""
        raise FormatError(f"it changes what no {self.kind} needs to be changed")

    def refer(self, reference: Any) -> Any:
        """Returns what stands for an object that lies elsewhere in the file. Raises FormatError."""
        raise FormatError(f"a reference that no {self.kind} needs")


_SCALARS = (type(None), bool, int, float, str, bytes, memoryview, Text)
_FUNCTIONS = {("_codecs", "encode"): Function("encode")}

# Operation → format of the number that follows it: the value itself, or the length or the index of the value.
_PROTO, _FRAME, _STOP = 0x80, 0x95, ord(".")
_CONSTANTS: Mapping[int, Any] = {ord("N"): None, 0x88: True, 0x89: False}
_NUMBERS = {ord("J"): "<i", ord("K"): "<B", ord("M"): "<H", ord("G"): ">d"}
_BYTES = {ord("T"): "<i", ord("U"): "<B", ord("B"): "<I", ord("C"): "<B", 0x8E: "<Q", 0x96: "<Q"}
_TEXTS = {ord("X"): "<I", 0x8C: "<B", 0x8D: "<Q"}
_PUTS = {ord("q"): "<B", ord("r"): "<I"}
_GETS = {ord("h"): "<B", ord("j"): "<I"}
_TUPLES = {ord(")"): 0, 0x85: 1, 0x86: 2, 0x87: 3}


def load(data: bytes | memoryview, words: Words, *, start: int = 0) -> tuple[Any, int]:
    """Reads one pickle.

    Args:
      data: holds the pickle; long strings are views of it.
      words: what the pickle may say.
      start: where in `data` it begins.

    Returns:
      What it holds, with what `words` made of calls and references, and where it ends. Long texts are `Text`, long byte
      strings `memoryview`.

    Raises:
      FormatError: it is damaged, holds anything else, or takes more than `MAX_OPERATIONS`.
    """
    machine = _Machine(data, words, start)
    return machine.run(), machine.at


class _Machine:
    """Runs one pickle."""

    def __init__(self, data: bytes | memoryview, words: Words, start: int) -> None:
        self._data = memoryview(data)
        self.at = start
        self._words = words
        self._functions = {**_FUNCTIONS, **words.functions}
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
            ord("b"): lambda: self._words.build(state=self._pop(), target=self._top()),
            ord("Q"): lambda: self._stack.append(self._words.refer(self._pop())),
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
                self._stack.append(self._decoded(view) if len(view) <= _SMALL else Text(view))
            elif code in _TUPLES:
                self._tuple([self._pop() for _ in range(_TUPLES[code])][::-1])
            elif code in _CONSTANTS:
                self._stack.append(_CONSTANTS[code])
            elif code == _STOP:
                return self._pop()
            elif code in self._others:
                self._others[code]()
            else:
                raise FormatError(f"operation {code:#04x} at byte {self.at - 1}, which no {self._words.kind} has")
        raise FormatError(f"more than {MAX_OPERATIONS} operations")

    def _take(self, size: int) -> memoryview:
        if not 0 <= size <= len(self._data) - self.at:
            raise FormatError(f"truncated: {size} bytes are to follow at byte {self.at} of {len(self._data)}")
        self.at += size
        return self._data[self.at - size : self.at]

    def _skip(self, size: int) -> None:
        self._take(size)

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _long(self) -> None:
        size = self._take(1)[0]
        if size > _NUMBER_BYTES:
            raise FormatError(f"a number of {size} bytes")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _line(self) -> str:
        line, found, _ = bytes(self._data[self.at : self.at + _NAME_BYTES]).partition(b"\n")
        if not found:
            raise FormatError(f"a name without an end at byte {self.at}")
        self.at += len(line) + 1
        return line.decode("latin-1")

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise FormatError(f"damaged: nothing is left to be used at byte {self.at}")
        return self._stack.pop()

    def _pop_marked(self) -> list[Any]:
        if not self._marks:
            raise FormatError(f"damaged: no mark was set before byte {self.at}")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _top(self) -> Any:
        if not self._stack:
            raise FormatError(f"damaged: nothing is there to be used at byte {self.at}")
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
            if not flat and not isinstance(item, (*_SCALARS, Function, *self._words.in_tuples)):
                raise FormatError(f"values in one another deeper than in any {self._words.kind}")
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
        allowed = (*_SCALARS, list, tuple, *self._words.in_dicts)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | bytes) or not isinstance(value, allowed):
                raise FormatError(f"a dictionary of other things than any {self._words.kind} holds")
            target[self._named(key) if isinstance(key, bytes) else key] = value

    def _function(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise FormatError("a name that is no text")
        if (module, name) not in self._functions:
            raise FormatError(f"it asks for {module:.50}.{name:.50}, which no {self._words.kind} does")
        self._stack.append(self._functions[module, name])

    def _call(self, *, arguments: Any, function: Any) -> None:
        match function, arguments:
            case Function("encode"), (str() | Text() as text, "latin1" | b"latin1"):
                self._stack.append(self._encoded(text))
            case _:
                self._stack.append(self._words.call(function=function, arguments=arguments))

    def _spend(self, size: int) -> None:
        self._decodable -= size
        if self._decodable < 0:
            raise FormatError(f"more than {_SHORT_TEXTS} bytes of text")

    def _named(self, key: bytes) -> str:
        self._spend(len(key))  # the same bytes may name a value of each of many dictionaries
        return key.decode("utf-8", "replace")

    def _decoded(self, view: memoryview) -> str:
        self._spend(len(view))
        try:
            return str(view, "utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise FormatError(f"damaged text: {error.reason}") from error

    def _encoded(self, text: str | Text) -> bytes | memoryview:
        """Turns text into the bytes that it stands for in pickles of protocol 2."""
        view = text.utf8 if isinstance(text, Text) else memoryview(text.encode("utf-8", "surrogatepass"))
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
