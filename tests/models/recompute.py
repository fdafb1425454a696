"""The transformer once more: all frames in one plain causal pass, from raw parameters, without any cache."""

import jax
import jax.numpy as jnp

from learnmax_jax.models.dynamics import Node
from learnmax_jax.models.world_model import ModelParams, WorldModel
from learnmax_jax.types import Array
from tests.models import tiny

JOYSTICK = ("UP", "RIGHT", "LEFT", "DOWN", "FIRE")


def _norm(x: Array, params: dict) -> Array:
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * params["scale"].reshape(1, 1, -1)


def _dense(x: Array, params: dict) -> Array:
    return x @ params["kernel"] + (params["bias"].reshape(1, 1, -1) if "bias" in params else 0.0)


def _turn(x: Array, position: Array) -> Array:
    """Rotary encoding as multiplication of complex numbers; `x [B, Q, heads, head_dim]`, `position [Q]`."""
    half = x.shape[-1] // 2
    angle = position[:, None] / 10_000 ** (jnp.arange(half) / half)[None]
    turned = jax.lax.complex(x[..., :half], x[..., half:]) * jnp.exp(1j * angle)[None, :, None]
    return jnp.concatenate([turned.real, turned.imag], axis=-1)


def _position(network: dict, num_tokens: int) -> Array:
    """What each of N tokens gets for its place, one token at a time; a whole-frame token is number 0."""
    if "row_position" in network:
        patches = [row + column for row in network["row_position"] for column in network["column_position"]]
        return jnp.stack([*network.get("anchor_position", []), *patches])
    return network.get("token_position", jnp.zeros((num_tokens, 1)))


def _actions(network: dict) -> Array:
    """A row an action, the last for none yet."""
    if "actions" in network:
        return network["actions"]
    *switches, none_yet = network["joystick"]
    rows = [
        sum((vector for word, vector in zip(JOYSTICK, switches, strict=True) if word in name), 0 * none_yet)
        for name in tiny.ACTION_NAMES[:4]
    ]
    return jnp.stack([*rows, none_yet])


def _whiten(vectors: Array) -> Array:
    """By the polar factor: U V^T of `[V, d]` centred codes has orthonormal columns."""
    left, _, right = jnp.linalg.svd(vectors - vectors.mean(axis=1, keepdims=True), full_matrices=False)
    return jnp.sqrt(vectors.shape[1]) * left @ right


def embed(
    params: ModelParams, codes: Array, action: Array, *, whitened: bool = False, action_token: bool = False
) -> Array:
    """Inputs `[B, F, M, D]` of code distributions `[B, F, N, G, V]` and the actions that led there `[B, F]`."""
    network = params.network["dynamics"]
    table = network.get("learned_codes", 0.0)
    if "quantised_codes" in network:
        vectors = _whiten(params.tokenizer) if whitened else params.tokenizer
        quantised = jnp.einsum("gvd,gdw->gvw", vectors, network["quantised_codes"]["kernel"])
        gate = jnp.tanh(network["code_gate"]) if "code_gate" in network else jnp.ones(quantised.shape[-1])
        table = table + gate[None, None] * quantised
    summed = jnp.einsum("bfngv,gvw->bfnw", codes, table)
    summed = summed + _position(network, codes.shape[2])[None, None]
    led_here = _actions(network)[action][:, :, None]
    return jnp.concatenate([summed, led_here], axis=2) if action_token else summed + led_here


def latents(params: ModelParams, inputs: Array, first: Array, *, num_heads: int) -> Array:
    """Outputs `[B, F, M, D]` of `inputs [B, F, M, D]` and `first [B, F]`."""
    network = params.network["dynamics"]
    batch, frames, tokens, width = inputs.shape
    x = inputs.reshape(batch, frames * tokens, width)
    frame = jnp.arange(frames * tokens) // tokens
    # Frame i sees frame j <= i where no frame in j + 1 .. i opens an episode.
    opened = jnp.cumsum(first, axis=1)[:, frame]
    between = opened[:, :, None] - opened[:, None, :]
    visible = (frame[None, :, None] >= frame[None, None, :]) & (between == 0)
    for layer in range(sum(name.startswith("block_") for name in network)):
        block = network[f"block_{layer}"]
        qkv = _dense(_norm(x, block["attention_norm"]), block["query_key_value"])
        query, key, value = (part.reshape(batch, frames * tokens, num_heads, -1) for part in jnp.split(qkv, 3, axis=-1))
        query, key = _turn(query, frame), _turn(key, frame)
        logits = jnp.einsum("bqhd,bshd->bhqs", query, key) / jnp.sqrt(query.shape[-1])
        weights = jax.nn.softmax(jnp.where(visible[:, None], logits, -jnp.inf), axis=-1)
        x = x + _dense(jnp.einsum("bhqs,bshd->bqhd", weights, value).reshape(x.shape), block["out"])
        x = x + _dense(jax.nn.gelu(_dense(_norm(x, block["mlp_norm"]), block["up"])), block["down"])
    return _norm(x, network["final_norm"]).reshape(inputs.shape)


def imagine(
    world_model: WorldModel,
    params: ModelParams,
    codes: Array,
    action: Array,
    first: Array,
    actions: Array,
    *,
    num_codes: int,
    num_heads: int,
    **switches: bool,
) -> tuple[Array, Array]:
    """Runs every frame anew for each of the K imagined steps.

    Args:
      codes: `[B, T, N, G]`, action: `[B, T]`, first: `[B, T]`: the real frames, the root last.
      actions: `[B, K]`.
      num_codes, num_heads: V and heads.
      switches: of `embed`.
    Returns:
      (latents `[B, K, N, D]`, their codes' distributions `[B, K, N, G, V]`).
    """
    time, tokens, steps = *codes.shape[1:3], actions.shape[1]
    real = jax.nn.one_hot(codes, num_codes)
    # Room for what is imagined; a causal pass never looks at the frames that are still empty.
    inputs = jnp.pad(embed(params, real, action, **switches), ((0, 0), (0, steps), (0, 0), (0, 0)))
    first = jnp.pad(first, ((0, 0), (0, steps)))

    def moment(carry: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        inputs, now = carry
        latent = latents(params, inputs, first, num_heads=num_heads)[:, time - 1 + k, :tokens]
        node = Node(latent, now, (), (), jnp.zeros(latent.shape[0], jnp.int32))
        taken = actions[:, jnp.minimum(k, steps - 1)]
        following = jax.nn.softmax(world_model.outcome(params, node, taken, None).code_logits, axis=-1)
        frame = embed(params, following[:, None], taken[:, None], **switches)[:, 0]
        return (inputs.at[:, time + k].set(frame, mode="drop"), following), (latent, now)

    _, history = jax.lax.scan(moment, (inputs, real[:, -1]), jnp.arange(steps + 1))
    seen, shown = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1)[:, 1:], history)
    return seen, shown
