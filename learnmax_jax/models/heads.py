"""What is read off a latent: policy, values, Q; and what an action does to it."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from learnmax_jax.models.joystick import BITS
from learnmax_jax.models.patch_evidence import PatchEvidence
from learnmax_jax.types import Array, Outcome, Prediction

NUM_VALUES = 3  # extrinsic, intrinsic, short-horizon extrinsic
NUM_RETURNS = 2  # extrinsic, intrinsic


class PredictionHead(nn.Module):
    """Policy, values and Q of a latent, conditioned on beta.

    The output layers start at zero, so that an untrained net prefers no action and expects
    nothing (the support is symmetric about 0).
    """

    num_actions: int
    num_bins: int
    head_width: int
    dtype: str

    @nn.compact
    def __call__(self, latent: Array, beta: Array) -> Prediction:
        """`latent [B, D]`, `beta [B]` to Prediction."""
        # Continuous at 0, so that what explorers of a small beta learn, beta 0 has learned.
        root = jnp.sign(beta) * jnp.sqrt(jnp.abs(beta))
        wanting = jnp.stack([root, beta, (beta < 0).astype(beta.dtype)], axis=-1)
        from_latent = nn.Dense(self.head_width, dtype=self.dtype)(latent)
        hidden = jax.nn.silu(from_latent + nn.Dense(self.head_width, use_bias=False, dtype=self.dtype)(wanting))
        batch = latent.shape[0]

        def logits(features: int, name: str) -> Array:
            layer = nn.Dense(features, kernel_init=nn.initializers.zeros, dtype=self.dtype, name=name)
            return layer(hidden).astype(latent.dtype)

        policy = logits(self.num_actions, "policy")
        values = logits(NUM_VALUES * self.num_bins, "values")
        q = logits(NUM_RETURNS * self.num_actions * self.num_bins, "q")
        return Prediction(
            policy_logits=policy,
            value_logits=values.reshape(batch, NUM_VALUES, self.num_bins),
            q_logits=q.reshape(batch, NUM_RETURNS, self.num_actions, self.num_bins),
        )


class TransitionHead(nn.Module):
    """A gated MLP of (latent, action): reward, novelty, continuation and the next codes.

    Next codes are predicted as a change on the present ones: each group's logits are new
    evidence plus a learned push towards the code it already has. The evidence comes from the latent and, with
    `code_head` "patches", from what is round each patch (`patches` are the rows and columns of the grid). Where
    `action_bits` tells which of the joystick's BITS each action closes, an action is embedded as their sum. Vectors of
    actions or switches begin with length `action_norm`: at 1, as flax draws them, a latent adds sqrt(2 head_width)
    times as much, and what is predicted hardly hangs on the action for hundreds of updates.
    """

    num_actions: int
    num_groups: int
    num_codes: int
    num_bins: int
    num_outcomes: int
    head_width: int
    action_bits: tuple[tuple[int, ...], ...] | None
    action_norm: float
    code_head: str
    dtype: str
    patches: tuple[int, int]

    def setup(self) -> None:
        zeros = nn.initializers.zeros
        self.from_latent = nn.Dense(2 * self.head_width, dtype=self.dtype)
        of_norm = nn.initializers.variance_scaling(self.action_norm**2, "fan_in", "normal", out_axis=0)
        if self.action_bits is None:
            self.from_action = nn.Embed(self.num_actions, 2 * self.head_width, embedding_init=of_norm)
        else:
            self.from_joystick = nn.Embed(len(BITS), 2 * self.head_width, embedding_init=of_norm)
        self.reward = nn.Dense(self.num_bins, kernel_init=zeros)
        self.intrinsic = nn.Dense(self.num_bins, kernel_init=zeros)
        # Episodes are long: an untrained model should expect to live on.
        self.continuation = nn.Dense(1, kernel_init=zeros, bias_init=nn.initializers.constant(4.0))
        small = nn.initializers.normal(0.02)
        self.codes = nn.Dense(self.num_groups * self.num_codes, kernel_init=small, dtype=self.dtype)
        self.keep = nn.Dense(self.num_groups, kernel_init=zeros, bias_init=nn.initializers.constant(4.0))
        if self.code_head == "patches":
            rows, columns = self.patches
            self.of_patches = PatchEvidence(self.patches, self.num_groups // (rows * columns), self.head_width // 4)
        if self.num_outcomes:
            self.from_chance = nn.Embed(self.num_outcomes, 2 * self.head_width)
            self.prior = nn.Dense(self.num_outcomes, kernel_init=zeros)
            self.posterior_hidden = nn.Dense(self.head_width)
            self.posterior = nn.Dense(self.num_outcomes)

    def _of_action(self, action: Array) -> Array:
        """What `action [B]` adds to every token's hidden units, `[B, 2 * head_width]`."""
        if self.action_bits is None:
            return self.from_action(action)
        return (jnp.asarray(self.action_bits, jnp.float32) @ self.from_joystick.embedding)[action]

    def _gated(self, x: Array) -> Array:
        gate, value = jnp.split(x, 2, axis=-1)
        return jax.nn.silu(gate) * value

    def __call__(self, latent: Array, action: Array, codes: Array, chance: Array | None) -> Outcome:
        """What `action` does at `latent`.

        Args:
          latent: `[B, N, D]`.
          action: `[B]` int32.
          codes: `[B, N, G, V]` float, the present codes' distribution.
          chance: `[B, O]` one-hot of which outcome came; None takes the prior's most likely.
        """
        mixed = self.from_latent(latent).astype(latent.dtype) + self._of_action(action)[:, None]
        if self.num_outcomes:
            chance_logits = self.prior(self._gated(mixed.mean(axis=1)))
            if chance is None:
                chance = jax.nn.one_hot(jnp.argmax(chance_logits, axis=-1), self.num_outcomes)
            mixed = mixed + (chance @ self.from_chance.embedding)[:, None]
        else:
            chance_logits = jnp.zeros((latent.shape[0], 0))
        hidden = self._gated(mixed)
        pooled = hidden.mean(axis=1)
        evidence = self.codes(hidden).astype(latent.dtype).reshape(codes.shape)
        code_logits = evidence + self.keep(hidden)[..., None] * codes
        if self.code_head == "patches":
            code_logits = code_logits + self.of_patches(hidden, codes)
        return Outcome(
            reward_logits=self.reward(pooled),
            intrinsic_logits=self.intrinsic(pooled),
            continuation_logit=self.continuation(pooled)[:, 0],
            code_logits=code_logits,
            chance_logits=chance_logits,
        )

    def infer_chance(self, latent: Array, action: Array, next_embedding: Array) -> Array:
        """Posterior logits `[B, O]` of which outcome came, from the next frame's embedding `[B, D]`."""
        mixed = self._gated(self.from_latent(latent) + self._of_action(action)[:, None]).mean(axis=1)
        hidden = jax.nn.silu(self.posterior_hidden(jnp.concatenate([mixed, next_embedding], axis=-1)))
        return self.posterior(hidden)
