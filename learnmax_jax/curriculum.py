"""Short episodes first: a run in stages, each with longer episodes than the one before.

A section `curriculum` of the config gives the lengths of the early stages; the last stage has env.max_episode_steps. A
stage begins with emulators of its own, so the step is traced once a stage; the episodes under way are broken
off, as at a resume, and what the time limit cuts is a truncation, whose value lives on.
Source: the notes (S4-55), resets after few steps; Pardo et al. 2018 (time limits), https://arxiv.org/abs/1712.00378
"""

import dataclasses
from typing import Any

from learnmax_jax import config


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
      settings: the config with this stage's env.max_episode_steps.
      first_step, last_step: act-learn steps: those from first_step up to last_step, without it.
    """

    settings: config.Settings
    first_step: int
    last_step: int


def stages(settings: config.Settings) -> list[Stage]:
    """A run's stages in order; one where the config has no curriculum.

    A stage's end is rounded up to whole act-learn steps; stages behind num_env_steps are left out.
    """
    num_steps = config.num_steps(settings)
    lengths: tuple[int, ...] = ()
    steps_a_stage = num_steps
    if "curriculum" in settings:
        lengths = tuple(settings.curriculum.lengths)
        steps_a_stage = -(-settings.curriculum.env_steps_a_stage // config.steps_per_call(settings))
    made = []
    for number, length in enumerate((*lengths, settings.env.max_episode_steps)):
        first = number * steps_a_stage
        last = num_steps if number == len(lengths) else min(first + steps_a_stage, num_steps)
        if first < last:
            made.append(Stage(_with_length(settings, length), first, last))
    return made


def stage_at(settings: config.Settings, step: int) -> Stage:
    """The stage that plays the act-learn step `step`; the last one for steps behind the run's end."""
    made = stages(settings)
    return next((stage for stage in made if step < stage.last_step), made[-1])


def _with_length(settings: config.Settings, max_episode_steps: int) -> config.Settings:
    changed: Any = config.thaw(settings)
    changed.env.max_episode_steps = max_episode_steps
    return config.Settings(changed)
