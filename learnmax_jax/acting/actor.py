"""act(): tokenise, search, step, as one scan over the T steps of each group of environments.

Parameters are fixed within one act phase, so the transformer reads the last frames once
at its start and then appends one block a step: exact, and the window grows from W to
W + T - 1 frames.

The groups take turns. In a turn one group thinks and is sent its actions, then the next one's answer is received:

    group 0:  think send ........ recv  think send ........ recv
    group 1:       (recv) think send ........ recv  think send ...

so that emulators (dots) step while the network thinks for another group. With one group a turn is a step, and
nothing overlaps. Before the first turn and after the last nothing is under way.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.acting.betas import betas_now, draw_ways_back
from learnmax_jax.acting.dither import Held, dither, nothing_held
from learnmax_jax.acting.groups import Groups, join, pick, put, split
from learnmax_jax.models.dynamics import Context
from learnmax_jax.models.world_model import ModelParams, WorldModel
from learnmax_jax.types import Array, Probe, SearchOutput, TimeStep, Transition


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


@struct.dataclass
class Thought:
    """What a group knows of a step when it sends its action, `[B / G, ...]`.

    Attributes:
      observation, action, first, valid, episode_step, beta: as in Transition.
      led_here: `[B / G]` int32, the action that led to the observation as the transformer reads it.
      paid: float32, the reward that led there.
      codes: `[B / G, N, G]` int32, of the observation.
      search: SearchOutput.
    """

    observation: Array
    action: Array
    first: Array
    valid: Array
    episode_step: Array
    beta: Array
    led_here: Array
    paid: Array
    codes: Array
    search: SearchOutput


@struct.dataclass
class Answer:
    """What the environments answered to a step, `[B / G, ...]`; the frame itself goes into the state.

    Attributes:
      reward, discount, last: as in Transition.
      episode_score: raw score of the running episode, this step included.
      probe: of the next observation.
    """

    reward: Array
    discount: Array
    last: Array
    episode_score: Array
    probe: Probe


def act(
    params: ModelParams,
    state: ActorState,
    novelty: object,
    rng_key: Array,
    *,
    world_model: WorldModel,
    groups: Groups,
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
      groups: the environments; their `send` and `recv` must be traceable.
      plan: (params, rng_key, context, latent, codes, beta) -> SearchOutput; planner.plan with its tuning bound.
      observe: (novelty, observation, first, reward) -> (novelty, key `[B, 2]`, first_visit `[B]`); see Kind.
      num_steps: T.
      epsilon, longest_hold: of random actions; see dither.
      longest_way_back: steps; see betas.
    Returns:
      (ActorState, novelty, ActOutput).
    """
    num_groups, memory = groups.num_groups, state.memory
    with jax.named_scope("context"):
        context, _ = world_model.context(
            params, memory.codes, memory.action, memory.first, capacity=memory.first.shape[1] + num_steps
        )
    think = partial(
        _think,
        params,
        world_model=world_model,
        plan=plan,
        epsilon=epsilon,
        longest_hold=longest_hold,
        longest_way_back=longest_way_back,
    )
    state, thoughts, answers = _take_turns(
        state, context, jax.random.split(rng_key, num_steps * num_groups), groups=groups, think=think
    )
    novelty, (key, first_visit) = _watch(novelty, thoughts, observe)
    rows = Transition(
        observation=thoughts.observation,
        action=thoughts.action,
        reward=answers.reward,
        discount=answers.discount,
        first=thoughts.first,
        last=answers.last,
        valid=thoughts.valid,
        episode_step=thoughts.episode_step,
        beta=thoughts.beta,
        search_policy=thoughts.search.search_policy.astype(jnp.float16),
        search_value=thoughts.search.search_value[..., 0],
        novelty_key=key,
        first_visit=first_visit,
    )
    search = thoughts.search
    output = ActOutput(rows, answers.episode_score, answers.probe, search.depth_mean, search.depth_max, search.finite)
    seen = Memory(thoughts.codes, thoughts.led_here, thoughts.first)
    output, seen = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), (output, seen))
    memory = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1)[:, num_steps:], memory, seen)
    return state.replace(memory=memory), novelty, output


def _take_turns(
    state: ActorState,
    context: Context,
    rng_keys: Array,
    *,
    groups: Groups,
    think: Callable[[ActorState, Context, Array], tuple[ActorState, Context, Thought]],
) -> tuple[ActorState, Thought, Answer]:
    """Plays T G turns with a key each, and gives what was thought and answered as `[T, B, ...]`."""
    num_groups = groups.num_groups
    lead = num_groups - 1  # turns from a group's action to its answer, and before the first answer is due
    rows, contexts = split((state.replace(env_state=None, memory=None), context), num_groups)

    def receive(env_state: Any, rows: ActorState, group: Array | int) -> tuple[Any, ActorState, Answer]:
        env_state, part, answer = _receive(groups, env_state, pick(rows, group), group)
        return env_state, put(rows, part, group), answer

    def nothing_due(env_state: Any, rows: ActorState, group: Array | int) -> tuple[Any, ActorState, Answer]:
        spec = jax.eval_shape(receive, env_state, rows, group)[2]
        return env_state, rows, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), spec)

    receive_if_due = (receive, *[nothing_due] * min(lead, 1))

    def take_turn(
        carry: tuple[Any, ActorState, Context], given: tuple[Array, Array]
    ) -> tuple[tuple[Any, ActorState, Context], tuple[Thought, Answer]]:
        env_state, rows, contexts = carry
        turn, rng_key = given
        group, following = turn % num_groups, (turn + 1) % num_groups
        part, part_context, thought = think(*pick((rows, contexts), group), rng_key)
        rows, contexts = put((rows, contexts), (part, part_context), group)
        with jax.named_scope("emulators"):
            env_state = groups.send(env_state, part.action, group)
        # Whoever orders this program must not wait for the next group before this one is under way.
        env_state, rows, contexts = jax.lax.optimization_barrier((env_state, rows, contexts))
        not_due = (turn < lead).astype(jnp.int32)
        env_state, rows, answer = jax.lax.switch(not_due, receive_if_due, env_state, rows, following)
        return (env_state, rows, contexts), (thought, answer)

    (env_state, rows, _), (thoughts, answers) = jax.lax.scan(
        take_turn, (state.env_state, rows, contexts), (jnp.arange(len(rng_keys)), rng_keys)
    )
    late = []
    for group in range(1, num_groups):
        env_state, rows, answer = receive(env_state, rows, group)
        late.append(jax.tree.map(lambda x: x[None], answer))
    answers = jax.tree.map(lambda x, *more: jnp.concatenate([x[lead:], *more]), answers, *late)
    # Turn by turn of each group is, row by row, step by step of all.
    thoughts, answers = jax.tree.map(
        lambda x: x.reshape(len(x) // num_groups, num_groups * x.shape[1], *x.shape[2:]), (thoughts, answers)
    )
    return join(rows).replace(env_state=env_state, memory=state.memory), thoughts, answers


def _think(
    params: ModelParams,
    state: ActorState,
    context: Context,
    rng_key: Array,
    *,
    world_model: WorldModel,
    plan: Callable[..., SearchOutput],
    epsilon: Array | float,
    longest_hold: int,
    longest_way_back: int,
) -> tuple[ActorState, Context, Thought]:
    """A group's next action; in the state it stands beside the frame that it is chosen at, until that is answered."""
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
    thought = Thought(
        observation=state.observation,
        action=action,
        first=state.first,
        valid=~state.ended,
        episode_step=state.episode_step,
        beta=beta,
        led_here=led_here,
        paid=state.reward,
        codes=codes,
        search=search,
    )
    return state.replace(action=action, ways_back=ways_back, held=held), context, thought


def _receive(groups: Groups, env_state: Any, state: ActorState, group: Array | int) -> tuple[Any, ActorState, Answer]:
    """Waits for a group's answer, which becomes its present frame."""
    with jax.named_scope("emulators"):
        env_state, time_step = groups.recv(env_state, state.action, group)
    score = state.episode_score + time_step.reward
    state = state.replace(
        observation=time_step.observation,
        first=time_step.first,
        ended=time_step.last,
        reward=time_step.reward,
        episode_step=jnp.where(time_step.first, 0, state.episode_step + 1),
        episode_score=jnp.where(time_step.first, 0.0, score),
    )
    answer = Answer(time_step.reward, time_step.discount, time_step.last, score, time_step.probe)
    return env_state, state, answer


def _watch(
    novelty: object, thoughts: Thought, observe: Callable[[object, Array, Array, Array], tuple[object, Array, Array]]
) -> tuple[object, tuple[Array, Array]]:
    """Counts the frames of a phase, step by step of all environments: no search asks before its end.

    Returns:
      (novelty, (keys `[T, B, 2]`, first visits `[T, B]`)).
    """

    def one_step(novelty: object, seen: tuple[Array, Array, Array]) -> tuple[object, tuple[Array, Array]]:
        with jax.named_scope("novelty"):
            novelty, key, first_visit = observe(novelty, *seen)
        return novelty, (key, first_visit)

    return jax.lax.scan(one_step, novelty, (thoughts.observation, thoughts.first, thoughts.paid))
