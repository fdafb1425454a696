"""What a compiled program computes and moves: XLA's own analysis, and what that leaves out of loops."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from learnmax_jax.benchmark import program_text
from learnmax_jax.benchmark.program_text import ProgramText


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one call.

    Attributes:
      flops: floating-point operations; inside loops only those of matrix products count more than once.
      num_bytes: read and written.
      kernels: instructions that are run one after the other, as compiled for this device.
    """

    flops: float
    num_bytes: float
    kernels: float


def cost(compiled: Any, *, trips: int = 1) -> Cost:
    """XLA's analysis counts a loop's body once; what its other trips compute and move is added.

    Args:
      compiled: of `jit(f).lower(...).compile()`.
      trips: of those loops with a matrix product in them whose trips the program does not know; other loops of
        unknown trips (hash tables) count once.
    """
    analysis = compiled.cost_analysis()
    extra = counted(program_text.read(compiled.as_text()), trips=trips)
    return Cost(
        flops=analysis.get("flops", 0.0) + extra.flops,
        num_bytes=analysis.get("bytes accessed", 0.0) + extra.num_bytes,
        kernels=extra.kernels,
    )


def total(costs: Iterable[Cost]) -> Cost:
    """Of programs that run one after the other."""
    return Cost(*map(sum, zip(*map(dataclasses.astuple, costs), strict=True)))


def counted(text: ProgramText, *, trips: int) -> Cost:
    """FLOPs and bytes of all trips of all loops but each one's first, and the kernels of all of them."""
    total = {"flops": 0.0, "num_bytes": 0.0, "kernels": 0.0}

    def visit(name: str, times: int, *, fused: bool) -> None:
        lines = text.computations.get(name, [])
        shapes = {line.name: line.shape for line in lines}
        for line in lines:
            total["flops"] += (times - 1) * program_text.flops(line, shapes)
            if not fused:
                total["num_bytes"] += (times - 1) * program_text.moved_bytes(line, shapes, text)
                total["kernels"] += times * (line.opcode not in program_text.FREE)
            repeats = loop_trips(text, line, trips) if line.opcode == "while" else 1
            for inner in program_text.children(line):
                visit(inner, times * repeats, fused=fused or line.opcode == "fusion")

    visit(text.entry, 1, fused=False)
    return Cost(**total)


def loop_trips(text: ProgramText, line: program_text.Instruction, trips: int) -> int:
    """A loop's trips: the program's, or those told."""
    if line.trips is not None:
        return line.trips
    bodies = program_text.children(line)
    has_product = any(inner.opcode == "dot" for body in bodies for inner in text.inside(body))
    return trips if has_product else 1
