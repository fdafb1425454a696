"""The world model: the bundle of pure functions that search, losses and probes use.

Nothing outside this room sees a network, so another model can stand behind the same
functions. Parameters are an argument everywhere: acting passes the online ones,
targets pass their moving average.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from learnmax_jax.models import joystick
from learnmax_jax.models.dynamics import Context, Dynamics, Node
from learnmax_jax.models.heads import PredictionHead, TransitionHead
from learnmax_jax.models.tokenizer import Tokenizer, TokenizerState
from learnmax_jax.types import Array, Outcome, Params, Prediction

SWITCHES = {
    "code_input": ("learned", "quantised", "whitened", "both"),
    "action_input": ("sum", "token"),
    "action_embedding": ("atomic", "compositional"),
    "token_position": ("learned", "rows_columns", "none"),
    "code_head": ("whole", "patches"),
    "feedback": ("expected", "argmax"),
    "dtype": ("float32", "bfloat16"),
}


@struct.dataclass
class ModelParams:
    """All that the bundle's functions need of learned state.

    Attributes:
      network: the transformer's and the heads' parameters.
      tokenizer: TokenizerState; the functions here use its slow copy.
    """

    network: Params
    tokenizer: TokenizerState


class Network(nn.Module):
    """Transformer and heads under one roof; methods are the traced calls."""

    dynamics: Dynamics
    prediction: PredictionHead
    transition: TransitionHead

    def context(
        self, codes: Array, action: Array, first: Array, code_vectors: Array, *, capacity: int
    ) -> tuple[Context, Array]:
        return self.dynamics.context(codes, action, first, code_vectors, capacity=capacity)

    def extend(
        self, context: Context, codes: Array, action: Array, first: Array, code_vectors: Array
    ) -> tuple[Context, Array]:
        return self.dynamics.extend(context, codes, action, first, code_vectors)

    def predict(self, latent: Array, beta: Array) -> Prediction:
        return self.prediction(latent.mean(axis=1), beta)

    def outcome(self, latent: Array, action: Array, codes: Array, chance: Array | None) -> Outcome:
        return self.transition(latent, action, codes, chance)

    def imagine(self, context: Context, node: Node, codes: Array, action: Array, code_vectors: Array) -> Node:
        return self.dynamics.imagine(context, node, codes, action, code_vectors)

    def infer_chance(self, latent: Array, action: Array, codes: Array, code_vectors: Array) -> Array:
        embedding = self.dynamics._embed_codes(self.dynamics.code_table(code_vectors), codes).mean(axis=1)
        return self.transition.infer_chance(latent, action, embedding)

    def code_table(self, code_vectors: Array) -> Array:
        return self.dynamics.code_table(code_vectors)

    def everything(self, codes: Array, code_vectors: Array) -> Array:
        """Touches every parameter once, for `init`; `codes [B, N, G]`."""
        batch = codes.shape[0]
        action, beta = jnp.zeros((batch,), jnp.int32), jnp.zeros((batch,))
        _, latents = self.context(codes[:, None], action[:, None], jnp.ones((batch, 1), bool), code_vectors, capacity=1)
        latent = latents[:, 0]
        one_hot = jax.nn.one_hot(codes, self.dynamics.num_codes)
        outcome = self.outcome(latent, action, one_hot, None)
        if self.transition.num_outcomes:
            self.infer_chance(latent, action, codes, code_vectors)
        return self.predict(latent, beta).policy_logits.sum() + outcome.reward_logits.sum()


@dataclasses.dataclass(frozen=True)
class WorldModel:
    """The frozen bundle; shapes as in types.py, `[B, ...]` throughout.

    Attributes:
      num_actions: A. num_outcomes: O, 0 where chance is off.
      init: (rng_key, observation `[B, H, W, C]`, tokenizer state) -> ModelParams.
      tokenise: (params, observation `[B, H, W, C]` uint8) -> codes `[B, N, G]`.
      decode: (params, codes `[B, N, G]`) -> `[B, H, W, C]` float in 0..255.
      decode_mean: (params, chances `[B, N, G, V]` of each code) -> `[B, H, W, C]`, the picture of their mean.
      context: (params, codes `[B, T, N, G]`, action `[B, T]`, first `[B, T]`, *, capacity) -> (Context, latents
        `[B, T, N, D]`); action[t] is the one that led to frame t, `num_actions` where there was none.
      extend: (params, Context, codes `[B, N, G]`, action `[B]`, first `[B]`) -> (Context, latent `[B, N, D]`).
      root: (latent `[B, N, D]`, codes `[B, N, G]`, *, max_depth) -> Node at an observed frame.
      predict: (params, latent `[B, N, D]`, beta `[B]`) -> Prediction.
      outcome: (params, Node, action `[B]`, chance `[B, O]` or None) -> Outcome.
      step: (params, Context, Node, action `[B]`, chance) -> (Node, Outcome); what a tree's edge and
        the open-loop loss both call.
      imagine: (params, Context, Node, codes `[B, N, G, V]` float, action `[B]`) -> Node; `step` with the next frame's
        codes told.
      unroll: (params, Context, Node, actions `[B, K]`, chance `[B, K, O]` or None) -> (Node, latents
        `[B, K, N, D]`, Outcome `[B, K, ...]`).
      infer_chance: (params, latent, action, next codes `[B, N, G]`) -> posterior logits `[B, O]`.
      code_table: params -> `[G, V, D]`, what each code adds to its token.
    """

    num_actions: int
    num_outcomes: int
    init: Callable
    tokenise: Callable
    decode: Callable
    decode_mean: Callable
    context: Callable
    extend: Callable
    root: Callable
    predict: Callable
    outcome: Callable
    step: Callable
    imagine: Callable
    unroll: Callable
    infer_chance: Callable
    code_table: Callable


def is_head(params: Params) -> Params:
    """For every leaf of the network's parameters, whether it is of a head: what is said of latents, not the latents.

    Policy, values and Q whole; of rewards and continuation, which share their hidden layer with what predicts the next
    codes, the last layers. The transformer and what predicts the next codes are none.
    """
    heads = ("prediction",), *(("transition", name) for name in ("reward", "intrinsic", "continuation"))

    def of_head(path: tuple[Any, ...], _: Any) -> bool:
        names = tuple(key.key for key in path)
        return any(names[: len(head)] == head for head in heads)

    return jax.tree_util.tree_map_with_path(of_head, params)


def make_world_model(
    tokenizer: Tokenizer,
    *,
    num_actions: int,
    num_bins: int,
    width: int,
    num_layers: int,
    num_heads: int,
    mlp_width: int,
    head_width: int,
    code_input: str,
    action_input: str,
    action_embedding: str,
    action_norm: float,
    token_position: str,
    code_head: str,
    feedback: str,
    num_outcomes: int,
    dtype: str,
    action_names: Sequence[str] = (),
) -> WorldModel:
    """Builds the bundle for one tokenizer and one set of sizes.

    Args:
      tokenizer: gives N, G, V and the codes.
      num_actions: A.
      num_bins: S of every two-hot head.
      width, num_layers, num_heads, mlp_width: of the transformer; heads must divide width.
      head_width: hidden width of the heads.
      code_input: "learned", "quantised", "whitened" or "both".
      action_input: "sum" (added to every token) or "token" (a slot of its own in the frame's block).
      action_embedding: "atomic" (a vector each) or "compositional" (the sum of the joystick switches it closes).
      action_norm: length at the start of the vector that an action (a switch) adds to the transition head's hidden
        units, 2 head_width of them, to which a latent adds one of length sqrt(2 head_width).
      token_position: "learned", "rows_columns" or "none"; one token a frame has no places: "learned" only.
      code_head: "whole" (next codes from the latent) or "patches" (each patch's from those round it too; of a grid).
      feedback: what a predicted frame feeds back: "expected" (mean embedding under the marginals) or
        "argmax" (straight-through).
      num_outcomes: O, how many outcomes chance may pick between; 0 turns it off.
      dtype: of the large products, "float32" or "bfloat16"; everything else, parameters too, is float32.
      action_names: the environment's, A of them; only "compositional" reads them.
    Raises:
      ValueError: sizes that do not fit or an unknown switch.
    """
    switches = {
        "code_input": code_input,
        "action_input": action_input,
        "action_embedding": action_embedding,
        "token_position": token_position,
        "code_head": code_head,
        "feedback": feedback,
        "dtype": dtype,
    }
    _check(tokenizer, width, num_heads, switches)
    bits = None
    if action_embedding == "compositional":
        bits = joystick.action_bits(action_names)
        chex.assert_equal(len(bits), num_actions)
    network = Network(
        dynamics=Dynamics(
            num_tokens=tokenizer.num_tokens,
            num_groups=tokenizer.num_groups,
            num_codes=tokenizer.num_codes,
            num_actions=num_actions,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_width=mlp_width,
            code_input=code_input,
            action_input=action_input,
            action_bits=bits,
            token_position=token_position,
            dtype=dtype,
            grid=tokenizer.grid,
        ),
        prediction=PredictionHead(num_actions=num_actions, num_bins=num_bins, head_width=head_width, dtype=dtype),
        transition=TransitionHead(
            num_actions=num_actions,
            num_groups=tokenizer.num_groups,
            num_codes=tokenizer.num_codes,
            num_bins=num_bins,
            num_outcomes=num_outcomes,
            head_width=head_width,
            action_bits=bits,
            action_norm=action_norm,
            code_head=code_head,
            dtype=dtype,
            patches=tokenizer.patches,
        ),
    )
    slots = tokenizer.num_tokens + (action_input == "token")
    apply = partial(_apply, network, tokenizer)
    step = partial(_step, network, apply, feedback)
    return WorldModel(
        num_actions=num_actions,
        num_outcomes=num_outcomes,
        init=partial(_init, network, tokenizer),
        tokenise=lambda params, observation: tokenizer.tokenise(params.tokenizer, observation),
        decode=lambda params, codes: tokenizer.decode(params.tokenizer, codes),
        decode_mean=lambda params, chances: tokenizer.decode_mean(params.tokenizer, chances),
        context=partial(apply, "context"),
        extend=partial(apply, "extend"),
        root=partial(_root, tokenizer.num_codes, slots, num_layers, num_heads),
        predict=lambda params, latent, beta: network.apply(
            {"params": params.network}, latent, beta, method=Network.predict
        ),
        outcome=partial(_outcome, network),
        step=step,
        imagine=partial(apply, "imagine"),
        unroll=partial(_unroll, step),
        infer_chance=partial(apply, "infer_chance"),
        code_table=partial(apply, "code_table"),
    )


def _check(tokenizer: Tokenizer, width: int, num_heads: int, switches: dict[str, str]) -> None:
    """Raises a ValueError that names the field if `make_world_model` cannot be built of these."""
    if width % num_heads or (width // num_heads) % 2:
        raise ValueError(
            f"dynamics.num_heads={num_heads}: head_dim must be even. Allowed: even divisions of width={width}."
        )
    for field, value in switches.items():
        if value not in SWITCHES[field]:
            raise ValueError(f"dynamics.{field}={value}: unknown. Allowed: {', '.join(SWITCHES[field])}.")
    if tokenizer.num_tokens == 1 and switches["token_position"] != "learned":
        raise ValueError(
            f"dynamics.token_position={switches['token_position']}: a frame of one token has no places to tell apart. "
            "Allowed: learned. Nearest: learned"
        )
    if switches["code_head"] == "patches" and tokenizer.patches == (0, 0):
        raise ValueError(
            f"dynamics.code_head={switches['code_head']}: the codes of a frame's token stand for no patches. "
            "Allowed: whole, or tokenizer.layout grid. Nearest: whole"
        )


def _init(
    network: Network, tokenizer: Tokenizer, rng_key: Array, observation: Array, state: TokenizerState
) -> ModelParams:
    codes = tokenizer.tokenise(state, observation)
    variables = network.init(rng_key, codes, tokenizer.code_vectors(state), method=Network.everything)
    return ModelParams(network=variables["params"], tokenizer=state)


def _apply(network: Network, tokenizer: Tokenizer, method: str, params: ModelParams, *args: Any, **kwargs: Any) -> Any:
    """Calls a method of the network that embeds codes."""
    vectors = tokenizer.code_vectors(params.tokenizer)
    return network.apply({"params": params.network}, *args, vectors, method=method, **kwargs)


def _root(
    num_codes: int, slots: int, num_layers: int, num_heads: int, latent: Array, codes: Array, *, max_depth: int
) -> Node:
    batch, _, width = latent.shape
    empty = (jnp.zeros((batch, num_heads, max_depth, slots, width // num_heads), latent.dtype),) * num_layers
    one_hot = jax.nn.one_hot(codes, num_codes, dtype=latent.dtype)
    return Node(latent, one_hot, empty, empty, jnp.zeros((batch,), jnp.int32))


def _outcome(network: Network, params: ModelParams, node: Node, action: Array, chance: Array | None) -> Outcome:
    variables = {"params": params.network}
    return network.apply(variables, node.latent, action, node.codes, chance, method=Network.outcome)


def _step(
    network: Network,
    apply: Callable,
    feedback: str,
    params: ModelParams,
    context: Context,
    node: Node,
    action: Array,
    chance: Array | None,
) -> tuple[Node, Outcome]:
    outcome = _outcome(network, params, node, action, chance)
    codes = jax.nn.softmax(outcome.code_logits, axis=-1)
    if feedback == "argmax":
        hard = jax.nn.one_hot(jnp.argmax(codes, axis=-1), codes.shape[-1], dtype=codes.dtype)
        codes = codes + jax.lax.stop_gradient(hard - codes)
    return apply("imagine", params, context, node, codes, action), outcome


def _unroll(
    step: Callable, params: ModelParams, context: Context, node: Node, actions: Array, chance: Array | None
) -> tuple[Node, Array, Outcome]:
    def one(node: Node, inputs: tuple[Array, Array | None]) -> tuple[Node, tuple[Array, Outcome]]:
        node, outcome = step(params, context, node, *inputs)
        return node, (node.latent, outcome)

    by_time = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (actions, chance))
    node, history = jax.lax.scan(one, node, by_time)
    latents, outcomes = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), history)
    return node, latents, outcomes
