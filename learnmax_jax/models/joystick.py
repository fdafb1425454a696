"""An action as the sum of what the joystick's switches do."""

import re
from collections.abc import Sequence

BITS = ("UP", "RIGHT", "LEFT", "DOWN", "FIRE")
_NAME = re.compile(r"(UP|DOWN)?(RIGHT|LEFT)?(FIRE)?")


def action_bits(action_names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Reads which of UP, RIGHT, LEFT, DOWN, FIRE each action closes from its name.

    Args:
      action_names: as ALE writes them: NOOP, or a vertical, a horizontal and FIRE in that order, none of them needed
        ("UPRIGHTFIRE").
    Returns:
      For each action its five bits, 0 or 1, in the order of `BITS`; NOOP has none.
    Raises:
      ValueError: a name that does not decompose, or two actions that are one.
    """
    rows = []
    for name in action_names:
        match = _NAME.fullmatch(name)
        if name != "NOOP" and (not name or match is None):
            raise ValueError(
                f"dynamics.action_embedding=compositional: action {name!r} is no sum of {', '.join(BITS)}. "
                "Allowed: atomic, or an environment whose actions are joystick positions. Nearest: atomic"
            )
        closed = [] if name == "NOOP" or match is None else match.groups()
        rows.append(tuple(int(bit in closed) for bit in BITS))
    if not rows or len(set(rows)) < len(rows):
        raise ValueError(
            f"dynamics.action_embedding=compositional: of {len(rows)} actions {len(set(rows))} differ in their bits. "
            "Allowed: atomic, or an environment whose actions are different joystick positions. Nearest: atomic"
        )
    return tuple(rows)
