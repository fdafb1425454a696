"""The bits of the 18 joystick positions, and what has none."""

import numpy as np
import pytest

from learnmax_jax.acting.actions import ACTION_NAMES
from learnmax_jax.acting.families import ATARI
from learnmax_jax.models.joystick import BITS, action_bits


def test_s4_49_the_bits_of_all_18_actions_by_hand() -> None:
    # UP, RIGHT, LEFT, DOWN, FIRE, in ALE's order of actions.
    without_fire = ["00000", "10000", "01000", "00100", "00010", "11000", "10100", "01010", "00110"]
    expected = dict(zip(("NOOP", *ACTION_NAMES[2:10]), without_fire, strict=True))
    expected |= {f"{name}FIRE": bits[:4] + "1" for name, bits in expected.items() if name != "NOOP"} | {"FIRE": "00001"}
    assert BITS == ("UP", "RIGHT", "LEFT", "DOWN", "FIRE")
    found = action_bits(ACTION_NAMES)
    assert {name: "".join(map(str, bits)) for name, bits in zip(ACTION_NAMES, found, strict=True)} == expected
    for names in ATARI.action_sets.values():
        assert [found[ACTION_NAMES.index(name)] for name in names] == list(action_bits(names))
    assert np.linalg.matrix_rank(found) == 5


@pytest.mark.parametrize("names", [("0", "1"), ("UP", ""), ("up",), ("FIREUP",), ("LEFTRIGHT",), ("NOOPFIRE",)])
def test_names_that_do_not_decompose_are_refused_in_one_line(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^dynamics.action_embedding=compositional: action '.*' is no sum") as caught:
        action_bits(names)
    assert "\n" not in str(caught.value) and "Nearest: atomic" in str(caught.value)


@pytest.mark.parametrize("names", [(), ("UP", "NOOP", "UP")])
def test_actions_that_the_bits_cannot_tell_apart_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"of \d actions \d differ"):
        action_bits(names)
