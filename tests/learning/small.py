"""A tokenizer and a world model that compile in seconds, with the numbers that all tests of learning share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.learning.losses import LossWeights
from learnmax_jax.learning.supervision import Supervision
from learnmax_jax.models.support import Support, inverse_rescale
from learnmax_jax.models.tokenizer import Tokenizer, make_tokenizer
from learnmax_jax.models.world_model import WorldModel, make_world_model

SUPPORT = Support(minimum=-3.0, maximum=3.0, num_bins=7)
EVERY_PART = LossWeights(
    codes=1.0,
    reward=1.0,
    intrinsic=1.0,
    continuation=1.0,
    policy=1.0,
    value=1.0,
    q=1.0,
    chance=1.0,
    open_loop=1.0,
    consistency=1.0,
)


def identity_tokenizer(*, num_groups: int, num_codes: int) -> Tokenizer:
    """Codes are the integers of `[B, 1, 1, num_groups]` frames."""
    return small_tokenizer(
        observation_shape=(1, 1, num_groups),
        quantizer="identity",
        num_groups=num_groups,
        num_codes=num_codes,
        code_dim=num_codes,
    )


def small_tokenizer(**changes: Any) -> Tokenizer:
    """Of 12x12 frames, four codes for each of two groups, unless changed."""
    sizes = {
        "observation_shape": (12, 12, 1),
        "layout": "frame",
        "quantizer": "vq_ema",
        "distance": "cosine",
        "num_groups": 2,
        "num_codes": 4,
        "code_dim": 3,
        "patch_size": 6,
        "width": 8,
        "num_blocks": 1,
        "token_hidden": 8,
        "channel_hidden": 8,
        "motion_weight": 3.0,
        "motion_threshold": 8.0,
        "background": "none",
        "num_medians": 2,
        "new_median_share": 0.3,
        "median_step": 1.0,
        "commitment": 0.25,
        "codebook_decay": 0.9,
        "kmeans_iterations": 1,
        "revive_below": 0.1,
        "revive_limit": 1,
        "revive_warmup": 1,
        "slow_decay": 0.9,
    }
    return make_tokenizer(**(sizes | changes))


def small_world_model(tokenizer: Tokenizer, *, num_actions: int, **changes: Any) -> WorldModel:
    sizes = {
        "num_bins": SUPPORT.num_bins,
        "width": 16,
        "num_layers": 1,
        "num_heads": 2,
        "mlp_width": 16,
        "head_width": 16,
        "code_input": "both",
        "action_input": "sum",
        "action_embedding": "atomic",
        "action_norm": 1.0,
        "token_position": "learned",
        "code_head": "whole",
        "feedback": "expected",
        "num_outcomes": 0,
        "dtype": "float32",
    }
    return make_world_model(tokenizer, num_actions=num_actions, **(sizes | changes))


def random_supervision(
    rng: np.random.Generator, *, batch: int, length: int, num_groups: int, num_codes: int, num_actions: int
) -> Supervision:
    """Targets without any meaning, every row a transition; each is one bin, so that a loss of 0 can be reached."""
    actions = rng.integers(0, num_actions, size=(batch, length + 1))
    led_here = np.concatenate([np.full((batch, 1), num_actions), actions[:, :-1]], axis=1)

    def scalars(*shape: int) -> jax.Array:
        return inverse_rescale(jnp.asarray(rng.integers(-2, 3, size=shape), jnp.float32))

    return Supervision(
        codes=jnp.asarray(rng.integers(0, num_codes, size=(batch, length + 1, 1, num_groups)), jnp.int32),
        led_here=jnp.asarray(led_here, jnp.int32),
        action=jnp.asarray(actions[:, :-1], jnp.int32),
        first=jnp.zeros((batch, length + 1), bool).at[:, 0].set(True),
        beta=jnp.asarray(rng.random((batch, length + 1)), jnp.float32),
        played_at=jnp.asarray(rng.random((batch, length + 1)), jnp.float32),
        rewards=scalars(batch, length, 2),
        discount=jnp.asarray(rng.random((batch, length)) < 0.8, jnp.float32),
        policy=jax.nn.one_hot(rng.integers(0, num_actions, size=(batch, length + 1)), num_actions),
        values=scalars(batch, length + 1, 3),
        q=scalars(batch, length, 2),
        valid=jnp.ones((batch, length + 1), bool),
        absorbed=jnp.zeros((batch, length + 1, 2), bool),
        weights=jnp.ones(batch),
    )
