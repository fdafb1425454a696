"""How the fields of a config must fit together."""

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from learnmax_jax.config_schema import check_fields, error, flatten, optional_section
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


def check_devices(config: Any, num_devices: int, num_processes: int = 1) -> None:
    """Checks that what is split over the devices divides by their number, and that the backend can be."""
    if num_processes > 1 and config.env.backend == "xla":
        why = f"{num_processes} processes would compile programs with pointers of their own"
        raise error("env.backend", "xla", why, "callback", "callback")
    for name in ("env.num_envs", "learner.batch_size", "tokenizer_learner.batch_size"):
        value = flatten(config)[name]
        if value % num_devices:
            near = neighbours(value, num_devices)
            raise error(name, value, f"does not divide by {num_devices} devices", f"multiples of {num_devices}", near)
    _check_groups(config, num_devices)


def _check_name(config: Any) -> None:
    """The name becomes part of a folder's name, and must not lead out of runs/."""
    if not re.fullmatch(r"[^/.\s][^/\s]*", config.name):
        near = re.sub(r"[/.\s]+", "-", config.name).strip("-") or "run"
        raise error("name", config.name, "is no folder's name", "a text without '/', blanks and a dot in front", near)


def _check_search(config: Any) -> None:
    search, num_envs = config.search, config.env.num_envs
    if search.kind != "none" and search.num_simulations == 0:
        raise error("search.num_simulations", 0, f"search.kind={search.kind} simulates", "at least 1", 1)
    considered = search.max_num_considered_actions
    if config.env.backend != "world" and considered > config.env.action_set:
        why = f"exceeds env.action_set={config.env.action_set}"
        allowed = f"1 to {config.env.action_set}"
        raise error("search.max_num_considered_actions", considered, why, allowed, config.env.action_set)
    exploit = config.exploration.num_exploit_envs
    if exploit > num_envs:
        why = f"exceeds env.num_envs={num_envs}"
        raise error("exploration.num_exploit_envs", exploit, why, f"0 to {num_envs}", num_envs)


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
    if config.replay.min_size > capacity:
        why = "exceeds replay.capacity"
        raise error("replay.min_size", config.replay.min_size, why, f"1 to {capacity}", capacity)


def _check_curriculum(config: Any) -> None:
    section = optional_section(config, "curriculum")
    if not section:
        return
    name, lengths = "curriculum.lengths", section["lengths"]
    from learnmax_jax.acting import families

    if config.env.backend == "world" or families.find(config.env.game).pays_by_time_limit:
        why = f"{config.env.game}'s time limit is its own, or part of what it pays"
        raise error(name, lengths, why, "Atari games", "no section curriculum")
    rising = (*lengths, config.env.max_episode_steps)
    if any(short >= longer for short, longer in itertools.pairwise(rising)):
        why = f"episodes grow from stage to stage, up to env.max_episode_steps={config.env.max_episode_steps}"
        raise error(
            name, lengths, why, "rising lengths", tuple(sorted({length for length in lengths if length < rising[-1]}))
        )


def _check_rates(config: Any) -> None:
    for section in ("learner", "tokenizer_learner"):
        warmup, decay = config[section].warmup_updates, config[section].decay_updates
        if 0 < decay <= warmup:
            why = f"is over before the warm-up, {section}.warmup_updates={warmup}"
            raise error(f"{section}.decay_updates", decay, why, f"0, or at least {warmup + 1}", warmup + 1)


def _check_pretrain(config: Any) -> None:
    section = optional_section(config, "pretrain")
    if not section:
        return
    every, examine = section["report_every_updates"], section["examine_every_updates"]
    if examine % every:
        name = "pretrain.examine_every_updates"
        raise error(name, examine, "falls between two reports", f"multiples of {every}", neighbours(examine, every))
    window, length = config.actor.window, config.learner.sequence_length
    if section["overlap_length"] > min(window, length):
        why = "test windows are shorter, and could not be told from training ones"
        nearest = min(window, length)
        raise error("pretrain.overlap_length", section["overlap_length"], why, f"1 to {nearest}", nearest)


def _check_updates(config: Any) -> None:
    updates_per_step(config)


def _check_groups(config: Any, num_devices: int) -> None:
    from learnmax_jax.acting import groups

    with _section("actor"):
        groups.check(config.actor.num_groups, num_envs=config.env.num_envs, num_devices=num_devices)


def _check_rooms(config: Any) -> None:
    """Asks the rooms themselves: building their parts allocates and compiles nothing."""
    from learnmax_jax.acting import envs, families
    from learnmax_jax.models.support import Support
    from learnmax_jax.models.tokenizer import make_tokenizer
    from learnmax_jax.models.world_model import make_world_model
    from learnmax_jax.replay.buffer import make_replay

    with _section("env"):
        envs.check(**config.env)
    _check_groups(config, num_devices=1)
    if config.env.backend == "world":
        with _section("world"):
            world = envs.make(**config.env, world=optional_section(config, "world"))
        shape, action_names, levels = world.observation_shape, world.action_names, world.observation_levels
    else:
        family = families.find(config.env.game)
        shape, levels = family.observation_shape, family.observation_levels
        action_names = family.action_sets[config.env.action_set]
    _check_levels(config, levels)
    with _section("support"):
        support = Support(**config.support)
    with _section("tokenizer"):
        growth = optional_section(config, "growth") or None
        tokenizer = make_tokenizer(observation_shape=shape, growth=growth, **config.tokenizer)
    with _section("dynamics"):
        make_world_model(
            tokenizer,
            num_actions=len(action_names),
            action_names=action_names,
            num_bins=support.num_bins,
            **config.dynamics,
        )
    with _section("replay"):
        make_replay(
            num_envs=config.env.num_envs,
            chunk_length=config.actor.num_steps,
            batch_size=config.learner.batch_size,
            sequence_length=config.learner.sequence_length,
            **{name: value for name, value in config.replay.items() if name != "records_per_shard"},
        )


def _check_levels(config: Any, levels: int) -> None:
    """An integer that is no code would pass for another one."""
    num_codes = config.tokenizer.num_codes
    if config.tokenizer.quantizer == "identity" and num_codes < levels:
        why = f"the observation's integers, which quantizer=identity keeps, go up to {levels - 1}"
        raise error("tokenizer.num_codes", num_codes, why, f"at least {levels}, code_dim alike", levels)


@contextlib.contextmanager
def _section(name: str) -> Iterator[None]:
    """Puts a section's name before the field that a room complains of."""
    try:
        yield
    except ValueError as complaint:
        line = str(complaint)
        raise BadInput(line if line.startswith(f"{name}.") else f"{name}.{line}") from complaint


# The cheap ones first: the last imports JAX and the emulators' lists.
CHECKS: tuple[Callable[[Any], None], ...] = (
    check_fields,
    _check_name,
    _check_search,
    _check_replay,
    _check_updates,
    _check_rates,
    _check_curriculum,
    _check_pretrain,
    _check_rooms,
)
