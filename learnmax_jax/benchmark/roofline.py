"""Each part beside what the machine could do: arithmetic as fast as a matrix product, bytes as fast as a copy."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from learnmax_jax import results
from learnmax_jax.benchmark.costs import Cost, cost, total
from learnmax_jax.benchmark.machine import Machine
from learnmax_jax.benchmark.programs import Program

HEADER = ("part", "times a step", "ms", "GFLOP", "GB", "GFLOP/s", "ideal ms", "ideal / measured", "kernels")


@dataclasses.dataclass(frozen=True)
class Row:
    """One call of a part.

    Attributes:
      name, per_step: of the part.
      seconds: measured. ideal_seconds: the machine's least.
      flops, num_bytes, kernels: as in Cost. The emulators' own work is no part of the program: theirs say nothing.
    """

    name: str
    per_step: int
    seconds: float
    ideal_seconds: float
    flops: float
    num_bytes: float
    kernels: float


def rows(parts: Mapping[str, Program], seconds: Mapping[str, float], machine: Machine) -> list[Row]:
    """A row a part; seconds are of one call."""
    return [
        row(name, part.per_step, seconds[name], total(cost(each, trips=part.trips) for each in part.compiled), machine)
        for name, part in parts.items()
    ]


def row(name: str, per_step: int, seconds: float, cost: Cost, machine: Machine) -> Row:
    """One part's row."""
    ideal = machine.ideal_seconds(cost.flops, cost.num_bytes)
    return Row(name, per_step, seconds, ideal, cost.flops, cost.num_bytes, cost.kernels)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, of rows as json has them."""
    return results.markdown(HEADER, [_cells(row) for row in rows])


def _cells(row: Mapping[str, Any]) -> list[str]:
    known = row["name"] != "emulators"
    own = [
        f"{row['flops'] / 1e9:.3g}",
        f"{row['num_bytes'] / 1e9:.3g}",
        f"{row['flops'] / row['seconds'] / 1e9:.3g}",
        f"{row['ideal_seconds'] * 1e3:.3g}",
        f"{row['ideal_seconds'] / row['seconds']:.2f}",
        f"{row['kernels']:,.0f}",
    ]
    return [
        row["name"],
        str(row["per_step"]),
        f"{row['seconds'] * 1e3:.3g}",
        *(own if known else ["-"] * len(own)),
    ]
