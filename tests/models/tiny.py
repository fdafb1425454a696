"""A world model that compiles in seconds, on a tokenizer that only cuts integers out of its frames."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.models.world_model import ModelParams, WorldModel, make_world_model

CODE_DIM = 3
# Their bits overlap, and the second is no sum of those before it.
ACTION_NAMES = ("NOOP", "UPFIRE", "UP", "RIGHTFIRE", "RIGHT", "LEFT")


def make_tokenizer(num_tokens: int, num_groups: int, num_codes: int) -> types.SimpleNamespace:
    """Codes are the integers of the frame's upper left corner; its state is the code vectors themselves.

    Several tokens are a grid of two rows; an odd number has a whole-frame token in front. Of a single token the groups
    are patches of two rows; an odd one stands behind them.
    """
    return types.SimpleNamespace(
        num_tokens=num_tokens,
        num_groups=num_groups,
        num_codes=num_codes,
        code_dim=CODE_DIM,
        grid=(0, 0) if num_tokens == 1 else (2, num_tokens // 2),
        patches=(2, num_groups // 2),
        code_vectors=lambda state: state,
        tokenise=lambda state, frames: frames[:, :num_tokens, :num_groups, 0].astype(jnp.int32) % num_codes,
        decode=lambda state, codes: codes[..., None].astype(jnp.float32),
        decode_mean=lambda state, chances: chances @ jnp.arange(num_codes, dtype=jnp.float32)[:, None],
    )


def make(
    *,
    num_tokens: int = 1,
    num_groups: int = 2,
    num_codes: int = 5,
    num_actions: int = 4,
    num_bins: int = 11,
    num_heads: int = 2,
    code_input: str = "both",
    action_input: str = "sum",
    action_embedding: str = "atomic",
    action_norm: float = 1.0,
    token_position: str = "learned",
    code_head: str = "whole",
    feedback: str = "expected",
    num_outcomes: int = 0,
    dtype: str = "float32",
    seed: int = 0,
) -> tuple[WorldModel, ModelParams]:
    """The bundle, and random parameters: those of `init` have output layers of 0, which would hide mistakes."""
    world_model = make_world_model(
        make_tokenizer(num_tokens, num_groups, num_codes),
        num_actions=num_actions,
        num_bins=num_bins,
        width=16,
        num_layers=2,
        num_heads=num_heads,
        mlp_width=32,
        head_width=24,
        code_input=code_input,
        action_input=action_input,
        action_embedding=action_embedding,
        action_norm=action_norm,
        action_names=ACTION_NAMES[:num_actions],
        token_position=token_position,
        code_head=code_head,
        feedback=feedback,
        num_outcomes=num_outcomes,
        dtype=dtype,
    )
    frames = jnp.zeros((1, num_tokens, num_groups, 1), jnp.uint8)
    rng = np.random.default_rng(seed)
    code_vectors = jnp.asarray(rng.normal(size=(num_groups, num_codes, CODE_DIM)), jnp.float32)
    shapes = jax.eval_shape(world_model.init, jax.random.key(0), frames, code_vectors)

    def draw(path: tuple, spec: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.normal(size=spec.shape)
        if path[-1].key == "kernel":
            noise /= np.sqrt(spec.shape[-2])
        if path[-1].key == "scale":
            noise = 1 + 0.3 * noise
        return jnp.asarray(noise, spec.dtype)

    network = jax.tree_util.tree_map_with_path(draw, shapes.network)
    return world_model, ModelParams(network=network, tokenizer=code_vectors)
