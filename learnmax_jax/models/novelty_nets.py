"""Networks of exploration: one whose output shrinks with visits, one that sees what actions control, and an ensemble
whose members come to agree.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from learnmax_jax.types import Array


class FlipNet(nn.Module):
    """Regresses coin flips on features of a frame; a frozen random net is added.

    Parameters whose name begins with "frozen" are not trained. The prior's output has length sqrt(num_flips), so that
    the trained part, which starts at zero, begins with the answer of a frame that was seen once.
    Source: Lobel et al. 2023, https://arxiv.org/abs/2306.03186
    """

    width: int
    num_flips: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """`features [..., F]` float32, whitened, to `[..., num_flips]`."""
        hidden = nn.silu(nn.Dense(self.width)(features))
        hidden = nn.silu(nn.Dense(self.width)(hidden))
        trained = nn.Dense(self.num_flips, kernel_init=nn.initializers.zeros)(hidden)
        # With a bias, so that a frame whose features are all at their means has a prior, too.
        first = nn.Dense(self.width, bias_init=nn.initializers.normal(1.0), name="frozen_first")
        prior = nn.Dense(self.num_flips, use_bias=False, name="frozen_last")(nn.silu(first(features)))
        return trained + prior * jax.lax.rsqrt(jnp.mean(prior**2, axis=-1, keepdims=True) + 1e-8)


class InverseNet(nn.Module):
    """Tells which action led from one frame to the next, by few features of each: what no action moves is left out.

    Source: Pathak et al. 2017, https://arxiv.org/abs/1705.05363; as an embedding for counts, Badia et al. 2020 (NGU),
    https://arxiv.org/abs/2002.06038
    """

    width: int
    num_features: int
    num_actions: int

    def setup(self) -> None:
        """Makes the layers."""
        self.hidden = nn.Dense(self.width)
        self.features = nn.Dense(self.num_features)
        self.compare = nn.Dense(self.width)
        self.answer = nn.Dense(self.num_actions)

    def embed(self, cells: Array) -> Array:
        """`cells [..., cells]` float, whitened, to features in (-1, 1) `[..., F]`."""
        return jnp.tanh(self.features(nn.silu(self.hidden(cells))))

    def __call__(self, cells: Array, following: Array) -> Array:
        """Cells of a frame and of the next one, both `[..., cells]`, to logits of the action `[..., A]`."""
        pair = jnp.concatenate([self.embed(cells), self.embed(following)], axis=-1)
        return self.answer(nn.silu(self.compare(pair)))


class _Member(nn.Module):
    """Next codes and next value of (latent, action)."""

    num_actions: int
    num_groups: int
    num_codes: int
    width: int

    @nn.compact
    def __call__(self, latent: Array, action: Array) -> tuple[Array, Array]:
        hidden = nn.silu(nn.Dense(self.width)(latent) + nn.Embed(self.num_actions, self.width)(action)[..., None, :])
        hidden = nn.silu(nn.Dense(self.width)(hidden))
        codes = nn.Dense(self.num_groups * self.num_codes)(hidden)
        value = nn.Dense(1)(hidden.mean(axis=-2))[..., 0]
        return codes.reshape(*hidden.shape[:-1], self.num_groups, self.num_codes), value


class Ensemble(nn.Module):
    """K members, each a trained net plus a frozen random one of its own, times `prior_scale`.

    Parameters below "frozen_prior" are not trained.
    Source: Osband et al. 2018, https://arxiv.org/abs/1806.03335
    """

    num_members: int
    num_actions: int
    num_groups: int
    num_codes: int
    width: int
    prior_scale: float

    @nn.compact
    def __call__(self, latent: Array, action: Array) -> tuple[Array, Array]:
        """`latent [..., N, D]`, `action [...]` to code logits `[K, ..., N, G, V]` and values `[K, ...]`."""
        members = nn.vmap(
            _Member,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=self.num_members,
        )
        sizes = (self.num_actions, self.num_groups, self.num_codes, self.width)
        trained = members(*sizes, name="trained")(latent, action)
        prior = members(*sizes, name="frozen_prior")(latent, action)
        return jax.tree.map(lambda x, y: x + self.prior_scale * y, trained, prior)
