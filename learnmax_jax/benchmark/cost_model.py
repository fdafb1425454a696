"""What many accelerators would do, predicted from measured parts under assumptions that are all named.

Nothing here was measured on an accelerator: the assumptions are what a reader should argue with.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from learnmax_jax import results

COUNTS = (1, 8, 64, 512)


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """Of the accelerators and what lies between them; none of it is measured here.

    Attributes:
      flops_per_second: peak of one accelerator; an A100's with TF32 products, by its data sheet.
      utilisation: of that peak; small products and softmaxes reach little of it. A guess.
      bytes_per_second: of its memory; an A100's, by its data sheet.
      kernel_seconds: between the starts of two kernels; the step is a chain of small ones. A guess.
      interconnect_bytes_per_second: of an all-reduce's slowest link; a 200 Gbit/s network.
      latency_seconds: of one hop. A guess.
      host_cores: for each accelerator.
      scale: how many times the config's environments and batch each accelerator has.
    """

    flops_per_second: float = 156e12
    utilisation: float = 0.1
    bytes_per_second: float = 1.5e12
    kernel_seconds: float = 5e-6
    interconnect_bytes_per_second: float = 25e9
    latency_seconds: float = 20e-6
    host_cores: int = 12
    scale: int = 8

    def text(self) -> str:
        """In words, for the plot and the page."""
        return (
            f"assumed, not measured: {self.flops_per_second / 1e12:g} TFLOP/s at {self.utilisation:.0%}, "
            f"memory {self.bytes_per_second / 1e12:g} TB/s, {self.kernel_seconds * 1e6:g} us a kernel, "
            f"all-reduce {self.interconnect_bytes_per_second / 1e9:g} GB/s and {self.latency_seconds * 1e6:g} us "
            f"a hop, {self.host_cores} host cores an accelerator, {self.scale} times the config's environments and "
            "batch on each"
        )


@dataclasses.dataclass(frozen=True)
class Step:
    """What one act-learn step of the config takes, measured on this machine.

    Attributes:
      agent_steps: of one step, E T.
      emulator_steps_per_second: of one core.
      flops, num_bytes, kernels: of acting and learning.
      num_updates: U.
      gradient_bytes: of both models.
    """

    agent_steps: int
    emulator_steps_per_second: float
    flops: float
    num_bytes: float
    kernels: float
    num_updates: int
    gradient_bytes: float


def step_of(figures: Mapping[str, Any]) -> Step:
    """From the figures of parts.measure; acting and learning are added up."""
    halves = [row for row in figures["roofline"] if row["name"] in ("act", "learn")]
    flops, num_bytes, kernels = (sum(row[name] for row in halves) for name in ("flops", "num_bytes", "kernels"))
    return Step(
        agent_steps=figures["agent_steps_per_step"],
        emulator_steps_per_second=figures["emulator_steps_per_second"] / figures["cores"],
        flops=flops,
        num_bytes=num_bytes,
        kernels=kernels,
        num_updates=figures["updates_per_step"],
        gradient_bytes=figures["gradient_bytes"],
    )


def seconds(step: Step, count: int, assumed: Assumptions) -> dict[str, float]:
    """Seconds of one step on n accelerators, each with its own environments and share of the batch.

        emulators = s E T / (emulator steps a second and core x cores)
        compute   = max(s FLOP / (peak x utilisation), s bytes / memory) + kernels x seconds a kernel
        reduce    = U (2 (n - 1) / n x gradient bytes / interconnect + 2 ceil(log2 n) x latency)

    Nothing overlaps, as in the compiled step; the number of kernels does not grow with s. Data are read by the
    accelerators' own hosts; codebook statistics and priorities, far smaller than gradients, are left out.

    Args:
      step: measured. count: n. assumed: the rest.
    """
    scale = assumed.scale
    arithmetic = scale * step.flops / (assumed.flops_per_second * assumed.utilisation)
    memory = scale * step.num_bytes / assumed.bytes_per_second
    ring = 2.0 * (count - 1) / count * step.gradient_bytes / assumed.interconnect_bytes_per_second
    hops = 2.0 * math.ceil(math.log2(count)) * assumed.latency_seconds
    return {
        "emulators": scale * step.agent_steps / (step.emulator_steps_per_second * assumed.host_cores),
        "compute": max(arithmetic, memory) + step.kernels * assumed.kernel_seconds,
        "reduce": step.num_updates * (ring + hops),
    }


def predict(step: Step, assumed: Assumptions, counts: Sequence[int] = COUNTS) -> list[dict[str, Any]]:
    """Agent steps a second for each number of accelerators, and the seconds behind them."""
    rows = []
    for count in counts:
        parts = seconds(step, count, assumed)
        rate = count * assumed.scale * step.agent_steps / sum(parts.values())
        rows.append({"accelerators": count, "agent_steps_per_second": rate, "seconds": parts})
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a number of accelerators."""
    header = ("accelerators", "agent steps/s", "of ideal", *(f"ms {name}" for name in rows[0]["seconds"]))
    one = rows[0]["agent_steps_per_second"] / rows[0]["accelerators"]
    cells = [
        [
            str(row["accelerators"]),
            f"{row['agent_steps_per_second']:,.0f}",
            f"{row['agent_steps_per_second'] / row['accelerators'] / one:.0%}",
            *(f"{1e3 * value:.3g}" for value in row["seconds"].values()),
        ]
        for row in rows
    ]
    return results.markdown(header, cells)
