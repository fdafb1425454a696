"""Evaluation: whole episodes at beta 0, and a film of one.

Uses the same `act` as training, over emulators of its own. Every environment plays exactly
one episode, so that short episodes are not counted more often than long ones. The probe of
the emulator's RAM is read here, for rooms and the key, and nowhere where something learns.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from learnmax_jax import agent as agents
from learnmax_jax import checkpoints, config, lifecycle, pictures
from learnmax_jax import step as steps
from learnmax_jax.acting.actor import ActorState, ActOutput
from learnmax_jax.models.world_model import ModelParams
from learnmax_jax.types import Array

FILM_FRAMES = 2000  # at most; longer episodes are cut
FILM_FRAME_MILLISECONDS = 66  # 15 agent steps a second, the game's own speed at frame skip 4


@dataclasses.dataclass(frozen=True)
class Result:
    """Episodes that were played.

    Attributes:
      scores: raw score of each episode.
      lengths: agent steps of each.
      rooms: numbers of the rooms seen in any (empty where the game has no such probe).
      key_rate: share of episodes in which the key was held at some time; None without a probe.
      frames_per_step: emulator frames an agent step lasts.
      protocol, noise: as played.
      film: `[T, H, W]` uint8, the first environment's episode.
    """

    scores: list[float]
    lengths: list[int]
    rooms: list[int]
    key_rate: float | None
    frames_per_step: int
    protocol: str
    noise: str
    film: np.ndarray

    def summary(self) -> dict[str, Any]:
        """The numbers as json values."""
        return {
            "mean_score": float(np.mean(self.scores)),
            "median_score": float(np.median(self.scores)),
            "scores": self.scores,
            "rooms_visited": len(self.rooms),
            "key_rate": self.key_rate,
            "num_env_steps": sum(self.lengths),
            "num_frames": sum(self.lengths) * self.frames_per_step,
            "protocol": self.protocol,
            "noise": self.noise,
        }


class Evaluator:
    """Emulators of its own, and an act that is compiled once however often it plays."""

    def __init__(
        self, settings: config.Settings, *, protocol: str, num_episodes: int, max_episode_steps: int, noise: str
    ) -> None:
        """Builds the player; compiles nothing.

        Args:
          settings: the run's config.
          protocol: "standard" or "deterministic".
          num_episodes: at least 1, each in an environment of its own.
          max_episode_steps: agent steps after which an episode is cut off.
          noise: "none" (greedy), "search" (actions are sampled, by the search's Gumbel noise) or "training" (random
            actions, too).
        """
        self.noise = noise
        section = config.thaw(settings)
        section.env.num_envs, section.env.protocol = num_episodes, protocol
        section.env.max_episode_steps = max_episode_steps
        # Not xla: its program would be compiled anew for each evaluation's pool.
        section.env.backend = "world" if settings.env.backend == "world" else "callback"
        if noise == "none":
            section.search.gumbel_scale = 0.0
        if noise != "training":
            section.exploration.epsilon = 0.0
        section.exploration.num_exploit_envs = num_episodes
        section.actor.num_groups = 1  # any number of episodes divides by it
        self.player = agents.build_player(config.Settings(section))
        self._act = jax.jit(partial(act_without_counts, self.player))

    def play(self, params: ModelParams, rng_key: Array, *, interrupted: Callable[[], bool]) -> Result | None:
        """Plays one episode in each environment.

        Args:
          params: of the model.
          rng_key: consumed; seeds the emulators.
          interrupted: asked between act phases; the evaluation is given up when it says so.
        Returns:
          Result, or None if interrupted.
        """
        player = self.player
        num_episodes, max_episode_steps = player.environments.num_envs, player.config.env.max_episode_steps
        env_key, act_key = jax.random.split(rng_key)
        state = steps.start_actor(player, params, env_key)
        scores, lengths = np.zeros(num_episodes), np.zeros(num_episodes, int)
        over = np.zeros(num_episodes, bool)
        rooms: set[int] = set()
        held_key = np.zeros(num_episodes, bool)
        film = [np.asarray(state.observation[:1])]
        phase = 0
        while not over.all():
            if interrupted():
                return None
            state, output = self._act(params, state, jax.random.fold_in(act_key, phase))
            output = jax.device_get(output)
            rows = output.transitions
            before = over[:, None] | (np.cumsum(rows.last, axis=1) - rows.last > 0)
            playing = ~before
            cut = lengths[:, None] + np.cumsum(playing, axis=1) >= max_episode_steps
            playing &= lengths[:, None] + np.cumsum(playing, axis=1) <= max_episode_steps
            scores += np.where(playing, rows.reward, 0.0).sum(axis=1)
            lengths += playing.sum(axis=1)
            rooms.update(np.unique(output.probe.room[playing & (output.probe.room >= 0)]).tolist())
            held_key |= ((output.probe.key > 0) & playing).any(axis=1)
            if len(film) < FILM_FRAMES:
                film.extend(rows.observation[0, playing[0]][:, None])
            over |= (rows.last & playing).any(axis=1) | cut[:, -1]
            phase += 1
        has_probe = bool(rooms)
        return Result(
            scores=scores.tolist(),
            lengths=lengths.tolist(),
            rooms=sorted(rooms),
            key_rate=float(held_key.mean()) if has_probe else None,
            frames_per_step=player.environments.frames_per_step,
            protocol=player.config.env.protocol,
            noise=self.noise,
            film=pictures.drawable(np.concatenate(film[1 : FILM_FRAMES + 1]))[..., 0],
        )


def act_without_counts(
    player: agents.Player, params: ModelParams, state: ActorState, rng_key: Array
) -> tuple[ActorState, ActOutput]:
    """An act phase that counts no visits; see actor.act."""

    def observe(nothing: tuple[()], observation: Array, first: Array, reward: Array) -> tuple[tuple[()], Array, Array]:
        del reward
        return nothing, jnp.zeros((observation.shape[0], 2), jnp.uint32), jnp.zeros_like(first)

    state, _, output = player.act(params, state, (), rng_key, observe=observe)
    return state, output


def write_film(result: Result, path: pathlib.Path) -> pathlib.Path:
    """Writes the film as a GIF of 2x pixels; makes the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.fromarray(frame).resize((frame.shape[1] * 2, frame.shape[0] * 2)) for frame in result.film]
    options = {"save_all": True, "append_images": frames[1:], "duration": FILM_FRAME_MILLISECONDS, "loop": 0}
    writing = path.with_name(path.name + ".tmp")
    frames[0].save(writing, format="GIF", **options)
    os.replace(writing, path)
    return path


def restore(workdir: pathlib.Path) -> tuple[config.Settings, ModelParams, Array, int]:
    """Reads a run's settings and its newest good checkpoint; writes nothing.

    Returns:
      (settings, model, the run's key, act-learn steps done).
    Raises:
      BadInput: the folder holds no run or no checkpoint yet. StorageError: no checkpoint is good.
    """
    settings = config.check(config.thaw(config.load_saved(workdir / "config.json")))
    with lifecycle.bad_input():
        agent = agents.build(settings)
    restored = checkpoints.restore(workdir / "checkpoints", steps.to_save(agent, steps.state_spec(agent)))
    if restored is None:
        raise lifecycle.BadInput(f"workdir={workdir}: holds no checkpoint yet. Allowed: a run that has saved one.")
    return settings, restored.state["train"].model, restored.state["rng_key"], restored.step
