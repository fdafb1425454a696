"""The learner: one update of the world model and of the tokenizer from the replay."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from learnmax_jax.learning.losses import LossWeights, world_model_loss
from learnmax_jax.learning.supervision import Supervision
from learnmax_jax.models.support import Support
from learnmax_jax.models.tokenizer import Tokenizer, TokenizerState
from learnmax_jax.models.world_model import ModelParams, WorldModel, is_head
from learnmax_jax.types import Array, Batch, Metrics, Params, Supposed

# Of the tokenizer's metrics, these need no prefix to be understood.
_KNOWN_NAMES = ("codes_used", "perplexity", "code_drift")
_LAST_RATE = 0.1  # of the learning rate, where it is lowered


@struct.dataclass
class TrainState:
    """All that learning changes.

    Attributes:
      network, target_network: parameters, and their moving average.
      optimizer_state: of `network`.
      tokenizer: TokenizerState.
      tokenizer_optimizer_state: of the tokenizer's online parameters.
      num_updates: int32.
    """

    network: Params
    target_network: Params
    optimizer_state: optax.OptState
    tokenizer: TokenizerState
    tokenizer_optimizer_state: optax.OptState
    num_updates: Array

    @property
    def model(self) -> ModelParams:
        """What acting uses."""
        return ModelParams(network=self.network, tokenizer=self.tokenizer)

    @property
    def target_model(self) -> ModelParams:
        """What targets use."""
        return ModelParams(network=self.target_network, tokenizer=self.tokenizer)


def make_optimizer(
    *, learning_rate: float, warmup_updates: int, decay_updates: int, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """AdamW with a linear warm-up, a half cosine down (Loshchilov & Hutter 2017) and a global-norm clip.

    Args:
      learning_rate: after the warm-up.
      warmup_updates: updates over which it rises from 0; 0 starts at full rate.
      decay_updates: the update, warm-up included, from which on it is a tenth; 0 never lowers it.
      weight_decay: decoupled, of matrices only (vectors, norms and biases are left alone).
      clip_norm: greatest global norm of a gradient.
    """
    schedule = _schedule(learning_rate, warmup_updates, decay_updates)
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(
            schedule, weight_decay=weight_decay, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
        ),
    )


def of_heads_alone(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer that leaves the dynamics as they were drawn: norms and moments are of the heads alone."""

    def labels(params: Params) -> Any:
        return jax.tree.map(lambda of_head: "heads" if of_head else "dynamics", is_head(params))

    return optax.partition({"heads": optimizer, "dynamics": optax.set_to_zero()}, labels)


def _schedule(peak: float, warmup_updates: int, decay_updates: int) -> optax.ScalarOrSchedule:
    """The learning rate by update."""
    if decay_updates:
        start = peak if warmup_updates == 0 else 0.0
        return optax.warmup_cosine_decay_schedule(start, peak, warmup_updates, decay_updates, _LAST_RATE * peak)
    return optax.linear_schedule(0.0, peak, warmup_updates) if warmup_updates else peak


def init(
    rng_key: Array,
    observation: Array,
    *,
    world_model: WorldModel,
    tokenizer: Tokenizer,
    optimizer: optax.GradientTransformation,
    tokenizer_optimizer: optax.GradientTransformation,
) -> TrainState:
    """A fresh state; `observation [B, H, W, C]` gives shapes only."""
    tokenizer_key, network_key = jax.random.split(rng_key)
    tokenizer_state = tokenizer.init(tokenizer_key, observation)
    network = world_model.init(network_key, observation, tokenizer_state).network
    return TrainState(
        network=network,
        target_network=jax.tree.map(jnp.copy, network),
        optimizer_state=optimizer.init(network),
        tokenizer=tokenizer_state,
        tokenizer_optimizer_state=tokenizer_optimizer.init(tokenizer_state.params),
        num_updates=jnp.zeros((), jnp.int32),
    )


def update(
    state: TrainState,
    batch: Batch,
    novelty: Array,
    observation: Array,
    betas: Array,
    rng_key: Array,
    supposed: Supposed | None = None,
    *,
    world_model: WorldModel,
    tokenizer: Tokenizer,
    support: Support,
    supervise: Callable[..., Supervision],
    optimizer: optax.GradientTransformation,
    tokenizer_optimizer: optax.GradientTransformation,
    loss_weights: LossWeights,
    unroll_steps: int,
    num_unrolls: int,
    target_decay: float,
) -> tuple[TrainState, Array, Metrics]:
    """One gradient step of the world model on `batch`, one of the tokenizer on `observation`.

    Args:
      state: TrainState.
      batch: Batch of windows.
      novelty: `[B, L + 1]` float32, the bonus of each observation now.
      observation: `[M, H, W, C]` uint8, the tokenizer's own stream.
      betas: `[E]`, the betas in play.
      rng_key: consumed.
      supposed: intrinsic rewards of actions that were not taken.
      world_model, tokenizer, support, supervise, optimizer, tokenizer_optimizer, loss_weights: the parts.
      unroll_steps: K. num_unrolls: M starts a sequence.
      target_decay: of the target network, an update.
    Returns:
      (TrainState, priorities `[B, L]`, metrics; `finite` among them is 1 where loss and gradients were).
    """
    target_key, loss_key, tokenizer_key, codebook_key = jax.random.split(rng_key, 4)
    with jax.named_scope("supervise"):
        supervision = supervise(state.target_model, batch, novelty, target_key, betas, supposed)
    learned, priorities, metrics = update_model(
        state,
        supervision,
        loss_key,
        world_model=world_model,
        support=support,
        optimizer=optimizer,
        loss_weights=loss_weights,
        unroll_steps=unroll_steps,
        num_unrolls=num_unrolls,
        target_decay=target_decay,
    )
    learned, tokenizer_metrics = update_tokenizer(
        learned, observation, tokenizer_key, codebook_key, tokenizer=tokenizer, tokenizer_optimizer=tokenizer_optimizer
    )
    metrics |= tokenizer_metrics
    finite = metrics.pop("model_finite") & metrics.pop("tokenizer_finite")
    metrics["finite"] = finite.astype(jnp.float32)
    return learned.replace(num_updates=state.num_updates + 1), priorities, metrics


@jax.named_scope("update_model")
def update_model(
    state: TrainState,
    supervision: Supervision,
    rng_key: Array,
    *,
    world_model: WorldModel,
    support: Support,
    optimizer: optax.GradientTransformation,
    loss_weights: LossWeights,
    unroll_steps: int,
    num_unrolls: int,
    target_decay: float,
) -> tuple[TrainState, Array, Metrics]:
    """One gradient step of the world model; arguments as of `update`.

    Returns:
      (TrainState, priorities `[B, L]`, metrics; `model_finite` bool among them).
    """
    gradient, (metrics, priorities) = jax.grad(world_model_loss, has_aux=True)(
        state.network,
        state.model,
        supervision,
        rng_key,
        world_model=world_model,
        support=support,
        weights=loss_weights,
        unroll_steps=unroll_steps,
        num_unrolls=num_unrolls,
    )
    changes, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.network)
    network = optax.apply_updates(state.network, changes)
    norm = optax.tree.norm(gradient)
    metrics |= {"gradient_norm": norm, "model_finite": jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)}
    state = state.replace(
        network=network,
        target_network=optax.incremental_update(network, state.target_network, 1.0 - target_decay),
        optimizer_state=optimizer_state,
    )
    return state, priorities, metrics


@jax.named_scope("update_tokenizer")
def update_tokenizer(
    state: TrainState,
    observation: Array,
    loss_key: Array,
    codebook_key: Array,
    *,
    tokenizer: Tokenizer,
    tokenizer_optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """One gradient step of the tokenizer on frames `[M, H, W, C]` uint8.

    Returns:
      (TrainState, metrics; `tokenizer_finite` bool among them).
    """
    gradient, (aux, metrics) = jax.grad(_tokenizer_loss, has_aux=True)(
        state.tokenizer.params, state.tokenizer, loss_key, observation, tokenizer
    )
    changes, optimizer_state = tokenizer_optimizer.update(
        gradient, state.tokenizer_optimizer_state, state.tokenizer.params
    )
    params = optax.apply_updates(state.tokenizer.params, changes)
    norm = optax.tree.norm(gradient)
    metrics |= {"tokenizer_gradient_norm": norm, "tokenizer_finite": jnp.isfinite(norm)}
    state = state.replace(
        tokenizer=tokenizer.update(state.tokenizer, params, aux, codebook_key),
        tokenizer_optimizer_state=optimizer_state,
    )
    return state, metrics


def _tokenizer_loss(
    params: Params, state: TokenizerState, rng_key: Array, observation: Array, tokenizer: Tokenizer
) -> tuple[Array, tuple[Any, Metrics]]:
    """The tokenizer's loss, its metrics told apart from the world model's."""
    loss, (aux, metrics) = tokenizer.loss(params, state, rng_key, observation)
    named = {name if name in _KNOWN_NAMES else f"tokenizer_{name}": value for name, value in metrics.items()}
    return loss, (aux, named | {"tokenizer_loss": loss})
