"""What the emulator's RAM says of the player: for evaluation and pictures, never for learning or acting."""

from typing import Any

from learnmax_jax.types import Probe

# RAM bytes of Montezuma's Revenge: Go-Explore's map (Ecoffet et al. 2021, https://arxiv.org/abs/2004.12919).
_ROOM, _X, _Y, _INVENTORY = 3, 42, 43, 65
_KEY_BIT = 1  # turns on at the step that pays the first key's 100, off at the step that opens its door


def probe_ram(game: str, ram: Any, lives: Any) -> Probe:
    """Reads the player's place and belongings.

    Numpy arrays give numpy arrays, JAX arrays (traced too) give JAX arrays.

    Args:
      game: EnvPool id; only `MontezumaRevenge-v5` has a known map.
      ram: `[B, 128]` uint8, the console's memory.
      lives: `[B]` int32.
    Returns:
      Probe; room, x, y and key are -1 for other games.
    """
    if game != "MontezumaRevenge-v5":
        unknown = ram[:, 0].astype("int32") * 0 - 1
        return Probe(room=unknown, x=unknown, y=unknown, key=unknown, lives=lives, ram=ram)
    memory = ram.astype("int32")
    return Probe(
        room=memory[:, _ROOM],
        x=memory[:, _X],
        y=memory[:, _Y],
        key=(memory[:, _INVENTORY] >> _KEY_BIT) & 1,
        lives=lives,
        ram=ram,
    )
