"""The joystick's 18 positions in ALE's order, the smaller sets an agent may choose from, and MiniGrid's actions."""

# The order of `Action` in ALE's src/ale/common/Constants.h, https://github.com/Farama-Foundation/Arcade-Learning-Environment
ACTION_NAMES: tuple[str, ...] = (
    "NOOP",
    "FIRE",
    "UP",
    "RIGHT",
    "LEFT",
    "DOWN",
    "UPRIGHT",
    "UPLEFT",
    "DOWNRIGHT",
    "DOWNLEFT",
    "UPFIRE",
    "RIGHTFIRE",
    "LEFTFIRE",
    "DOWNFIRE",
    "UPRIGHTFIRE",
    "UPLEFTFIRE",
    "DOWNRIGHTFIRE",
    "DOWNLEFTFIRE",
)

_SIX = ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN")

ACTION_SETS: dict[int, tuple[str, ...]] = {
    6: _SIX,
    7: ("LEFT TURN", "RIGHT TURN", "FORWARD", "PICK UP", "DROP", "TOGGLE", "DONE"),  # MiniGrid's
    8: (*_SIX, "RIGHTFIRE", "LEFTFIRE"),  # in Montezuma's Revenge, the two running jumps
    18: ACTION_NAMES,
}
