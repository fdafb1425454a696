"""The model rolled open loop through actions that were taken, beside what came and what it says one step ahead."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct

from learnmax_jax.models.dynamics import Context
from learnmax_jax.models.world_model import ModelParams, WorldModel
from learnmax_jax.types import Array, Batch, Transition


@struct.dataclass
class Rollout:
    """K frames after a context, `[B, K, ...]`.

    Attributes:
      codes: `[B, K, N, G]` int32, of the frames that came.
      last_codes: `[B, N, G]` int32, of the last frame of the context.
      predicted: `[B, K, N, G]` int32, the likeliest codes, K steps open loop.
      mean_frames: `[B, K, H, W, C]` in 0..255, the picture of all that is held possible: of the codes' mean vectors.
      nats: `[B, K]`, cross-entropy of `codes` under the open-loop prediction, mean over tokens and groups.
      forced_nats: `[B, K]`, the same where every frame before is the true one, all in one pass, as in training.
      rolling_nats: `[B, K]`, the same where true frames are appended one by one, as in acting; a difference from
        forced_nats is a fault of the code.
      end_nats: `[B, K]`, cross-entropy of whether each step ended the episode, open loop.
      latents: `[B, K, N, D]`, imagined.
      forced_latents: `[B, K, N, D]`, of the true frames.
    """

    codes: Array
    last_codes: Array
    predicted: Array
    mean_frames: Array
    nats: Array
    forced_nats: Array
    rolling_nats: Array
    end_nats: Array
    latents: Array
    forced_latents: Array


def roll_out(
    params: ModelParams, batch: Batch, *, world_model: WorldModel, context_frames: int, unroll_steps: int
) -> Rollout:
    """Rolls the model through a batch's actions, by the very step that search and training use.

    Args:
      params: of the model.
      batch: windows `[B, L + 1, ...]`; only those whose first context_frames + unroll_steps rows are of one
        episode make sense.
      world_model: the bundle.
      context_frames: real frames the model sees first.
      unroll_steps: K.
    """
    length = context_frames + unroll_steps
    rows, codes, led_here = _window(params, batch, world_model, length)
    # What lies ahead is masked by causality: one pass serves the forced prediction and every context.
    context, latents = world_model.context(params, codes, led_here, rows.first, capacity=length)
    ahead, before = codes[:, context_frames:], slice(context_frames - 1, length - 1)
    told_from = partial(_told_from, world_model, params, codes[:, before], rows.action[:, before], ahead)
    node = world_model.root(latents[:, context_frames - 1], codes[:, context_frames - 1], max_depth=unroll_steps)
    context = context.replace(length=jnp.full_like(context.length, context_frames))

    def append(context: Context, frame: tuple[Array, Array, Array]) -> tuple[Context, Array]:
        return world_model.extend(params, context, *frame)

    appended = jax.tree.map(lambda x: jnp.moveaxis(x[:, context_frames:-1], 1, 0), (codes, led_here, rows.first))
    _, rolling = jax.lax.scan(append, context, appended)
    rolling = jnp.concatenate([latents[:, context_frames - 1, None], jnp.moveaxis(rolling, 0, 1)], axis=1)
    _, imagined, outcome = world_model.unroll(params, context, node, rows.action[:, before], None)
    chances = jax.nn.softmax(outcome.code_logits, axis=-1)
    mean_frames = world_model.decode_mean(params, chances.reshape(-1, *chances.shape[2:]))
    return Rollout(
        codes=ahead,
        last_codes=codes[:, context_frames - 1],
        predicted=jnp.argmax(outcome.code_logits, axis=-1).astype(jnp.int32),
        mean_frames=mean_frames.reshape(*chances.shape[:2], *mean_frames.shape[1:]),
        nats=nats(outcome.code_logits, ahead),
        forced_nats=told_from(latents[:, before]),
        rolling_nats=told_from(rolling),
        end_nats=optax.sigmoid_binary_cross_entropy(outcome.continuation_logit, rows.discount[:, before]),
        latents=imagined,
        forced_latents=latents[:, context_frames:],
    )


def forced_nats(
    params: ModelParams,
    batch: Batch,
    actions: Array,
    *,
    world_model: WorldModel,
    context_frames: int,
    unroll_steps: int,
) -> Array:
    """`Rollout.forced_nats` with other actions asked about, `[B, K]`; all that led to each frame stays as it was.

    Args:
      params, batch, world_model, context_frames, unroll_steps: as of `roll_out`.
      actions: `[B, K]` int32, in place of those that were taken at the K frames.
    """
    length = context_frames + unroll_steps
    rows, codes, led_here = _window(params, batch, world_model, length)
    _, latents = world_model.context(params, codes, led_here, rows.first, capacity=length)
    before = slice(context_frames - 1, length - 1)
    return _told_from(world_model, params, codes[:, before], actions, codes[:, context_frames:], latents[:, before])


def wrong_action_ratio(params: ModelParams, batch: Batch, *, world_model: WorldModel) -> Array:
    """Loss of the next codes with another action asked about, over that with the one taken: 1 if the model knows none.

    Of the steps that change the frame and that another window's action, at the same row, is asked about in place of
    their own; all frames, and the actions between them, stay as they were.

    Args:
      params: of the model.
      batch: windows `[B, L + 1, ...]`, B at least 2.
      world_model: the bundle.
    Returns:
      `[]`; NaN where there is no such step.
    """
    rows, codes, led_here = _window(params, batch, world_model, batch.mask.shape[1])
    _, latents = world_model.context(params, codes, led_here, rows.first, capacity=batch.mask.shape[1])
    taken = rows.action[:, :-1]
    asked = jnp.roll(taken, 1, axis=0)
    changes = (codes[:, 1:] != codes[:, :-1]).any(axis=(-2, -1))
    telling = changes & rows.valid[:, :-1] & (asked != taken)
    true, wrong = (
        jnp.sum(telling * _told_from(world_model, params, codes[:, :-1], actions, codes[:, 1:], latents[:, :-1]))
        for actions in (taken, asked)
    )
    return wrong / true


def _window(params: ModelParams, batch: Batch, world_model: WorldModel, length: int) -> tuple[Transition, Array, Array]:
    """A batch's first rows `[B, length, ...]`, their codes `[B, length, N, G]`, and the actions that led to each."""
    rows = jax.tree.map(lambda x: x[:, :length], batch.rows)
    shape = rows.observation.shape
    codes = world_model.tokenise(params, rows.observation.reshape(-1, *shape[2:]))
    unknown = jnp.full_like(rows.action[:, :1], world_model.num_actions)
    led_here = jnp.concatenate([unknown, rows.action[:, :-1]], axis=1)
    led_here = jnp.where(rows.first, world_model.num_actions, led_here)
    return rows, codes.reshape(*shape[:2], *codes.shape[1:]), led_here


def _told_from(
    world_model: WorldModel, params: ModelParams, codes: Array, actions: Array, ahead: Array, latents: Array
) -> Array:
    """Nats `[B, K]` of the next codes `ahead`, from the latents `[B, K, N, D]` and codes of the frames before them."""
    flat = latents.reshape(-1, *latents.shape[2:])
    root = world_model.root(flat, codes.reshape(-1, *codes.shape[2:]), max_depth=0)
    logits = world_model.outcome(params, root, actions.reshape(-1), None).code_logits
    return nats(logits.reshape(*ahead.shape, -1), ahead)


def nats(logits: Array, codes: Array) -> Array:
    """Cross-entropy `[...]` of codes `[..., N, G]` under logits `[..., N, G, V]`, mean over tokens and groups."""
    likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), codes[..., None], axis=-1)
    return -likelihood[..., 0].mean(axis=(-2, -1))
