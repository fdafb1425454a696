"""The only file that knows EnvPool: emulators behind `types.Environments`, in one of three ways.

`xla` steps them inside the compiled program, `callback` inside it through the host (any device),
`host` outside it in plain numpy. The fourth backend, `world`,
is no emulator: a small environment in pure JAX from `worlds/`.

**Randomness.** `reset(rng_key)` makes a new pool of emulators whose seeds come from the key, one
for each environment. The same key plays the same game whatever `num_threads` is; a resumed run,
whose emulators are gone, resets with another key. A program that was traced with `xla` holds the
pointer of one pool, so the pool's number is a static part of its state: a new reset traces anew
and every pool lives as long as the process, at about 1 MB an environment. Who resets often takes
`callback` or `host`, which drop the pool before.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from learnmax_jax.acting import backends, families, groups, spread
from learnmax_jax.acting.actions import ACTION_NAMES, ACTION_SETS
from learnmax_jax.acting.backends import Emulators, EmulatorState, Frame
from learnmax_jax.acting.families import PROTOCOLS
from learnmax_jax.acting.groups import Groups
from learnmax_jax.acting.probes import probe_ram
from learnmax_jax.types import Array, Environments, TimeStep
from learnmax_jax.worlds import deep_sea, key_door, scripted, sprites, table

__all__ = [
    "ACTION_NAMES",
    "ACTION_SETS",
    "BACKENDS",
    "PROTOCOLS",
    "WORLDS",
    "EmulatorState",
    "check",
    "make",
    "make_groups",
]

BACKENDS = ("xla", "callback", "host", "world")

WORLDS: dict[str, Callable[..., Environments]] = {
    "scripted": scripted.make,
    "table": table.make,
    "key_door": key_door.make,
    "deep_sea": deep_sea.make,
    "sprites": sprites.make,
}


def check(
    *,
    backend: str,
    game: str,
    num_envs: int,
    num_threads: int,
    protocol: str,
    action_set: int,
    max_episode_steps: int,
    zero_discount_on_life_loss: bool,
) -> None:
    """Refuses the arguments that `make` would refuse, without making an environment.

    Raises:
      ValueError: names the field as it stands in a config, its value, what is allowed, the nearest value.
    """
    _require_choice("env.backend", backend, BACKENDS)
    _require_choice("env.protocol", protocol, tuple(PROTOCOLS))
    _require_integer("env.num_envs", num_envs, 1)
    _require_integer("env.num_threads", num_threads, 0)
    _require_integer("env.max_episode_steps", max_episode_steps, 1)
    if not isinstance(zero_discount_on_life_loss, bool):
        raise ValueError(
            f"env.zero_discount_on_life_loss={zero_discount_on_life_loss!r}: not a switch. Allowed: True, False"
        )
    if backend == "world":
        _require_choice("env.game", game, tuple(WORLDS))
        return
    import envpool  # here, so that models and worlds need no EnvPool
    from envpool.atari.registration import atari_game_list

    _require_choice("env.game", game, tuple(envpool.list_all_envs()))
    atari = tuple("".join(word.capitalize() for word in name.split("_")) + "-v5" for name in atari_game_list)
    grids = tuple(name for name in envpool.list_all_envs() if name.startswith("MiniGrid-"))
    if game not in (*atari, *grids):
        nearest = ", ".join(difflib.get_close_matches(game, (*atari, *grids), n=3, cutoff=0.0))
        raise ValueError(
            f"env.game={game}: neither Atari nor MiniGrid. Allowed: EnvPool's ids of these. Nearest: {nearest}"
        )
    family = families.find(game)
    if action_set not in family.action_sets:
        allowed = tuple(family.action_sets)
        raise ValueError(f"env.action_set={action_set!r}: {game} has none. Allowed: {allowed}. Nearest: {allowed[-1]}")
    if protocol not in family.protocols:
        known = tuple(family.protocols)
        raise ValueError(f"env.protocol={protocol}: {game} has none. Allowed: {known}. Nearest: {known[0]}")
    if zero_discount_on_life_loss and not family.has_lives:
        raise ValueError(f"env.zero_discount_on_life_loss=True: {game} has no lives. Allowed: False. Nearest: False")
    refuse_64_bit(backend, game)


def refuse_64_bit(backend: str, game: str) -> None:
    """Raises ValueError where EnvPool's XLA interface would write 64-bit values into 32-bit buffers."""
    import envpool

    spec = envpool.make_spec(game)
    arrays = {**spec.state_array_spec, **spec.action_array_spec}
    wide = sorted(name for name, array in arrays.items() if np.dtype(array.dtype).itemsize == 8)
    if backend == "xla" and wide:
        raise ValueError(
            f"env.backend=xla: {game} has 64-bit arrays {wide}, which corrupt memory there. Allowed: callback, host. "
            "Nearest: callback"
        )


def make(**arguments: Any) -> Environments:
    """B environments that all step at once; arguments as of `make_groups`, save num_groups."""
    return make_groups(num_groups=1, **arguments).environments


def make_groups(
    *,
    num_groups: int,
    backend: str,
    game: str,
    num_envs: int,
    num_threads: int,
    protocol: str,
    action_set: int,
    max_episode_steps: int,
    zero_discount_on_life_loss: bool,
    world: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
) -> Groups:
    """Makes B environments behind one signature, in groups that are told and waited for one by one.

    Atari games give grey frames `[B, 84, 84, 1]` uint8 and raw scores, 4 frames a step; for MiniGrid see families.py.
    Actions are cast to int32 and clipped to [0, A) inside a compiled program; the `host` backend
    raises instead (ValueError with shape, dtype and range; RuntimeError for a step before `reset`).

    Args:
      num_groups: G, a divisor of B; 1 where there are several devices. The `host` backend is one group always. What
        an environment plays does not depend on it.
      backend: `xla`, `callback`, `host` or `world`.
      game: EnvPool's id of an Atari game or a MiniGrid, e.g. `MontezumaRevenge-v5`; for `world` a name in `WORLDS`,
        which has its own actions and episodes: only num_envs and `world` reach it.
      num_envs: B.
      num_threads: EnvPool's threads of each pool, of which every group and device has one; 0 for one a core. Changes
        the speed only.
      protocol: `standard` (sticky actions, random start) or `deterministic`.
      action_set: A, one of the family's.
      max_episode_steps: steps (not frames) after which an episode is truncated.
      zero_discount_on_life_loss: a lost life has discount 0; the episode goes on.
      world: the other arguments of the world's own `make`; for `world` only.
      mesh: the devices that the rows are split over; none for JAX's default one.
    Returns:
      Groups; only worlds are restorable.
    Raises:
      ValueError: as `check`; num_groups is none of what is allowed; or the world refuses an argument, named as it
        stands in its `make`.
    """
    check(
        backend=backend,
        game=game,
        num_envs=num_envs,
        num_threads=num_threads,
        protocol=protocol,
        action_set=action_set,
        max_episode_steps=max_episode_steps,
        zero_discount_on_life_loss=zero_discount_on_life_loss,
    )
    groups.check(num_groups, num_envs=num_envs, num_devices=mesh.size if mesh else 1)
    if backend == "world":
        made = WORLDS[game](num_envs=num_envs, **(world or {}))
        return groups.at_once(spread.world(mesh, made) if mesh and mesh.size > 1 else made, num_groups)
    if world:
        raise ValueError(f"world={dict(world)}: {game} is an emulator. Allowed: env.backend=world. Nearest: none")
    if backend == "xla" and jax.default_backend() not in ("cpu", "gpu"):
        raise ValueError(f"env.backend=xla: EnvPool has no {jax.default_backend()} code. Allowed: callback, host")

    family = families.find(game)

    def tell(frame: Frame, lives_before: Any) -> TimeStep:
        return make_time_step(frame, lives_before, game=game, zero_discount_on_life_loss=zero_discount_on_life_loss)

    functions = {
        "xla": backends.xla_functions,
        "callback": backends.callback_functions,
        "host": backends.host_functions,
    }

    def pools_of(places: Sequence[int], num_parts: int) -> list[Emulators]:
        """The emulators of some parts of the environments, of which there are num_parts."""
        share = num_envs // num_parts
        return [pool_of(slice(place * share, (place + 1) * share)) for place in places]

    def pool_of(mine: slice) -> Emulators:
        """The emulators of some of the environments."""

        def new_pool(rng_key: Array) -> Any:
            return make_pool(
                game,
                seeds=_draw_seeds(rng_key, num_envs)[mine],
                num_threads=num_threads,
                max_episode_steps=max_episode_steps,
                **family.protocols[protocol],
            )

        return functions[backend](new_pool, family.read, family.frame_shapes, tell, family.emulator_actions(action_set))

    def about(reset: backends.Reset, step: backends.Step) -> Environments:
        return Environments(
            num_envs=num_envs,
            num_actions=action_set,
            action_names=family.action_sets[action_set],
            observation_shape=family.observation_shape,
            observation_levels=family.observation_levels,
            frames_per_step=family.frames_per_step,
            restorable=False,
            reset=reset,
            step=step,
        )

    if mesh and mesh.size > 1:
        parts = pools_of(spread.places(mesh), mesh.size)
        return groups.at_once(about(*spread.emulators(mesh, parts)), num_groups)
    if backend == "host":
        everything = pool_of(slice(None))
        return groups.at_once(about(everything.reset, everything.step), 1)
    return groups.emulators(pools_of(range(num_groups), num_groups), about)


def make_pool(game: str, *, seeds: list[int], num_threads: int, max_episode_steps: int, **protocol: Any) -> Any:
    """Makes EnvPool's own pool, one environment for each seed; `protocol` is one of its family's."""
    import envpool

    return envpool.make(
        game,
        env_type="gymnasium",
        num_envs=len(seeds),
        num_threads=num_threads,
        seed=seeds,
        max_episode_steps=max_episode_steps,
        **families.find(game).options,
        **protocol,
    )


def _draw_seeds(rng_key: Array, num_envs: int) -> list[int]:
    """A positive int32 seed for each environment; environment b's does not depend on B."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng_key, jnp.arange(num_envs))
    seeds = jax.vmap(lambda key: jax.random.randint(key, (), 1, 2**31 - 1))(keys)
    return [int(seed) for seed in jax.device_get(seeds)]


def make_time_step(frame: Frame, lives_before: Any, *, game: str, zero_discount_on_life_loss: bool) -> TimeStep:
    """Reads EnvPool's flags, numpy or traced, as the time picture has them.

    Args:
      frame: EnvPool's answer to action[t].
      lives_before: `[B]` int32, lives at observation[t].
      game: EnvPool id, for the probe.
      zero_discount_on_life_loss: a step that lost a life has discount 0.
    """
    first = frame.elapsed_step == 0
    terminated = frame.terminated > 0
    no_bootstrap = terminated
    if zero_discount_on_life_loss:
        no_bootstrap = terminated | ((frame.lives < lives_before) & ~first)
    return TimeStep(
        observation=frame.observation,
        reward=frame.reward,
        discount=1 - no_bootstrap.astype("float32"),
        first=first,
        last=terminated | frame.truncated,
        probe=probe_ram(game, frame.ram, frame.lives),
    )


def _require_choice(field: str, given: Any, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        nearest = ", ".join(difflib.get_close_matches(str(given), allowed, n=3, cutoff=0.0))
        known = allowed if len(allowed) < 10 else f"{len(allowed)} names of envpool.list_all_envs()"
        raise ValueError(f"{field}={given}: unknown. Allowed: {known}. Nearest: {nearest}")


def _require_integer(field: str, given: Any, low: int) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or not low <= given < 2**31:
        raise ValueError(
            f"{field}={given!r}: out of range. Allowed: integers from {low} to {2**31 - 1}. Nearest: {low}"
        )
