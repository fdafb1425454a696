"""Play without a learner, written as a data set.

    <folder>/recording.json            what was recorded, and how
    <folder>/shards/                   transitions, as a run writes them (replay/shards.py)
    <folder>/probes/record-<n>.npz     what the emulator's RAM says of record n's observations: evaluation only

A record is acknowledged when its line is printed: shard and probes are on the disk by then. A
recording that was stopped at any moment goes on with the next record; the emulators start new
episodes there, and those in flight are broken off.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from learnmax_jax import config, config_schema, lifecycle
from learnmax_jax.acting import envs, policies
from learnmax_jax.acting.routes import load_routes
from learnmax_jax.lifecycle import BadInput
from learnmax_jax.replay import shards
from learnmax_jax.types import Probe, Transition

# A record and the probes of its observations, numpy `[E, T, ...]`.
Chunk = tuple[Transition, Probe]

_ROUTE = "door_18"  # the longest known one: it passes the key


def record(
    settings: config.Settings,
    *,
    folder: pathlib.Path,
    num_observations: int,
    policy: str,
    stop: lifecycle.StopWatcher,
) -> int:
    """Records until the folder holds `num_observations`, whole records.

    Args:
      settings: the config; `env`, `actor.num_steps`, `seed` and `replay.records_per_shard` are read.
      folder: made if it is not there; goes on where a recording with the same settings stopped.
      num_observations: rows in all, final observations of episodes included.
      policy: one of `policies.POLICIES`, or `run:DIR` for a trained agent with its own betas.
      stop: tells of a signal.
    Returns:
      Exit code 0.
    Raises:
      BadInput: an unknown policy, or a folder with another recording. StorageError: the disk failed.
      Preempted: a signal came; what was acknowledged stays.
    """
    _check_policy(settings, policy)
    facts = {
        "policy": policy,
        "seed": settings.seed,
        "num_steps": settings.actor.num_steps,
        "env": {name: value for name, value in settings.env.items() if name not in ("num_threads", "backend")},
        "world": config_schema.optional_section(settings, "world"),
    }
    rows_per_record = settings.env.num_envs * settings.actor.num_steps
    num_records = -(-num_observations // rows_per_record)
    with lifecycle.locked(folder):
        _check_folder(folder, facts)
        with _storage(folder):
            begin = shards.ShardReader(folder / "shards").span()[1]
            writer = shards.ShardWriter(
                folder / "shards", records_per_shard=settings.replay.records_per_shard, next_index=begin
            )
        try:
            (folder / "probes").mkdir(exist_ok=True)
            if begin >= num_records:
                print(f"{folder}: holds {begin * rows_per_record:,} observations", flush=True)
                return lifecycle.DONE
            clock = time.monotonic()
            for index, (transitions, probe) in zip(range(begin, num_records), _play(settings, policy, begin)):
                with _storage(folder):
                    _write_whole(folder / "probes" / f"record-{index:08d}.npz", vars(probe))
                    writer.append(transitions)
                    writer.flush()
                speed = (index + 1 - begin) * rows_per_record / (time.monotonic() - clock)
                left = (num_records - index - 1) * rows_per_record / speed
                print(
                    f"{(index + 1) * rows_per_record:,} of {num_records * rows_per_record:,} observations, "
                    f"{speed:,.0f}/s, {left:,.0f} s left",
                    flush=True,
                )
                if stop.requested:
                    raise lifecycle.Preempted(f"{folder}: holds {index + 1} records; the same command continues")
                stop.set_at_stake(True)
        finally:
            writer.close()
            stop.set_at_stake(False)
    return lifecycle.DONE


def read_probes(folder: pathlib.Path, index: int) -> Probe:
    """Reads the probes of one record, numpy `[E, T, ...]`.

    Raises:
      BadInput: the file is missing or damaged.
    """
    path = folder / "probes" / f"record-{index:08d}.npz"
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return Probe(**{field.name: arrays[field.name] for field in dataclasses.fields(Probe)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
        raise BadInput(f"{path}: record {index}: {problem}. Allowed: probes as the recording wrote them.") from problem


def _check_policy(settings: config.Settings, policy: str) -> None:
    """Refuses what `_play` could not play, before anything is written."""
    kind, _, workdir = policy.partition(":")
    if kind not in (*policies.POLICIES, "run") or (kind == "run") != bool(workdir):
        near = max(policies.POLICIES, key=lambda name: len(set(name) & set(policy)))
        raise BadInput(f"--policy={policy}: unknown. Allowed: {', '.join(policies.POLICIES)}, run:DIR. Nearest: {near}")
    if kind == "route" and (settings.env.protocol != "deterministic" or settings.env.action_set != 18):
        raise BadInput(
            f"--policy=route: env.protocol={settings.env.protocol}, env.action_set={settings.env.action_set}: the "
            "routes hold there alone. Allowed: deterministic, 18. Nearest: --protocol=deterministic"
        )


def _play(settings: config.Settings, policy: str, begin: int) -> Iterator[Chunk]:
    """Chunks from record `begin` on; another begin draws other episodes."""
    kind, _, workdir = policy.partition(":")
    if kind == "run":
        return _play_run(settings, pathlib.Path(workdir), begin)
    return _play_policy(settings, kind, load_routes()[_ROUTE].actions if kind == "route" else (), begin)


def _play_policy(settings: config.Settings, kind: str, route: tuple[int, ...], begin: int) -> Iterator[Chunk]:
    """A policy without a model; emulators on the host, nothing of them is compiled."""
    is_world = settings.env.backend == "world"
    section = settings.env.to_dict() | ({} if is_world else {"backend": "host"})
    with lifecycle.bad_input():
        environments = envs.make(**section, world=config_schema.optional_section(settings, "world"))
    num_envs = environments.num_envs
    step: Callable[..., Any] = jax.jit(environments.step) if is_world else environments.step
    act = policies.make(
        kind,
        num_envs=num_envs,
        num_actions=environments.num_actions,
        generator=np.random.default_rng([settings.seed, begin]),
        route=route,
    )
    env_state, time_step = environments.reset(jax.random.fold_in(jax.random.key(settings.seed), begin))
    ended, episode_step = np.zeros((num_envs,), bool), np.zeros((num_envs,), np.int32)
    while True:
        rows, probes = [], []
        for _ in range(settings.actor.num_steps):
            first = np.asarray(time_step.first)
            episode_step = np.where(first, 0, episode_step)
            action = act(first)
            env_state, following = step(env_state, action)
            rows.append(_row(time_step, action, following, ~ended, episode_step, environments.num_actions))
            probes.append(jax.tree.map(np.asarray, time_step.probe))
            ended, episode_step = np.asarray(following.last), episode_step + 1
            time_step = following
        yield (
            jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *rows),
            jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *probes),
        )


def _row(
    now: Any, action: np.ndarray, following: Any, valid: np.ndarray, episode_step: np.ndarray, num_actions: int
) -> Transition:
    """One row of every environment; what only a search could say is neutral."""
    num_envs = len(action)
    fields: dict[str, Any] = {
        "observation": np.array(now.observation),
        "action": action,
        "reward": np.array(following.reward, np.float32),
        "discount": np.array(following.discount, np.float32),
        "first": np.array(now.first),
        "last": np.array(following.last),
        "valid": valid,
        "episode_step": episode_step.astype(np.int32),
        "beta": np.zeros((num_envs,), np.float32),
        "search_policy": np.full((num_envs, num_actions), 1 / num_actions, np.float16),
        "search_value": np.zeros((num_envs,), np.float32),
        "novelty_key": np.zeros((num_envs, 2), np.uint32),
        "first_visit": np.zeros((num_envs,), bool),
    }
    return Transition(**fields)


def _play_run(settings: config.Settings, workdir: pathlib.Path, begin: int) -> Iterator[Chunk]:
    """The newest good checkpoint of a run, over the `callback` backend, with the run's betas and Gumbel noise."""
    from learnmax_jax import agent as agents
    from learnmax_jax import evaluation
    from learnmax_jax import step as steps

    saved, params, _, _ = evaluation.restore(workdir)
    section = config.thaw(saved)
    section.env = settings.env.to_dict()
    section.env.backend = "world" if settings.env.backend == "world" else "callback"
    section.actor.num_steps, section.actor.num_groups = settings.actor.num_steps, settings.actor.num_groups
    section.exploration.num_exploit_envs = min(saved.exploration.num_exploit_envs, settings.env.num_envs)
    player = agents.build_player(config.check(section))
    act = jax.jit(lambda state, key: evaluation.act_without_counts(player, params, state, key))
    env_key, act_key = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), begin))
    env_state, time_step = player.environments.reset(env_key)
    state = steps.actor_at(player, params, env_state, time_step)
    before = jax.device_get(time_step.probe)
    for phase in itertools.count():
        state, output = act(state, jax.random.fold_in(act_key, phase))
        output = jax.device_get(output)
        # Acting tells of the observation after each step, a data set of the one before it.
        probe = jax.tree.map(lambda old, new: np.concatenate([old[:, None], new[:, :-1]], 1), before, output.probe)
        before = jax.tree.map(lambda new: new[:, -1], output.probe)
        yield output.transitions, probe


def _check_folder(folder: pathlib.Path, facts: dict[str, Any]) -> None:
    """Writes what is recorded here, or compares it with what is there."""
    path = folder / "recording.json"
    if not path.exists():
        writing = path.with_name(path.name + ".tmp")
        writing.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
        os.replace(writing, path)
        return
    saved = json.loads(path.read_text())
    changed = [f"{name}: saved {saved.get(name)}, given {new}" for name, new in facts.items() if saved.get(name) != new]
    if changed:
        why = f"holds another recording ({'; '.join(changed)})"
        raise BadInput(f"--out={folder}: {why}. Allowed: the same settings, or another folder.")


def _write_whole(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    """Writes an npz file, durable when it returns: its name is never seen with half of it."""
    writing = path.with_name(path.name + ".tmp")
    with writing.open("wb") as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(writing, path)


@contextlib.contextmanager
def _storage(folder: pathlib.Path) -> Iterator[None]:
    """The disk's failures, and shards that are not as they were written, end a recording."""
    try:
        yield
    except (OSError, ValueError) as problem:
        raise lifecycle.StorageError(f"{folder}: {problem}") from problem
