"""Three ways to step a pool of emulators: in the compiled program, through a callback, on the host.

Each function takes `new_pool` (rng_key -> EnvPool's gymnasium pool), `read` (EnvPool's answer -> Frame), `shapes`
(B -> a Frame's), `tell` (frame, lives before -> TimeStep) and `table` (`[A]` int32, the emulator's
action for each of ours), and returns Emulators. Between `send` and `recv` EnvPool's threads step the emulators, and
the program or the host is free.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import io_callback

from learnmax_jax.types import Array, TimeStep

# Never emptied: a compiled step holds only a pointer, and JAX may still be running steps that were dispatched when
# their Environments went out of scope. A pool freed under such a step hangs the process.
_POINTED_AT: list[Any] = []


@struct.dataclass
class EmulatorState:
    """What the program carries of the emulators; they themselves cannot be saved.

    Attributes:
      handle: `[8]` uint8, EnvPool's token that keeps the steps in order (`xla`); else `[]` int32, the pool's number.
      lives: `[B]` int32, lives left at the last frame.
      pool: number of the pool that the program's pointer leads to (`xla`); else 0.
    """

    handle: Array
    lives: Array
    pool: int = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What EnvPool returns of a step, numpy or traced, as gymnasium names it."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Frame:
    """An answer as a family reads it: observation `[B, H, W, C]`, ram `[B, ...]` for the probe, the rest `[B]`."""

    observation: Any
    reward: Any
    truncated: Any
    terminated: Any
    elapsed_step: Any
    lives: Any
    ram: Any


Reset = Callable[[Array], tuple[EmulatorState, TimeStep]]
Send = Callable[[EmulatorState, Any], EmulatorState]
Step = Callable[[EmulatorState, Any], tuple[EmulatorState, TimeStep]]
NewPool = Callable[[Array], Any]
Tell = Callable[[Frame, Any], TimeStep]
Read = Callable[[Answer], Frame]
Shapes = Callable[[int], tuple[jax.ShapeDtypeStruct, ...]]


@dataclasses.dataclass(frozen=True)
class Emulators:
    """A pool's functions.

    Attributes:
      reset: as `types.Environments` wants it.
      send: (env_state, action `[B]`) -> env_state; the emulators begin to step.
      recv: (env_state, action) -> (env_state, TimeStep); waits for the answer to that action, which was sent.
    """

    reset: Reset
    send: Send
    recv: Step

    def step(self, env_state: EmulatorState, action: Any) -> tuple[EmulatorState, TimeStep]:
        """Both halves, as `types.Environments` wants it."""
        return self.recv(self.send(env_state, action), action)


def xla_functions(new_pool: NewPool, read: Read, shapes: Shapes, tell: Tell, table: np.ndarray) -> Emulators:
    """Emulators as a call of the compiled program; its pointer leads to one pool, which is kept for good."""
    del shapes  # EnvPool knows them
    pools: list[tuple[Callable, Callable]] = []  # recv and send of each

    def reset(rng_key: Array) -> tuple[EmulatorState, TimeStep]:
        pool = new_pool(rng_key)
        _POINTED_AT.append(pool)
        frame = read(_reset_pool(pool))
        handle, pool_recv, pool_send, _ = pool.xla()
        pools.append((pool_recv, pool_send))
        state = EmulatorState(handle=handle, lives=frame.lives, pool=len(pools) - 1)
        return jax.device_put((state, tell(frame, frame.lives)))

    def send(env_state: EmulatorState, action: Array) -> EmulatorState:
        require_state(env_state)
        _, pool_send = pools[env_state.pool]
        emulator_action = _choose_emulator_action(action, env_state.lives, table)
        return env_state.replace(handle=pool_send(env_state.handle, emulator_action))

    def recv(env_state: EmulatorState, action: Array) -> tuple[EmulatorState, TimeStep]:
        del action  # the emulators know it
        pool_recv, _ = pools[env_state.pool]
        handle, answer = pool_recv(env_state.handle)
        frame = read(Answer(*answer))
        return env_state.replace(handle=handle, lives=frame.lives), tell(frame, env_state.lives)

    return Emulators(reset, send, recv)


def callback_functions(new_pool: NewPool, read: Read, shapes: Shapes, tell: Tell, table: np.ndarray) -> Emulators:
    """Emulators behind a callback: any device, and nothing of the pool in the compiled program.

    The pool's number comes back from every call and goes into the next, which keeps the steps in order.
    """
    reset_latest, find_pool = _latest_pool(new_pool, read)

    def reset(rng_key: Array) -> tuple[EmulatorState, TimeStep]:
        jax.effects_barrier()  # steps still under way want the pool that this reset drops
        state, frame = reset_latest(rng_key)
        return jax.device_put((state, tell(frame, frame.lives)))

    def send_on_host(number: np.ndarray, action: np.ndarray) -> np.ndarray:
        find_pool(number).send(np.asarray(action))
        return np.asarray(number)

    def recv_on_host(number: np.ndarray) -> tuple:
        frame = read(Answer(*find_pool(number).recv()))
        return np.asarray(number), *vars(frame).values()

    told_number = jax.ShapeDtypeStruct((), jnp.int32)

    def send(env_state: EmulatorState, action: Array) -> EmulatorState:
        require_state(env_state)
        emulator_action = _choose_emulator_action(action, env_state.lives, table)
        return env_state.replace(handle=io_callback(send_on_host, told_number, env_state.handle, emulator_action))

    def recv(env_state: EmulatorState, action: Array) -> tuple[EmulatorState, TimeStep]:
        del action  # the emulators know it
        told = told_number, *shapes(env_state.lives.shape[0])
        number, *fields = io_callback(recv_on_host, told, env_state.handle)
        frame = Frame(*fields)
        return env_state.replace(handle=number, lives=frame.lives), tell(frame, env_state.lives)

    return Emulators(reset, send, recv)


def host_functions(new_pool: NewPool, read: Read, shapes: Shapes, tell: Tell, table: np.ndarray) -> Emulators:
    """Emulators in plain numpy, never traced; the one way that can refuse an action."""
    del shapes
    reset_latest, find_pool = _latest_pool(new_pool, read)

    def reset(rng_key: Array) -> tuple[EmulatorState, TimeStep]:
        state, frame = reset_latest(rng_key)
        return state, tell(frame, frame.lives)

    def send(env_state: EmulatorState, action: Any) -> EmulatorState:
        action = np.asarray(action)
        require_state(env_state, given=_describe(action))
        _require_actions(action, num_envs=len(env_state.lives), num_actions=len(table))
        find_pool(env_state.handle).send(table[action])
        return env_state

    def recv(env_state: EmulatorState, action: Any) -> tuple[EmulatorState, TimeStep]:
        del action  # the emulators know it
        frame = read(Answer(*find_pool(env_state.handle).recv()))
        return env_state.replace(lives=frame.lives), tell(frame, env_state.lives)

    return Emulators(reset, send, recv)


def _latest_pool(new_pool: NewPool, read: Read) -> tuple[Callable, Callable]:
    """A pool behind a number: a reset drops the pool before, and a state of that pool is refused."""
    pools: dict[int, Any] = {}
    num_resets = 0

    def reset(rng_key: Array) -> tuple[EmulatorState, Frame]:
        nonlocal num_resets
        pools.clear()
        num_resets += 1
        pools[num_resets] = new_pool(rng_key)
        frame = read(_reset_pool(pools[num_resets]))
        number: Any = np.int32(num_resets)
        return EmulatorState(handle=number, lives=frame.lives, pool=0), frame

    def find(number: Any) -> Any:
        if int(number) not in pools:
            raise RuntimeError("step with the state of an earlier reset: its emulators are gone")
        return pools[int(number)]

    return reset, find


def _reset_pool(pool: Any) -> Answer:
    observation, info = pool.reset()
    num_envs = len(info["elapsed_step"])
    nothing = np.zeros((num_envs,), bool)
    return Answer(observation, np.zeros((num_envs,), np.float32), nothing, nothing, info)


def _choose_emulator_action(action: Array, lives: Array, table: np.ndarray) -> Array:
    """Our actions `[B]` as the emulator's int32: EnvPool misreads floats and reads past its table without a word."""
    chex.assert_shape(action, lives.shape)
    return jnp.asarray(table)[jnp.clip(action.astype(jnp.int32), 0, len(table) - 1)]


def _describe(action: np.ndarray) -> str:
    described = f"action: shape {action.shape}, dtype {action.dtype}"
    return f"{described}, range [{action.min()}, {action.max()}]" if action.size else described


def require_state(env_state: Any, given: str = "env_state") -> None:
    """Raises RuntimeError for a step before `reset`."""
    if not isinstance(env_state, EmulatorState):
        name = type(env_state).__name__
        raise RuntimeError(f"{given}: step before reset, the state is {name}. Allowed: the state that reset gave")


def _require_actions(action: np.ndarray, *, num_envs: int, num_actions: int) -> None:
    """Raises ValueError: EnvPool checks neither number, dtype nor range, and a wrong number ends the process."""
    allowed = f"Allowed: shape ({num_envs},), an integer dtype, range [0, {num_actions - 1}]"
    if action.shape != (num_envs,):
        raise ValueError(f"{_describe(action)}: not one action for each of {num_envs} environments. {allowed}")
    if not np.issubdtype(action.dtype, np.integer):
        raise ValueError(f"{_describe(action)}: actions are integers. {allowed}")
    if action.min() < 0 or action.max() >= num_actions:
        raise ValueError(f"{_describe(action)}: no such action. {allowed}")
