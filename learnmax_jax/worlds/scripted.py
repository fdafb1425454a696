"""A world that only counts: every frame says which environment, episode and step it is.

It is the ruler for bookkeeping: a shifted reward, a frame of the wrong episode or a
trained-on ignored action shows as a wrong number. Pure JAX, draws nothing, and its state
may be saved and continued exactly.
"""

import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.types import Array, Environments, Probe, TimeStep
from learnmax_jax.worlds.arguments import require_ranges

_MAX_LENGTH = 99  # the frame's number is 100 * episode + step


@struct.dataclass
class ScriptedState:
    """Where every environment stands.

    Attributes:
      episode: `[B]` int32, episodes ended before this one.
      step: `[B]` int32, transitions since the episode's first frame.
      ended: `[B]` bool, the episode is over: the next action is ignored.
    """

    episode: Array
    step: Array
    ended: Array


def episode_length(environment: Array, episode: Array, *, min_length: int, max_length: int) -> Array:
    """Transitions of an episode: walks down all lengths and around, from another place in each environment."""
    num_lengths = max_length - min_length + 1
    return min_length + (environment - episode) % num_lengths


def is_termination(environment: Array, episode: Array) -> Array:
    """Whether an episode ends by termination: two and two in turn, so that every length ends both ways."""
    return (environment + episode) // 2 % 2 == 0


def script_reward(step: Array, action: Array, *, num_actions: int) -> Array:
    """reward[t], float32: another number for every pair of step and action, so that any shift shows."""
    return (step * num_actions + action).astype(jnp.float32)


def draw(environment: Array, episode: Array, step: Array, *, size: int) -> Array:
    """Frames `[B, size, size, 1]` uint8 in four bands: the environment, then `100 * episode + step` in base 256."""
    number = 100 * episode + step
    digits = jnp.stack([environment % 256, number // 65536 % 256, number // 256 % 256, number % 256], axis=-1)
    band = jnp.arange(size) * 4 // size
    rows = digits[:, band].astype(jnp.uint8)
    return jnp.broadcast_to(rows[:, :, None, None], (*rows.shape, size, 1))


def read(observation: Array) -> tuple[Array, Array]:
    """What frames `[..., size, size, 1]` say: (environment, 100 * episode + step), `[...]` int32; inverse of `draw`."""
    size = observation.shape[-2]
    first_rows = [-(-band * size // 4) for band in range(4)]
    environment, high, middle, low = (observation[..., row, 0, 0].astype(jnp.int32) for row in first_rows)
    return environment, (high * 256 + middle) * 256 + low


def make(
    *, num_envs: int, num_actions: int = 8, size: int = 84, min_length: int = 3, max_length: int = 12
) -> Environments:
    """Makes B counting environments.

    Environment b's episode e lasts `episode_length(b, e)` transitions and ends by termination
    where `is_termination(b, e)`, else by truncation. Step t pays `script_reward(t, action)`.

    Args:
      num_envs: B, at least 1.
      num_actions: A, at least 1.
      size: height and width of the frame, at least 4 (four bands).
      min_length: shortest episode in transitions, at least 1.
      max_length: longest episode in transitions, at most 99.
    Returns:
      Environments; restorable. `reset` takes a key for the signature's sake: a script draws nothing.
    Raises:
      ValueError: an argument outside its range.
    """
    require_ranges(
        ("num_envs", num_envs, 1, 2**31 - 1),
        ("num_actions", num_actions, 1, 2**31 - 1),
        ("size", size, 4, 2**31 - 1),
        ("min_length", min_length, 1, _MAX_LENGTH),
        ("max_length", max_length, min_length, _MAX_LENGTH),
    )
    environment = jnp.arange(num_envs, dtype=jnp.int32)

    def answer(state: ScriptedState, reward: Array, discount: Array) -> TimeStep:
        return TimeStep(
            observation=draw(environment, state.episode, state.step, size=size),
            reward=reward,
            discount=discount,
            first=state.step == 0,
            last=state.ended,
            probe=Probe.unknown(num_envs),
        )

    def reset(rng_key: Array) -> tuple[ScriptedState, TimeStep]:
        del rng_key
        zeros = jnp.zeros((num_envs,), jnp.int32)
        state = ScriptedState(episode=zeros, step=zeros, ended=zeros > 0)
        return state, answer(state, zeros.astype(jnp.float32), jnp.ones((num_envs,), jnp.float32))

    def step(state: ScriptedState, action: Array) -> tuple[ScriptedState, TimeStep]:
        action = jnp.clip(action.astype(jnp.int32), 0, num_actions - 1)
        reset_now = state.ended
        reward = jnp.where(reset_now, 0.0, script_reward(state.step, action, num_actions=num_actions))
        next_step = jnp.where(reset_now, 0, state.step + 1)
        length = episode_length(environment, state.episode, min_length=min_length, max_length=max_length)
        ended = ~reset_now & (next_step >= length)
        terminated = ended & is_termination(environment, state.episode)
        state = ScriptedState(
            episode=state.episode + reset_now.astype(jnp.int32),
            step=next_step,
            ended=ended,
        )
        return state, answer(state, reward, jnp.where(terminated, 0.0, 1.0))

    return Environments(
        num_envs=num_envs,
        num_actions=num_actions,
        action_names=tuple(str(action) for action in range(num_actions)),
        observation_shape=(size, size, 1),
        observation_levels=256,
        frames_per_step=1,
        restorable=True,
        reset=jax.jit(reset),
        step=step,
    )
