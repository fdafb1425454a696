"""A compiled program's text, read: its instructions, what each moves and computes, how often, and for which part.

XLA's own cost analysis counts the body of a loop once. Its text says how many trips a loop has, so that what the
analysis leaves out can be added instruction by instruction (costs.py); and it says which line of the source an
instruction comes from, so that a profile can be summed by parts (trace.py).
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_ITEM_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8,
    "u64": 8, "f64": 8, "c64": 8,
}  # fmt: skip
# Instructions that move nothing themselves.
FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "call", "conditional", "after-all",
    "iota", "partition-id", "replica-id",
}  # fmt: skip
_SLICES = ("dynamic-slice", "gather", "slice")
_LINE = re.compile(r"^\s+(ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z0-9\-]+)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_SHAPE = re.compile(r"([a-z]+[0-9]*)\[([0-9,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name, opcode: its own.
      shape: of its result, as text.
      operands: names of what it reads; of a parameter its number.
      rest: the text behind its operands: attributes and metadata.
      is_root: whether it is its computation's result.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def num_bytes(self) -> int:
        """Of its result."""
        return shape_bytes(self.shape)

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from; empty where XLA does not say."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    def called(self, attribute: str) -> list[str]:
        """Names of the computations that an attribute lists."""
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.\-]+)", self.rest)
        return _NAME.findall(found[1]) if found else []

    @property
    def trips(self) -> int | None:
        """Of a loop; None where the program does not know."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.rest)
        return int(found[1]) if found else None


@dataclasses.dataclass(frozen=True)
class ProgramText:
    """The module's name, computations by theirs, and which of them is the entry."""

    module: str
    computations: dict[str, list[Instruction]]
    entry: str

    def inside(self, name: str) -> Iterator[Instruction]:
        """A computation's instructions and those of all that it calls."""
        for instruction in self.computations.get(name, ()):
            yield instruction
            for inner in children(instruction):
                yield from self.inside(inner)


def read(text: str) -> ProgramText:
    """Reads `compiled.as_text()`."""
    computations: dict[str, list[Instruction]] = {}
    module, entry, current = "", "", []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif found := _LINE.match(line):
            inner, rest = _split(found[5])
            operands = (inner,) if found[4] == "parameter" else tuple(_NAME.findall(inner))
            current.append(Instruction(found[2], found[4], found[3], operands, rest, bool(found[1])))
        elif line.startswith("HloModule "):
            module = line.split()[1].rstrip(",")
    return ProgramText(module, computations, entry)


def _split(text: str) -> tuple[str, str]:
    """What stands before and behind the parenthesis that closes the operands."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return text[:place], text[place + 1 :]
    return text, ""


def shape_bytes(shape: str) -> int:
    """Bytes of an array's or a tuple's shape."""
    return sum(_ITEM_BYTES.get(kind, 0) * math.prod(_numbers(sizes)) for kind, sizes in _SHAPE.findall(shape))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def children(instruction: Instruction) -> list[str]:
    """Computations that an instruction runs: of loops, calls, branches and fusions; not those of a reduction."""
    attributes = {
        "while": ("body",),
        "call": ("to_apply",),
        "conditional": ("branch_computations", "true_computation", "false_computation"),
        "fusion": ("calls",),
    }.get(instruction.opcode, ())
    return [name for attribute in attributes for name in instruction.called(attribute)]


def flops(instruction: Instruction, shapes: dict[str, str]) -> float:
    """Of a matrix product; 0 of all else.

    Args:
      instruction: any.
      shapes: of its computation's instructions, by name.
    """
    if instruction.opcode != "dot":
        return 0.0
    contracted = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", instruction.rest)
    left, result = _dims(shapes[instruction.operands[0]]), _dims(instruction.shape)
    return 2.0 * math.prod(result) * math.prod(left[axis] for axis in _numbers(contracted[1] if contracted else ""))


def _dims(shape: str) -> list[int]:
    found = _SHAPE.search(shape)
    return _numbers(found[2]) if found else []


def moved_bytes(instruction: Instruction, shapes: dict[str, str], text: ProgramText) -> float:
    """Bytes that an instruction reads and writes; of what it only takes a slice of, the slice."""
    if instruction.opcode in FREE:
        return 0.0
    read = [float(shape_bytes(shapes.get(name, ""))) for name in instruction.operands]
    if instruction.opcode in _SLICES:
        return 2.0 * instruction.num_bytes + sum(read[1:])
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * read[1]
    if instruction.opcode == "fusion":
        return _fusion_bytes(instruction, read, text)
    return instruction.num_bytes + sum(read)


def _fusion_bytes(instruction: Instruction, read: list[float], text: ProgramText) -> float:
    """Of a fusion: operands that are only sliced count as the slices, an update in place as what it updates."""
    inner = [line for name in instruction.called("calls") for line in text.computations.get(name, ())]
    parameters = [line for line in inner if line.opcode == "parameter"]
    parameters.sort(key=lambda line: int(line.operands[0]))
    shapes = {line.name: line.shape for line in inner}
    written = float(instruction.num_bytes)
    for place, parameter in enumerate(parameters[: len(read)]):
        users = [line for line in inner if parameter.name in line.operands]
        if users and all(user.opcode in _SLICES and user.operands[0] == parameter.name for user in users):
            read[place] = min(read[place], float(sum(user.num_bytes for user in users)))
        elif users and all(
            user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name for user in users
        ):
            read[place] = 0.0
            written = min(written, float(sum(shape_bytes(shapes[user.operands[1]]) for user in users)))
    return written + sum(read)
