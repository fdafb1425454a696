"""The joystick's 18 positions in ALE's order and the smaller sets an agent may choose from."""

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
    8: (*_SIX, "RIGHTFIRE", "LEFTFIRE"),  # in Montezuma's Revenge, the two running jumps
    18: ACTION_NAMES,
}
