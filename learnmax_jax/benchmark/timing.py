"""Seconds of calls on a noisy machine: in turn, so that what else runs there meets all of them alike."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

Name = TypeVar("Name")


def interleaved(calls: Mapping[Name, Callable[[], Any]], *, rounds: int) -> dict[Name, list[float]]:
    """Seconds of each call in each round; the calls must have run once before."""
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call))
    return seconds


def seconds_of(call: Callable[[], Any]) -> float:
    """Seconds until all of a call's arrays are there."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def medians(seconds: Mapping[Name, list[float]]) -> dict[Name, float]:
    """The median over the rounds."""
    return {name: float(np.median(values)) for name, values in seconds.items()}


def least(call: Callable[[], Any], *, rounds: int) -> float:
    """The least of several rounds, after one that does not count: what else runs on the machine only adds."""
    seconds_of(call)
    return min(seconds_of(call) for _ in range(rounds))


def told(
    items: Iterable[tuple[str, Name]], count: int, *, budget_seconds: float = float("inf")
) -> Iterator[tuple[str, Name]]:
    """Prints each item's name and the time left, and stops where the next one would not fit the budget.

    Args:
      items: (name, item), each worked on while this generator waits.
      count: how many there are.
      budget_seconds: of all items; at least one is worked on.
    """
    begin = time.monotonic()
    for number, (name, item) in enumerate(items):
        spent = time.monotonic() - begin
        each = spent / number if number else 0.0
        if number and spent + each > budget_seconds:
            print(f"{count - number} of {count} left out: {budget_seconds:,.0f} s are over", flush=True)
            return
        left = min(each * (count - number), budget_seconds - spent)
        print(f"{number + 1} of {count}: {name}" + (f", {left:,.0f} s left" if number else ""), flush=True)
        yield name, item
