"""What one field of a config may be: its type, its values, what is nearest to a wrong one."""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any

_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclasses.dataclass(frozen=True)
class Field:
    """One field: its type, the values it may take and its unit.

    Attributes:
      kind: bool, int, float or str; of the elements where `is_tuple`.
      allowed: an interval such as "(0, 1]" for numbers, the values themselves, or None for all.
      unit: what the value counts; for people only.
      is_tuple: the value is a tuple of such elements.
    """

    kind: type
    allowed: str | tuple[Any, ...] | None
    unit: str = ""
    is_tuple: bool = False

    def describe(self) -> str:
        """States what is allowed, for messages and --help."""
        if isinstance(self.allowed, tuple):
            words = "one of " + ", ".join(str(value) for value in self.allowed)
        else:
            words = _KIND_NAMES[self.kind] + (f" in {self.allowed}" if self.allowed else "")
        return f"tuple, each {words}" if self.is_tuple else words

    def why_not(self, value: Any) -> str | None:
        """Says what is wrong with a value, or None."""
        if self.is_tuple:
            if not isinstance(value, tuple):
                return f"is {_kind_of(value)}, not a tuple"
            return next((why for why in map(self._why_not_one, value) if why), None)
        return self._why_not_one(value)

    def nearest(self, value: Any) -> Any:
        """Returns the allowed value nearest to a wrong one, or None where there is no such thing."""
        if self.is_tuple:
            return None
        if isinstance(self.allowed, tuple):
            return nearest(value, self.allowed)
        return _nearest_number(self, value)

    def _why_not_one(self, value: Any) -> str | None:
        if type(value) is not self.kind:
            return f"is {_kind_of(value)}, not {_KIND_NAMES[self.kind]}"
        if isinstance(self.allowed, tuple):
            return None if value in self.allowed else "is not one of the allowed values"
        return _why_not_inside(value, self.allowed)


def _why_not_inside(value: Any, interval: str | None) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "is not finite"
    return "is out of range" if interval and not _inside(value, interval) else None


def _kind_of(value: Any) -> str:
    return _KIND_NAMES.get(type(value), f"a {type(value).__name__}")


def _bounds(interval: str) -> tuple[float, float]:
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def _inside(value: float, interval: str) -> bool:
    low, high = _bounds(interval)
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def _nearest_number(field: Field, value: Any) -> Any:
    """Moves a number into the field's interval; an open end of a float field has no nearest value."""
    if field.kind not in (int, float):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    if field.kind is int:
        number = round(number)
    if field.allowed is None or _inside(number, str(field.allowed)):
        return field.kind(number)
    low, high = _bounds(str(field.allowed))
    bound, bracket, inward = (low, field.allowed[0], 1) if number <= low else (high, field.allowed[-1], -1)
    if bracket in "[]":
        return field.kind(bound)
    return int(bound) + inward if field.kind is int else None


def nearest(value: Any, candidates: Iterable[Any]) -> Any:
    """Returns the candidate nearest to a value: by difference for numbers, by spelling otherwise."""
    candidates = list(candidates)
    if candidates and all(isinstance(candidate, int | float) for candidate in candidates):
        try:
            return min(candidates, key=lambda candidate: abs(candidate - float(value)))
        except (TypeError, ValueError):
            return None
    names = [str(candidate) for candidate in candidates]
    found = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)
    return found[0] if found else None


def count(unit: str = "", allowed: str = "[1, inf)") -> Field:
    """A whole number, from 1 unless told otherwise."""
    return Field(int, allowed, unit)


def number(allowed: str, unit: str = "") -> Field:
    """A finite number in an interval."""
    return Field(float, allowed, unit)


def choice(*allowed: Any) -> Field:
    """One of some values of one type."""
    return Field(type(allowed[0]), allowed)


def switch() -> Field:
    """True or false."""
    return Field(bool, None)


def text() -> Field:
    """Any text."""
    return Field(str, None)
