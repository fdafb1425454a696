"""World K: a grid with a key and a door, whose observation says neither whether the key is held nor where it lies.

    start . . door
      .   . .  .
     key  . .  .

The player starts in one corner; the key lies in the corner below, the door stands in the corner
to the right. Whoever enters the door's cell with the key is paid 1 and the episode terminates;
without the key the door blocks. The observation is the player's row and column, for the
`identity` tokenizer: 2 code groups of `size` codes. A single frame before the door does not tell
what the next step pays: only a memory of the key's cell does.
"""

import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.types import Array, Environments, Probe, TimeStep
from learnmax_jax.worlds.arguments import require_ranges

ACTION_NAMES = ("UP", "RIGHT", "DOWN", "LEFT")
_ROW_STEP = (-1, 0, 1, 0)
_COLUMN_STEP = (0, 1, 0, -1)


@struct.dataclass
class KeyDoorState:
    """Where every environment stands.

    Attributes:
      row, column: `[B]` int32, the player's cell.
      has_key: `[B]` bool.
      step: `[B]` int32, transitions since the episode's first frame.
      ended: `[B]` bool, the episode is over: the next action is ignored.
    """

    row: Array
    column: Array
    has_key: Array
    step: Array
    ended: Array


def move(row: Array, column: Array, has_key: Array, action: Array, *, size: int) -> tuple[Array, Array, Array, Array]:
    """One step of the rules, `[...]` each.

    Args:
      row, column: int32, the player's cell. has_key: bool.
      action: int32, of `ACTION_NAMES`.
      size: cells a side.
    Returns:
      (row, column, has_key, opened): afterwards; walls and the locked door leave the player where it is.
    """
    next_row = jnp.clip(row + jnp.asarray(_ROW_STEP)[action], 0, size - 1)
    next_column = jnp.clip(column + jnp.asarray(_COLUMN_STEP)[action], 0, size - 1)
    at_door = (next_row == 0) & (next_column == size - 1)
    blocked = at_door & ~has_key
    row, column = jnp.where(blocked, row, next_row), jnp.where(blocked, column, next_column)
    return row, column, has_key | ((row == size - 1) & (column == 0)), at_door & has_key


def make(*, num_envs: int, size: int, max_length: int) -> Environments:
    """Makes B grids with a key and a door.

    The shortest way to the reward is 3 (size - 1) steps: to the key, back, and to the door.

    Args:
      num_envs: B, at least 1.
      size: cells a side, 2 to 256.
      max_length: transitions after which an episode is truncated, at least 1.
    Returns:
      Environments; restorable. Nothing is random: `reset` takes a key for the signature's sake. The probe's x and y are
      column and row, its key is 1 while the key is held, its room is 0.
    Raises:
      ValueError: an argument outside its range.
    """
    require_ranges(
        ("num_envs", num_envs, 1, 2**31 - 1), ("size", size, 2, 256), ("max_length", max_length, 1, 2**31 - 1)
    )

    def answer(state: KeyDoorState, opened: Array) -> TimeStep:
        return TimeStep(
            observation=jnp.stack([state.row, state.column], axis=-1).astype(jnp.uint8)[:, None, None, :],
            reward=opened.astype(jnp.float32),
            discount=1.0 - opened.astype(jnp.float32),
            first=state.step == 0,
            last=state.ended,
            probe=Probe.unknown(num_envs).replace(
                room=jnp.zeros_like(state.row), x=state.column, y=state.row, key=state.has_key.astype(jnp.int32)
            ),
        )

    def reset(rng_key: Array) -> tuple[KeyDoorState, TimeStep]:
        del rng_key
        zeros = jnp.zeros((num_envs,), jnp.int32)
        state = KeyDoorState(row=zeros, column=zeros, has_key=zeros > 0, step=zeros, ended=zeros > 0)
        return state, answer(state, zeros > 0)

    def step(state: KeyDoorState, action: Array) -> tuple[KeyDoorState, TimeStep]:
        action = jnp.clip(action.astype(jnp.int32), 0, len(ACTION_NAMES) - 1)
        reset_now = state.ended
        row, column, has_key, opened = move(state.row, state.column, state.has_key, action, size=size)
        opened &= ~reset_now
        next_step = jnp.where(reset_now, 0, state.step + 1)
        state = KeyDoorState(
            row=jnp.where(reset_now, 0, row),
            column=jnp.where(reset_now, 0, column),
            has_key=has_key & ~reset_now,
            step=next_step,
            ended=opened | (next_step >= max_length),
        )
        return state, answer(state, opened)

    return Environments(
        num_envs=num_envs,
        num_actions=len(ACTION_NAMES),
        action_names=ACTION_NAMES,
        observation_shape=(1, 1, 2),
        observation_levels=size,
        frames_per_step=1,
        restorable=True,
        reset=jax.jit(reset),
        step=step,
    )
