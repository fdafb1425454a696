"""World T: a random, deterministic table from (state, action) to the next state, any size.

There is nothing to generalise over: each entry is drawn on its own, so a model that
predicts it has stored it. The observation is the state's digits, for the `identity`
tokenizer: `num_digits` code groups of `base` codes. The entries come out of a counter-based
generator where they are asked for, so the table takes no memory however large it is.
"""

import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.types import Array, Environments, Probe, TimeStep
from learnmax_jax.worlds.arguments import require_ranges


@struct.dataclass
class TableState:
    """Where every environment stands.

    Attributes:
      state: `[B]` int32, the number that the observation spells.
      step: `[B]` int32, transitions since the episode's first frame.
      ended: `[B]` bool, the episode is over: the next action is ignored.
      rng_key: draws the first states.
    """

    state: Array
    step: Array
    ended: Array
    rng_key: Array


def next_state(state: Array, action: Array, *, seed: int, num_states: int) -> Array:
    """The table's entries for states and actions `[...]` int32 -> `[...]` int32, each uniform in [0, num_states)."""
    table_key = jax.random.key(seed)

    def entry(state: Array, action: Array) -> Array:
        return jax.random.randint(jax.random.fold_in(jax.random.fold_in(table_key, state), action), (), 0, num_states)

    return jnp.vectorize(entry)(state, action)


def draw(state: Array, *, num_digits: int, base: int) -> Array:
    """`[B]` states -> `[B, 1, 1, num_digits]` uint8, digits in `base`, the highest first."""
    digits = []
    for _ in range(num_digits):
        digits.append(state % base)
        state = state // base
    return jnp.stack(digits[::-1], axis=-1).astype(jnp.uint8)[:, None, None, :]


def make(
    *,
    num_envs: int,
    seed: int,
    num_states: int,
    num_actions: int,
    num_digits: int,
    base: int,
    max_length: int,
    reward_state: int,
) -> Environments:
    """Makes B environments that walk one table.

    Episodes start at a random state, never terminate, and are truncated after `max_length` transitions.

    Args:
      num_envs: B, at least 1.
      seed: of the table; the same seed is the same world.
      num_states: at least 2, at most base ** num_digits.
      num_actions: A, at least 1.
      num_digits: G, digits of a state, the observation's channels; at most 1024, the highest may always be 0.
      base: V, codes of a digit, 2 to 256.
      max_length: transitions of an episode, at least 1.
      reward_state: entering it pays 1; -1 for a world without reward.
    Returns:
      Environments; restorable. `reset` draws the first states, of this episode and the following, by its key.
    Raises:
      ValueError: an argument outside its range.
    """
    require_ranges(
        ("num_envs", num_envs, 1, 2**31 - 1),
        ("base", base, 2, 256),
        ("num_digits", num_digits, 1, 1024),
        ("num_states", num_states, 2, min(base**num_digits, 2**31 - 1)),
        ("num_actions", num_actions, 1, 2**31 - 1),
        ("max_length", max_length, 1, 2**31 - 1),
        ("reward_state", reward_state, -1, num_states - 1),
    )

    def answer(state: TableState, reward: Array) -> TimeStep:
        return TimeStep(
            observation=draw(state.state, num_digits=num_digits, base=base),
            reward=reward,
            discount=jnp.ones((num_envs,), jnp.float32),
            first=state.step == 0,
            last=state.ended,
            probe=Probe.unknown(num_envs),
        )

    def draw_start(rng_key: Array) -> tuple[Array, Array]:
        rng_key, start_key = jax.random.split(rng_key)
        return rng_key, jax.random.randint(start_key, (num_envs,), 0, num_states)

    def reset(rng_key: Array) -> tuple[TableState, TimeStep]:
        rng_key, start = draw_start(rng_key)
        state = TableState(
            state=start,
            step=jnp.zeros((num_envs,), jnp.int32),
            ended=jnp.zeros((num_envs,), bool),
            rng_key=rng_key,
        )
        return state, answer(state, jnp.zeros((num_envs,), jnp.float32))

    def step(state: TableState, action: Array) -> tuple[TableState, TimeStep]:
        action = jnp.clip(action.astype(jnp.int32), 0, num_actions - 1)
        reset_now = state.ended
        rng_key, start = draw_start(state.rng_key)
        following = next_state(state.state, action, seed=seed, num_states=num_states)
        reward = (~reset_now & (following == reward_state)).astype(jnp.float32)
        next_step = jnp.where(reset_now, 0, state.step + 1)
        state = TableState(
            state=jnp.where(reset_now, start, following),
            step=next_step,
            ended=next_step >= max_length,
            rng_key=rng_key,
        )
        return state, answer(state, reward)

    return Environments(
        num_envs=num_envs,
        num_actions=num_actions,
        action_names=tuple(str(action) for action in range(num_actions)),
        observation_shape=(1, 1, num_digits),
        observation_levels=base,
        frames_per_step=1,
        restorable=True,
        reset=jax.jit(reset),
        step=step,
    )
