"""DeepSea: only one row of N decisions, each paid worse than its alternative, finds the treasure.

Every step goes one row down, and left or right by which of two actions it is; which action means
right is drawn anew for every cell. A step right costs 0.01 / N, the treasure at the far right of the
last row pays 1, so that the greedy lesson is never to go there: random play finds it with
probability 2^-N. The observation is row and column, for the `identity` tokenizer: 2 code groups of
`size` + 1 codes (the final observation lies one row below the last).
Source: Osband et al. 2019, https://arxiv.org/abs/1908.03568 (bsuite's deep_sea, deterministic).
"""

import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.types import Array, Environments, Probe, TimeStep
from learnmax_jax.worlds.arguments import require_ranges

_NUM_ACTIONS = 2
_MOVE_COST = 0.01  # of an episode of steps to the right (bsuite's unscaled_move_cost)


@struct.dataclass
class DeepSeaState:
    """Where every environment stands.

    Attributes:
      row: `[B]` int32, transitions since the episode's first frame.
      column: `[B]` int32.
      ended: `[B]` bool, the episode is over: the next action is ignored.
    """

    row: Array
    column: Array
    ended: Array


def right_actions(*, seed: int, size: int) -> Array:
    """The action that means right in every cell, `[size, size]` int32, 0 or 1."""
    return jax.random.bernoulli(jax.random.key(seed), shape=(size, size)).astype(jnp.int32)


def make(*, num_envs: int, seed: int, size: int) -> Environments:
    """Makes B environments on one sea.

    Every episode has N steps and terminates; the best one pays 1 - 0.01, one that always goes left 0.

    Args:
      num_envs: B, at least 1.
      seed: of the cells' actions; the same seed is the same sea.
      size: N, rows and columns, 2 to 255.
    Returns:
      Environments; restorable. `reset` takes a key for the signature's sake: only `seed` draws. The probe's x and y
      are column and row.
    Raises:
      ValueError: an argument outside its range.
    """
    require_ranges(("num_envs", num_envs, 1, 2**31 - 1), ("seed", seed, 0, 2**31 - 1), ("size", size, 2, 255))

    def answer(state: DeepSeaState, reward: Array) -> TimeStep:
        return TimeStep(
            observation=jnp.stack([state.row, state.column], axis=-1).astype(jnp.uint8)[:, None, None, :],
            reward=reward,
            discount=1.0 - state.ended.astype(jnp.float32),
            first=state.row == 0,
            last=state.ended,
            probe=Probe.unknown(num_envs).replace(x=state.column, y=state.row),
        )

    def reset(rng_key: Array) -> tuple[DeepSeaState, TimeStep]:
        del rng_key
        zeros = jnp.zeros((num_envs,), jnp.int32)
        state = DeepSeaState(row=zeros, column=zeros, ended=zeros > 0)
        return state, answer(state, jnp.zeros((num_envs,), jnp.float32))

    def step(state: DeepSeaState, action: Array) -> tuple[DeepSeaState, TimeStep]:
        action = jnp.clip(action.astype(jnp.int32), 0, _NUM_ACTIONS - 1)
        reset_now = state.ended
        rights = right_actions(seed=seed, size=size)
        # The row of an ended episode lies below the table; what is read there is thrown away.
        goes_right = action == rights[jnp.minimum(state.row, size - 1), state.column]
        finds = goes_right & (state.column == size - 1)
        reward = jnp.where(finds, 1.0, 0.0) - jnp.where(goes_right, _MOVE_COST / size, 0.0)
        column = jnp.clip(state.column + jnp.where(goes_right, 1, -1), 0, size - 1)
        state = DeepSeaState(
            row=jnp.where(reset_now, 0, state.row + 1),
            column=jnp.where(reset_now, 0, column),
            ended=~reset_now & (state.row + 1 >= size),
        )
        return state, answer(state, jnp.where(reset_now, 0.0, reward))

    return Environments(
        num_envs=num_envs,
        num_actions=_NUM_ACTIONS,
        action_names=tuple(str(action) for action in range(_NUM_ACTIONS)),
        observation_shape=(1, 1, 2),
        observation_levels=size + 1,
        frames_per_step=1,
        restorable=True,
        reset=jax.jit(reset),
        step=step,
    )
