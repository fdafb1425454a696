"""act(): tokenise, search, step, as one scan over T environment steps.

Parameters are fixed within one act phase, so the transformer reads the last frames once
at its start and then appends one block a step: exact, and the window grows from W to
W + T - 1 frames.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.acting.betas import betas_now, draw_ways_back
from learnmax_jax.acting.dither import Held, dither, nothing_held
from learnmax_jax.models.dynamics import Context
from learnmax_jax.models.world_model import ModelParams, WorldModel
from learnmax_jax.types import Array, Environments, Probe, SearchOutput, TimeStep, Transition


@struct.dataclass
class Memory:
    """The frames before the present one that the next act phase starts from.

    Attributes:
      codes: `[B, W - 1, N, G]` int32.
      action: `[B, W - 1]` int32, the action that led to each frame.
      first: `[B, W - 1]` bool.
    """

    codes: Array
    action: Array
    first: Array


@struct.dataclass
class ActorState:
    """What acting carries from step to step, `[B, ...]`.

    Attributes:
      env_state: the environments' own; not restorable for emulators.
      observation, first: the present frame, and whether it opens an episode.
      ended: the present frame is an episode's final one, so that its action will be ignored.
      action: `[B]` int32, the action that led here.
      reward: `[B]` float32, what it paid.
      episode_step: `[B]` int32, transitions since the episode's first frame.
      episode_score: `[B]` float32, raw score since then.
      beta: `[B]` float32, each environment's weight of the intrinsic return; fixed.
      ways_back: `[B]` int32, steps that the episode begins with at -beta.
      held: the random actions that last.
      memory: Memory.
    """

    env_state: object
    observation: Array
    first: Array
    ended: Array
    action: Array
    reward: Array
    episode_step: Array
    episode_score: Array
    beta: Array
    ways_back: Array
    held: Held
    memory: Memory


@struct.dataclass
class ActOutput:
    """One act phase, `[B, T, ...]`.

    Attributes:
      transitions: rows for the replay.
      episode_score: raw score of the running episode, step t included; final where `transitions.last`.
      probe: of observation[t + 1]; evaluation only.
      depth_mean, depth_max, finite: as in SearchOutput.
    """

    transitions: Transition
    episode_score: Array
    probe: Probe
    depth_mean: Array
    depth_max: Array
    finite: Array


def init_memory(world_model: WorldModel, params: ModelParams, observation: Array, *, window: int) -> Memory:
    """An empty memory; its frames stay unseen, since the present frame is `first`."""
    codes = jax.eval_shape(world_model.tokenise, params, observation)
    batch, frames = observation.shape[0], window - 1
    return Memory(
        codes=jnp.zeros((batch, frames, *codes.shape[1:]), codes.dtype),
        action=jnp.zeros((batch, frames), jnp.int32),
        first=jnp.zeros((batch, frames), bool),
    )


def init_actor(env_state: object, time_step: TimeStep, memory: Memory, beta: Array) -> ActorState:
    """State at the environments' reset; every row opens an episode."""
    batch = time_step.first.shape[0]
    return ActorState(
        env_state=env_state,
        observation=time_step.observation,
        first=time_step.first,
        ended=jnp.zeros((batch,), bool),
        action=jnp.zeros((batch,), jnp.int32),
        reward=jnp.zeros((batch,)),
        episode_step=jnp.zeros((batch,), jnp.int32),
        episode_score=jnp.zeros((batch,)),
        beta=beta,
        ways_back=jnp.zeros((batch,), jnp.int32),
        held=nothing_held(batch),
        memory=memory,
    )


def act(
    params: ModelParams,
    state: ActorState,
    novelty: object,
    rng_key: Array,
    *,
    world_model: WorldModel,
    environments: Environments,
    plan: Callable[..., SearchOutput],
    observe: Callable[[object, Array, Array, Array], tuple[object, Array, Array]],
    num_steps: int,
    epsilon: Array | float,
    longest_hold: int,
    longest_way_back: int,
) -> tuple[ActorState, object, ActOutput]:
    """Plays `num_steps` steps in every environment.

    Args:
      params: fixed for the phase.
      state: ActorState.
      novelty: what `observe` keeps.
      rng_key: consumed.
      world_model: the bundle.
      environments: the batch of environments; their `step` must be traceable.
      plan: (params, rng_key, context, latent, codes, beta) -> SearchOutput; planner.plan with its tuning bound.
      observe: (novelty, observation, first, reward) -> (novelty, key `[B, 2]`, first_visit `[B]`); see Kind.
      num_steps: T.
      epsilon, longest_hold: of random actions; see dither.
      longest_way_back: steps; see betas.
    Returns:
      (ActorState, novelty, ActOutput).
    """
    memory = state.memory
    capacity = memory.first.shape[1] + num_steps
    with jax.named_scope("context"):
        context, _ = world_model.context(params, memory.codes, memory.action, memory.first, capacity=capacity)

    def one_step(
        carry: tuple[ActorState, Context, Any], rng_key: Array
    ) -> tuple[tuple[ActorState, Context, Any], tuple[ActOutput, Memory]]:
        state, context, novelty = carry
        search_key, way_key, dither_key = jax.random.split(rng_key, 3)
        ways_back = draw_ways_back(state.ways_back, state.first, way_key, longest=longest_way_back)
        beta = betas_now(state.beta, ways_back, state.episode_step)
        with jax.named_scope("tokenise"):
            codes = world_model.tokenise(params, state.observation)
        led_here = jnp.where(state.first, world_model.num_actions, state.action)
        with jax.named_scope("context"):
            context, latent = world_model.extend(params, context, codes, led_here, state.first)
        with jax.named_scope("search"):
            search = plan(params, search_key, context, latent, codes, beta)
        held, action = dither(
            state.held,
            search.action,
            state.first,
            dither_key,
            epsilon=epsilon,
            longest_hold=longest_hold,
            num_actions=world_model.num_actions,
        )
        with jax.named_scope("novelty"):
            novelty, key, first_visit = observe(novelty, state.observation, state.first, state.reward)
        with jax.named_scope("emulators"):
            env_state, time_step = environments.step(state.env_state, action)
        row = Transition(
            observation=state.observation,
            action=action,
            reward=time_step.reward,
            discount=time_step.discount,
            first=state.first,
            last=time_step.last,
            valid=~state.ended,
            episode_step=state.episode_step,
            beta=beta,
            search_policy=search.search_policy.astype(jnp.float16),
            search_value=search.search_value[:, 0],
            novelty_key=key,
            first_visit=first_visit,
        )
        score = state.episode_score + time_step.reward
        output = ActOutput(row, score, time_step.probe, search.depth_mean, search.depth_max, search.finite)
        state = state.replace(
            env_state=env_state,
            observation=time_step.observation,
            first=time_step.first,
            ended=time_step.last,
            action=action,
            reward=time_step.reward,
            ways_back=ways_back,
            held=held,
            episode_step=jnp.where(time_step.first, 0, state.episode_step + 1),
            episode_score=jnp.where(time_step.first, 0.0, score),
        )
        return (state, context, novelty), (output, Memory(codes, led_here, row.first))

    (state, _, novelty), history = jax.lax.scan(
        one_step, (state, context, novelty), jax.random.split(rng_key, num_steps)
    )
    output, seen = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), history)
    memory = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1)[:, num_steps:], memory, seen)
    return state.replace(memory=memory), novelty, output
