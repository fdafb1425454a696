"""What EnvPool's games of one kind differ in from those of another: names, pools, and how an answer is read.

atari      84x84 grey frames, four emulator frames an action; the RAM is for the probe alone
minigrid   what the agent sees of a grid, 7x7 cells of three integers, and which way it looks: 148 integers in all,
           for the tokenizer's quantizer `identity`; what a goal pays depends on env.max_episode_steps
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.acting.actions import ACTION_SETS
from learnmax_jax.acting.backends import Answer, Frame

FRAME_SKIP = 4  # emulator frames an action lasts (Mnih et al. 2015)
FRAME_SIZE = 84  # height and width (Mnih et al. 2015, https://doi.org/10.1038/nature14236)
VIEW_SIZE, VIEW_CHANNELS = 7, 3  # cells a side; object, colour, state (Chevalier-Boisvert et al. 2023)


# `standard` is the protocol with sticky actions and up to 30 no-ops at the start, all 18 actions
# and no sign of lost lives (Machado et al. 2018, https://arxiv.org/abs/1709.06009);
# `deterministic` has nothing random left (noop_max 0 crashes EnvPool; 1 means none).
PROTOCOLS: dict[str, dict[str, Any]] = {
    "standard": {"repeat_action_probability": 0.25, "noop_max": 30, "use_fire_reset": False, "frame_skip": FRAME_SKIP},
    "deterministic": {
        "repeat_action_probability": 0.0,
        "noop_max": 1,
        "use_fire_reset": False,
        "frame_skip": FRAME_SKIP,
    },
}


@dataclasses.dataclass(frozen=True)
class Family:
    """Games that are made and read alike.

    Attributes:
      action_sets: A -> names.
      protocols: their names, and what each adds to the options.
      has_lives: games may take a life without ending.
      pays_by_time_limit: what a game pays depends on env.max_episode_steps.
      observation_shape: (H, W, C). observation_levels: its integers are below this.
      frames_per_step: emulator frames an action lasts.
      options: arguments of envpool.make beside the common ones.
      read: EnvPool's answer -> Frame, numpy or traced.
      frame_shapes: B -> the shapes of a Frame, field by field.
    """

    action_sets: dict[int, tuple[str, ...]]
    protocols: dict[str, dict[str, Any]]
    has_lives: bool
    pays_by_time_limit: bool
    observation_shape: tuple[int, int, int]
    observation_levels: int
    frames_per_step: int
    options: dict[str, Any]
    read: Callable[[Answer], Frame]
    frame_shapes: Callable[[int], tuple[jax.ShapeDtypeStruct, ...]]

    def emulator_actions(self, action_set: int) -> np.ndarray:
        """Numbers `[A]` int32 of a set's actions in the emulator's order: the emulator's action for each of ours."""
        everything = max(self.action_sets.values(), key=len)
        return np.array([everything.index(name) for name in self.action_sets[action_set]], np.int32)


def find(game: str) -> Family:
    """The family of an EnvPool id."""
    return MINIGRID if game.startswith("MiniGrid-") else ATARI


def _read_atari(answer: Answer) -> Frame:
    info = answer.info
    return Frame(
        observation=answer.observation.reshape(-1, FRAME_SIZE, FRAME_SIZE, 1),
        reward=answer.reward,
        truncated=answer.truncated,
        # A game over on the very step of the time limit comes flagged as truncated only: ask the emulator.
        terminated=info["terminated"],
        elapsed_step=info["elapsed_step"],
        lives=info["lives"],
        ram=info["ram"],
    )


def _read_minigrid(answer: Answer) -> Frame:
    image, direction = answer.observation["image"], answer.observation["direction"]
    xp: Any = np if isinstance(image, np.ndarray) else jnp
    seen = xp.concatenate([image.reshape(image.shape[0], -1), direction[:, None].astype("uint8")], axis=1)
    return Frame(
        observation=seen[:, None, None, :],
        reward=answer.reward,
        truncated=answer.truncated,
        # EnvPool says of a goal on the last allowed step that it was cut off only; what pays, ends.
        terminated=(answer.terminated | (answer.reward > 0)).astype("int32"),
        elapsed_step=answer.info["elapsed_step"],
        lives=xp.ones_like(direction),
        ram=answer.info["agent_pos"].astype("uint8"),
    )


def _frame_shapes(observation_shape: tuple[int, int, int], ram: tuple[int, Any]) -> Callable[[int], tuple]:
    """The shapes of a Frame, field by field; `ram` is what the probe reads: bytes or numbers a game, and their type."""

    def shapes(num_envs: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        integers = jax.ShapeDtypeStruct((num_envs,), jnp.int32)
        frame = Frame(
            observation=jax.ShapeDtypeStruct((num_envs, *observation_shape), jnp.uint8),
            reward=jax.ShapeDtypeStruct((num_envs,), jnp.float32),
            truncated=jax.ShapeDtypeStruct((num_envs,), jnp.bool_),
            terminated=integers,
            elapsed_step=integers,
            lives=integers,
            ram=jax.ShapeDtypeStruct((num_envs, ram[0]), ram[1]),
        )
        return tuple(vars(frame).values())

    return shapes


ATARI = Family(
    action_sets=ACTION_SETS,
    protocols=PROTOCOLS,
    has_lives=True,
    pays_by_time_limit=False,
    observation_shape=(FRAME_SIZE, FRAME_SIZE, 1),
    observation_levels=256,
    frames_per_step=FRAME_SKIP,
    options={
        "stack_num": 1,
        "img_height": FRAME_SIZE,
        "img_width": FRAME_SIZE,
        "gray_scale": True,
        "full_action_space": True,
        "episodic_life": False,
        "reward_clip": False,
    },
    read=_read_atari,
    frame_shapes=_frame_shapes((FRAME_SIZE, FRAME_SIZE, 1), (128, jnp.uint8)),
)
_VIEW = VIEW_SIZE * VIEW_SIZE * VIEW_CHANNELS + 1
MINIGRID = Family(
    action_sets={7: ("LEFT TURN", "RIGHT TURN", "FORWARD", "PICK UP", "DROP", "TOGGLE", "DONE")},
    protocols={"deterministic": {}},  # nothing is sticky; every episode has a grid of its own all the same
    has_lives=False,
    pays_by_time_limit=True,
    observation_shape=(1, 1, _VIEW),
    observation_levels=11,  # kinds of objects
    frames_per_step=1,
    options={},
    read=_read_minigrid,
    frame_shapes=_frame_shapes((1, 1, _VIEW), (2, jnp.uint8)),
)
