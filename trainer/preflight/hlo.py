"""Reads a program that XLA compiled for a TPU: where its tensors lie, how they are padded, what it multiplies.

The text is that of `HloModule::ToString` after all passes. `bf16[256,7,7,1152]{3,0,2,1:T(8,128)(2,1)S(1)}` is a type,
dimensions, their order from the fastest to the slowest, tiles (the fastest dimensions are filled up to multiples of
them) and a memory space (1 is the chip's own vector memory, 5 the host's memory, none the chip's HBM).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8}
_SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*?)\)(?=,|$)(.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%(\S+) \(.*\{$\n((?:  .*\n)*)", re.MULTILINE)
_PARAMETER = re.compile(r"%(\S+) = \S+ parameter\((\d+)\)")
_CALLS = re.compile(r"\bcalls=%([\w.-]+)")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_VECTOR_MEMORY, _HOST_MEMORY = 1, 5

# They name or finish what another instruction moves.
_MOVES_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy-done", "slice-done"}
_MOVES_NOTHING |= {"opt-barrier", "after-all"}
_RENAMES = 'custom_call_target="ConcatBitcast"'
_STARTS = {"copy-start", "slice-start"}  # their result holds source and destination
_PICKS = {"gather", "dynamic-slice"}
_ON_HOST = {"infeed", "outfeed", "send", "recv"}
_COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
# What they move counts by the links, which are slower than HBM, and not twice.
_MOVES_NOTHING |= {name + suffix for name in _COLLECTIVES for suffix in ("", "-start", "-done")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buffer:
    """Describes a tensor as it lies in memory.

    Attributes:
      kind: element type, e.g. bf16.
      dims: logical dimensions.
      physical: the dimensions from the slowest to the fastest, filled up to whole tiles.
      order: index into `dims` of every physical dimension.
      space: memory space; 0 is HBM.
    """

    kind: str
    dims: tuple[int, ...]
    physical: tuple[int, ...]
    order: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        """Counts bytes without padding."""
        return math.prod(self.dims) * _BYTES[self.kind]

    @property
    def padded_bytes(self) -> int:
        return math.prod(self.physical) * _BYTES[self.kind]

    @property
    def padded_dimensions(self) -> list[tuple[int, int, int]]:
        """Lists (index, size, size with padding) of every dimension that is filled up."""
        pairs = [(d, self.dims[d], size) for d, size in zip(self.order, self.physical, strict=True)]
        return [pair for pair in pairs if pair[1] != pair[2]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """Describes one instruction, a line of a program.

    Attributes:
      name: of the result.
      opcode: e.g. fusion, convolution.
      results: one buffer, or those of a tuple.
      operands: names.
      rest: attributes, as text.
    """

    name: str
    opcode: str
    results: tuple[Buffer, ...]
    operands: tuple[str, ...]
    rest: str

    @property
    def source(self) -> str:
        """Names the TensorFlow operation it comes from, `argument`, or an empty string."""
        if self.opcode == "parameter":
            return "argument"
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ""


def parse_shape(text: str) -> tuple[Buffer, ...]:
    """Reads the buffers of a shape, or of a tuple of shapes."""
    return tuple(_buffer(*match) for match in _SHAPE.findall(text) if match[0] in _BYTES)


def _buffer(kind: str, dims_text: str, layout: str) -> Buffer:
    dims = tuple(int(d) for d in dims_text.split(",") if d)
    order_text, _, tiling = layout.partition(":")
    order = tuple(int(d) for d in reversed(order_text.split(",")) if d) or tuple(range(len(dims)))
    physical = [dims[d] for d in order]
    if tile := _TILE.search(tiling):
        sizes = [int(size) for size in tile[1].split(",")][-len(physical) :] if physical else []
        for back, size in enumerate(reversed(sizes), start=1):
            physical[-back] = -(-physical[-back] // size) * size
    space = _SPACE.search(tiling)
    return Buffer(kind=kind, dims=dims, physical=tuple(physical), order=order, space=int(space[1]) if space else 0)


def instructions(text: str) -> Iterator[Instruction]:
    """Yields all instructions of a program's text, those of fused computations included."""
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            name, shape, opcode, operands, rest = match.groups()
            names = tuple(re.findall(r"%([\w.-]+)", operands))  # some dumps write the operands' shapes before them
            yield Instruction(name=name, opcode=opcode, results=parse_shape(shape), operands=names, rest=rest)


def entry(text: str) -> list[Instruction]:
    """Returns the instructions that run one after the other: those of the entry computation."""
    start = text.rfind("\nENTRY ")
    return list(instructions(text[start:]))


def memory_traffic(text: str) -> int:
    """Counts bytes between chip and HBM, with padding: what each instruction of `entry` reads and writes there.

    The compiler's own "bytes accessed" counts tensors that stay in the chip's vector memory, and no padding: a bound on
    speed made from it would be none. Of a tensor from which rows are picked, only these count.
    """
    program, picked = entry(text), _picked(text)
    results = {instruction.name: instruction.results for instruction in program}
    return sum(_traffic(instruction, results, picked) for instruction in program)


def _picked(text: str) -> dict[str, dict[int, int]]:
    """Finds of which parameters a computation only picks parts: its name → number of the parameter → bytes picked."""
    found: dict[str, dict[int, int]] = {}
    for name, body in _COMPUTATION.findall(text):
        numbers = {parameter: int(number) for parameter, number in _PARAMETER.findall(body)}
        picks: dict[str, int] = {}
        used_whole: set[str] = set()
        for instruction in instructions(body):
            whole = list(instruction.operands)
            if instruction.opcode in _PICKS:
                source, *whole = instruction.operands
                picks[source] = picks.get(source, 0) + sum(buffer.bytes for buffer in instruction.results)
            used_whole.update(whole)
        found[name] = {numbers[key]: size for key, size in picks.items() if key in numbers and key not in used_whole}
    return found


def _traffic(
    instruction: Instruction, results: Mapping[str, Sequence[Buffer]], picked: Mapping[str, Mapping[int, int]]
) -> int:
    if instruction.opcode in _MOVES_NOTHING or _RENAMES in instruction.rest:
        return 0
    of_parts = dict(picked.get(called[1], {}) if (called := _CALLS.search(instruction.rest)) else {})
    if instruction.opcode in _PICKS:
        of_parts[0] = sum(buffer.bytes for buffer in instruction.results)
    in_hbm = [all(buffer.space == 0 for buffer in results.get(name, ())) for name in instruction.operands]
    parts = sum(size for number, size in of_parts.items() if in_hbm[number])
    whole = [name for number, name in enumerate(instruction.operands) if number not in of_parts]
    read = [buffer for name in whole for buffer in results.get(name, ())]
    if instruction.opcode in _STARTS:
        # copy: (destination, source, flag); slice: ((source), destination, flag). A slice reads what it writes.
        which = 0 if instruction.opcode == "copy-start" else 1
        destination = instruction.results[which]
        touched = [destination.space, *(buffer.space for buffer in read)]
        return destination.padded_bytes * touched.count(0)
    return parts + sum(buffer.padded_bytes for buffer in (*read, *instruction.results) if buffer.space == 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """Counts the exchanges of one kind between the chips in a step.

    Attributes:
      kind: of `_COLLECTIVES`.
      count: instructions.
      bytes: that a chip gives to all of them; of all-gather, that it gets.
      waits: whether the chip does nothing else until each is done.
    """

    kind: str
    count: int
    bytes: int
    waits: bool


def collectives(text: str) -> list[Collective]:
    """Lists the exchanges of a program, those of computations that it calls included; all chips take part in each."""
    results: dict[str, tuple[Buffer, ...]] = {}
    found: dict[tuple[str, bool], list[int]] = {}
    for instruction in instructions(text):
        results[instruction.name] = instruction.results
        kind, _, phase = instruction.opcode.partition("-start")
        if kind not in _COLLECTIVES or phase:
            continue
        moved = [buffer for name in instruction.operands for buffer in results.get(name, ())]
        if kind == "all-gather":
            # A started one holds what it gathers, then what it has gathered.
            moved = list(instruction.results[len(moved) if instruction.opcode != kind else 0 :])
        found.setdefault((kind, instruction.opcode == kind), []).append(sum(buffer.bytes for buffer in moved))
    return [
        Collective(kind=kind, count=len(sizes), bytes=sum(sizes), waits=waits)
        for (kind, waits), sizes in sorted(found.items())
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Padding:
    """Says how much of the memory that tensors take is filling.

    Attributes:
      bytes: of all results in HBM, without filling.
      padded_bytes: with it.
      worst: (wasted bytes, what, where from), the largest waste first.
    """

    bytes: int
    padded_bytes: int
    worst: tuple[tuple[int, str, str], ...]

    @property
    def share(self) -> float:
        """Returns the share of filling in the memory taken, 0 to 1."""
        return 1 - self.bytes / self.padded_bytes if self.padded_bytes else 0.0


def padding(program: Sequence[Instruction], *, batch: int, worst: int = 3) -> Padding:
    """Measures filling in the results of `entry` that lie in HBM; `batch` tells the batch dimension from the others."""
    found: dict[tuple[str, str], int] = {}
    plain = filled = 0
    for instruction in program:
        # Arguments count once each; what only renames a tensor is none of its own.
        if instruction.opcode in _MOVES_NOTHING - {"parameter"} or instruction.opcode in _STARTS:
            continue
        if _RENAMES in instruction.rest:
            continue
        for buffer in instruction.results:
            if buffer.space:
                continue
            plain, filled = plain + buffer.bytes, filled + buffer.padded_bytes
            if waste := buffer.padded_bytes - buffer.bytes:
                key = (_describe(buffer, batch), instruction.source)
                found[key] = found.get(key, 0) + waste
    ranked = sorted(((waste, *key) for key, waste in found.items()), reverse=True)[:worst]
    return Padding(bytes=plain, padded_bytes=filled, worst=tuple(ranked))


def _describe(buffer: Buffer, batch: int) -> str:
    last = len(buffer.dims) - 1
    parts = []
    for index, size, padded in buffer.padded_dimensions:
        kind = "batch" if size == batch and index != last else "channels" if index == last else "positions"
        parts.append(f"{kind} {size} → {padded}")
    return f"{buffer.kind}[{','.join(map(str, buffer.dims))}]: {', '.join(parts)}"


def product_flops(text: str) -> int:
    """Counts floating-point operations of convolutions and matrix products, a multiplication and an addition as two.

    Counted as XLA's HloCostAnalysis does, without what falls on padding; elementwise operations are left out.
    """
    dims: dict[str, tuple[int, ...]] = {}
    total = 0
    for instruction in instructions(text):
        if instruction.results:
            dims[instruction.name] = instruction.results[0].dims
        if instruction.opcode in ("convolution", "dot"):
            operands = [dims.get(name, ()) for name in instruction.operands]
            count = _dot if instruction.opcode == "dot" else _convolution
            total += 2 * count(instruction.rest, operands[0], operands[1], instruction.results[0].dims)
    return total


def _dot(rest: str, left: tuple[int, ...], right: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Counts the multiplications of a matrix product."""
    del right
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)
    contracted = math.prod(left[int(d)] for d in match[1].split(",") if d) if match else 1
    return math.prod(output) * contracted


def _convolution(rest: str, left: tuple[int, ...], right: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Counts the multiplications of a convolution."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    if labels is None:
        return 0
    left_labels, right_labels, output_labels = labels.groups()
    spatial = sorted(label for label in left_labels if label.isdigit())
    window = _window(rest, len(spatial))
    taps = left[left_labels.index("b")] // _group(rest, "batch_group_count")
    for axis, label in enumerate(spatial):
        taps *= valid_positions(
            input_size=left[left_labels.index(label)],
            output_size=output[output_labels.index(label)],
            size=window["size"][axis][0],
            stride=window["stride"][axis][0],
            pad=window["pad"][axis][0],
            input_dilation=window["lhs_dilate"][axis][0],
            kernel_dilation=window["rhs_dilate"][axis][0],
        )
    return taps * right[right_labels.index("i")] * output[output_labels.index("f")]


def _group(rest: str, name: str) -> int:
    match = re.search(rf"{name}=(\d+)", rest)
    return int(match[1]) if match else 1


def _window(rest: str, axes: int) -> dict[str, list[list[int]]]:
    match = re.search(r"window=\{([^}]*)\}", rest)
    given = dict(item.split("=") for item in match[1].split()) if match else {}
    missing = {"size": "1", "stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    texts = {name: given.get(name, "x".join([default] * axes)) for name, default in missing.items()}
    return {
        name: [[int(n) for n in part.split("_")] for part in text.split("x") if part] for name, text in texts.items()
    }


def valid_positions(
    *,
    input_size: int,
    output_size: int,
    size: int,
    stride: int,
    pad: int,
    input_dilation: int = 1,
    kernel_dilation: int = 1,
) -> int:
    """Counts pairs of output and kernel positions, along one axis, that fall on an input value, no padding or gap."""
    extent = (input_size - 1) * input_dilation + 1
    return sum(
        0 <= (at := out * stride + tap * kernel_dilation - pad) < extent and at % input_dilation == 0
        for out in range(output_size)
        for tap in range(size)
    )


def host_operations(text: str) -> list[str]:
    """Lists what the program has the host do: transfers to and from it, and tensors kept in its memory."""
    found = set()
    for instruction in instructions(text):
        to_host = "is_host_transfer=true" in instruction.rest or instruction.opcode in ("infeed", "outfeed")
        in_host_memory = instruction.opcode not in _MOVES_NOTHING and any(
            buffer.space == _HOST_MEMORY for buffer in instruction.results
        )
        if (instruction.opcode in _ON_HOST and to_host) or in_host_memory:
            found.add(
                f"{instruction.opcode} {instruction.name}" + (f" ({instruction.source})" if instruction.source else "")
            )
    return sorted(found)
