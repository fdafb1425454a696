"""The next frame's codes: from the latent alone, or for every patch from what is round it.

What happens in a patch depends on the patch and its neighbours, on the action, and on what only
the latent knows (which way things move). A head that reads a patch's neighbourhood and is the same for all
patches learns a step once for all places; one from the latent alone learns it for each.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from learnmax_jax.types import Array

CODE_HEADS = ("whole", "patches")


class WholeCodeHead(nn.Module):
    """All groups' logits from the hidden units, `[B, N, H]`, codes `[B, N, G, V]` -> `[B, N, G, V]`."""

    num_groups: int
    num_codes: int

    @nn.compact
    def __call__(self, hidden: Array, codes: Array) -> Array:
        size, small = self.num_groups * self.num_codes, nn.initializers.normal(0.02)
        evidence = nn.Dense(size, kernel_init=small, name="codes")(hidden)
        return evidence.reshape(codes.shape) + _keep(self.num_groups, name="keep")(hidden)[..., None] * codes


class PatchCodeHead(nn.Module):
    """Logits of every patch's groups from its 3x3 neighbourhood and the hidden units.

    The first rows * columns * g groups are the patches', in reading order; those behind them (the room's) are read off
    the hidden units alone. Hidden units `[B, 1, H]`, codes `[B, 1, G, V]` float -> `[B, 1, G, V]`.

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
        evidence = nn.Dense(inputs, kernel_init=nn.initializers.normal(0.02), name="codes")(x)
        stays = _keep(self.groups_a_patch, name="keep")(x)
        logits = evidence.reshape(-1, self.groups_a_patch, num_codes) + stays[..., None] * of_patches.reshape(
            -1, self.groups_a_patch, num_codes
        )
        logits = logits.reshape(batch, 1, -1, num_codes)
        rest = num_groups - logits.shape[2]
        if not rest:
            return logits
        others = WholeCodeHead(rest, num_codes, name="others")(hidden, codes[:, :, -rest:])
        return jnp.concatenate([logits, others], axis=2)


def neighbourhoods(patches: Array) -> Array:
    """Each patch with its eight neighbours, zeros outside: `[B, R, C, D]` -> `[B, R C, 9 D]`."""
    batch, rows, columns, _ = patches.shape
    padded = jnp.pad(patches, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, down : down + rows, right : right + columns] for down in range(3) for right in range(3)]
    return jnp.concatenate(shifted, axis=-1).reshape(batch, rows * columns, -1)


def _keep(num_groups: int, name: str) -> nn.Dense:
    """How strongly each group's present code is pushed: much, at first."""
    zeros, much = nn.initializers.zeros, nn.initializers.constant(4.0)
    return nn.Dense(num_groups, kernel_init=zeros, bias_init=much, name=name)
