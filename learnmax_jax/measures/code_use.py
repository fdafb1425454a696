"""How much of a codebook is in use, and whether rooms have codes of their own."""

import jax.numpy as jnp
import numpy as np

from learnmax_jax.models.quantizers.codes import perplexity


def by_codebook(codes: np.ndarray, *, patches: tuple[int, int], names_room: bool) -> np.ndarray:
    """Codes by the codebook that they are of.

    Args:
      codes: `[M, N, G]`.
      patches: (rows, columns) of which the groups of the only token speak, as of Tokenizer; (0, 0): of none.
      names_room: the last group names the room, and is left out.
    Returns:
      `[..., g]`, a codebook each column.
    """
    seen = codes[..., :-1] if names_room else codes
    rows, columns = patches
    return seen.reshape(*seen.shape[:-1], rows * columns, -1) if rows else seen


def code_use(codes: np.ndarray, num_codes: int) -> tuple[float, float]:
    """How many different codes there are and their perplexity, means over codebooks.

    Args:
      codes: `[..., g]`, as of `by_codebook`.
      num_codes: V.
    """
    counts = np.stack([np.bincount(column.ravel(), minlength=num_codes) for column in np.moveaxis(codes, -1, 0)])
    return float((counts > 0).sum(axis=1).mean()), float(perplexity(jnp.asarray(counts)))


def rooms_apart(codes: np.ndarray, room: np.ndarray) -> float:
    """Share of the rooms whose commonest code of the background no other room has as its own.

    Args:
      codes: `[M]`, the group that names the room.
      room: `[M]`, as the emulator's RAM numbers them.
    """
    commonest = [int(np.bincount(codes[room == number]).argmax()) for number in np.unique(room)]
    return sum(commonest.count(code) == 1 for code in commonest) / len(commonest)
