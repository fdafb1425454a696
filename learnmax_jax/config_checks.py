"""How the fields of a config must fit together."""

import math
from collections.abc import Callable
from typing import Any

from learnmax_jax.config_schema import check_fields, error, flatten, nearest
from learnmax_jax.lifecycle import BadInput


def neighbours(value: int, divisor: int) -> str:
    """Names the multiples of `divisor` on both sides of a value."""
    below = value // divisor * divisor
    return " or ".join(str(number) for number in (below, below + divisor) if number > 0)


def updates_per_step(config: Any) -> int:
    """Learner updates in one train step, from the replay ratio.

    Raises:
      BadInput: the ratio does not give a whole number of at least 1; both neighbours are named.
    """
    steps = config.env.num_envs * config.actor.num_steps
    observations = config.learner.batch_size * config.learner.sequence_length
    updates = config.learner.replay_ratio * steps / observations
    if updates >= 1 and math.isclose(updates, round(updates), rel_tol=1e-6):
        return round(updates)
    works = [n * observations / steps for n in (math.floor(updates), math.ceil(updates)) if n > 0]
    raise error(
        "learner.replay_ratio",
        config.learner.replay_ratio,
        f"gives {updates:g} updates for {steps} agent steps at {observations} observations an update",
        "whole updates: multiples of learner.batch_size * sequence_length / (env.num_envs * actor.num_steps)",
        " or ".join(f"{ratio:g}" for ratio in works),
    )


def check_devices(config: Any, num_devices: int) -> None:
    """Checks that what is sharded over the devices divides by their number."""
    for name in ("env.num_envs", "learner.batch_size", "tokenizer_learner.batch_size"):
        value = flatten(config)[name]
        if value % num_devices:
            near = neighbours(value, num_devices)
            raise error(name, value, f"does not divide by {num_devices} devices", f"multiples of {num_devices}", near)


def _check_models(config: Any) -> None:
    tokenizer, dynamics, support = config.tokenizer, config.dynamics, config.support
    if tokenizer.layout != "frame" and tokenizer.num_groups != 1:
        raise error("tokenizer.num_groups", tokenizer.num_groups, f"layout {tokenizer.layout} has one group", "1", 1)
    if tokenizer.layout != "frame" and config.env.backend != "world" and 84 % tokenizer.patch_size:
        sizes = [size for size in range(2, 85) if 84 % size == 0]
        near = nearest(tokenizer.patch_size, sizes)
        raise error("tokenizer.patch_size", tokenizer.patch_size, "does not divide 84 pixels", str(sizes), near)
    if dynamics.width % (2 * dynamics.num_heads):
        near = neighbours(dynamics.width, 2 * dynamics.num_heads)
        why = f"rotary heads need an even width each, num_heads={dynamics.num_heads}"
        raise error("dynamics.width", dynamics.width, why, f"multiples of {2 * dynamics.num_heads}", near)
    if support.minimum >= support.maximum:
        raise error("support.minimum", support.minimum, "is not below support.maximum", f"below {support.maximum}")


def _check_search(config: Any) -> None:
    search = config.search
    if (search.kind == "none") != (search.num_simulations == 0):
        why = f"does not fit search.kind={search.kind}"
        raise error("search.num_simulations", search.num_simulations, why, "0 with kind none, at least 1 otherwise")
    if search.max_num_considered_actions > config.env.action_set and config.env.backend != "world":
        why = f"exceeds env.action_set={config.env.action_set}"
        allowed = f"1 to {config.env.action_set}"
        given = search.max_num_considered_actions
        raise error("search.max_num_considered_actions", given, why, allowed, config.env.action_set)
    if config.exploration.num_exploit_envs > config.env.num_envs:
        why = f"exceeds env.num_envs={config.env.num_envs}"
        given = config.exploration.num_exploit_envs
        raise error("exploration.num_exploit_envs", given, why, f"0 to {config.env.num_envs}", config.env.num_envs)


def _check_replay(config: Any) -> None:
    """A sampled window must fit into an environment's part of the ring beside the chunk being written."""
    length, num_envs = config.learner.sequence_length, config.env.num_envs
    if config.learner.unroll_steps > length:
        why = f"exceeds learner.sequence_length={length}"
        raise error("learner.unroll_steps", config.learner.unroll_steps, why, f"1 to {length}", length)
    chunk = num_envs * config.actor.num_steps
    capacity = config.replay.capacity
    if capacity % chunk:
        why = f"rows come in chunks of env.num_envs * actor.num_steps = {chunk}"
        raise error("replay.capacity", capacity, why, f"multiples of {chunk}", neighbours(capacity, chunk))
    needed = num_envs * (length + 1 + config.actor.num_steps)
    if capacity < needed:
        why = f"holds no window of learner.sequence_length + 1 = {length + 1} rows of each of {num_envs} environments"
        least = math.ceil(needed / chunk) * chunk
        raise error("replay.capacity", capacity, why, f"at least {least}", least)
    if not num_envs * (length + 1) <= config.replay.min_size <= capacity:
        low = num_envs * (length + 1)
        near = min(max(config.replay.min_size, low), capacity)
        why = "the ring must hold a window of each environment before it is sampled"
        raise error("replay.min_size", config.replay.min_size, why, f"{low} to replay.capacity={capacity}", near)


def _check_updates(config: Any) -> None:
    updates_per_step(config)


def _check_environments(config: Any) -> None:
    """Asks the acting room, which knows the games and the emulators' limits."""
    from learnmax_jax.acting import envs

    try:
        envs.check(**config.env)
    except ValueError as complaint:
        raise BadInput(str(complaint)) from complaint


CHECKS: tuple[Callable[[Any], None], ...] = (
    check_fields,
    _check_models,
    _check_search,
    _check_replay,
    _check_updates,
    _check_environments,
)
