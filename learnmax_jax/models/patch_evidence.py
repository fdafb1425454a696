"""What a patch will show, told by what is round it: evidence for the next frame's codes, added to the latent's.

What happens in a patch depends on the patch and its neighbours, on the action, and on what only
the latent knows (which way things move). This part reads a patch's neighbourhood and is the same for all
patches, so a step learned in one place holds in all; the latent alone has to learn it for each.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from learnmax_jax.types import Array


class PatchEvidence(nn.Module):
    """Evidence for the groups of every patch from its 3x3 neighbourhood and the hidden units; zero at first.

    Hidden units `[B, 1, H]`, codes `[B, 1, G, V]` float -> `[B, 1, G, V]`. The first rows * columns * g groups are the
    patches', in reading order; those behind them (the room's) get no evidence here.

    Attributes:
      grid: (rows, columns).
      groups_a_patch: g.
      width: hidden units of a patch.
    """

    grid: tuple[int, int]
    groups_a_patch: int
    width: int

    @nn.compact
    def __call__(self, hidden: Array, codes: Array) -> Array:
        batch, _, num_groups, num_codes = codes.shape
        rows, columns = self.grid
        patches, inputs = rows * columns, self.groups_a_patch * num_codes
        of_patches = codes[:, 0, : patches * self.groups_a_patch].reshape(batch * patches, inputs)
        seen = nn.Dense(self.width // 4, use_bias=False, name="embed")(of_patches)
        place = self.param("place", nn.initializers.normal(0.02), (patches, self.width))
        x = nn.Dense(self.width, name="round")(neighbourhoods(seen.reshape(batch, rows, columns, -1)))
        x = x + nn.Dense(self.width, use_bias=False, name="from_hidden")(hidden) + place[None]
        x = jax.nn.silu(x).reshape(batch * patches, self.width)
        x = jax.nn.silu(nn.Dense(self.width, name="mix")(x))
        evidence = nn.Dense(inputs, kernel_init=nn.initializers.zeros, name="codes")(x)
        evidence = evidence.reshape(batch, 1, patches * self.groups_a_patch, num_codes)
        rest = num_groups - evidence.shape[2]
        return jnp.pad(evidence, ((0, 0), (0, 0), (0, rest), (0, 0)))


def neighbourhoods(patches: Array) -> Array:
    """Each patch with its eight neighbours, zeros outside: `[B, R, C, D]` -> `[B, R C, 9 D]`."""
    batch, rows, columns, _ = patches.shape
    padded = jnp.pad(patches, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, down : down + rows, right : right + columns] for down in range(3) for right in range(3)]
    return jnp.concatenate(shifted, axis=-1).reshape(batch, rows * columns, -1)
