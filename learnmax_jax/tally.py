"""What the host counts of a run's play between two reports, and over its life; a checkpoint keeps all of it."""

import dataclasses
from typing import Any

import numpy as np

from learnmax_jax.acting.actor import ActOutput

LAST_EPISODES = 100


@dataclasses.dataclass
class Tally:
    """Episodes, rooms and tree depths, from the outputs of act phases.

    Attributes:
      num_updates: of the learner, ever.
      num_episodes: finished, ever.
      first_paid_step: env steps when a reward above 0 first came, to anybody; None before.
      seconds: wall time of the run up to its last checkpoint.
      rooms: numbers of all rooms seen in play (emulator RAM; a report, nothing learns from it).
      evaluation: the last evaluation's summary.
      wrong_action_ratio: of the model, if it was asked since the last report.
      last_scores: of the last 100 episodes at beta 0, as the field averages them.
      last_training_scores: of the last 100 of all environments, as published training curves average them.
      scores, explorer_scores, lengths: of the episodes that ended since the last report.
      depth_means, depth_max: of the search trees since the last report.
    """

    num_updates: int = 0
    num_episodes: int = 0
    first_paid_step: int | None = None
    seconds: float = 0.0
    rooms: set[int] = dataclasses.field(default_factory=set)
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    wrong_action_ratio: float | None = None
    last_scores: list[float] = dataclasses.field(default_factory=list)
    last_training_scores: list[float] = dataclasses.field(default_factory=list)
    scores: list[float] = dataclasses.field(default_factory=list)
    explorer_scores: list[float] = dataclasses.field(default_factory=list)
    lengths: list[int] = dataclasses.field(default_factory=list)
    depth_means: list[float] = dataclasses.field(default_factory=list)
    depth_max: int = 0

    def add(self, act: ActOutput, num_updates: int, *, first_env_step: int) -> None:
        """Counts one act phase `[E, T, ...]` of numpy arrays, before which there were `first_env_step` steps."""
        rows = act.transitions
        ended = rows.last & rows.valid
        exploits = rows.beta == 0
        self.scores.extend(act.episode_score[ended & exploits].tolist())
        self.last_scores = (self.last_scores + act.episode_score[ended & exploits].tolist())[-LAST_EPISODES:]
        all_scores = act.episode_score[ended].tolist()
        self.last_training_scores = (self.last_training_scores + all_scores)[-LAST_EPISODES:]
        paid = (rows.reward > 0).any(axis=0)
        if self.first_paid_step is None and paid.any():
            self.first_paid_step = first_env_step + (int(paid.argmax()) + 1) * len(rows.reward)
        self.explorer_scores.extend(act.episode_score[ended & ~exploits].tolist())
        self.lengths.extend((rows.episode_step[ended] + 1).tolist())
        self.depth_means.append(float(act.depth_mean.mean()))
        self.depth_max = max(self.depth_max, int(act.depth_max.max()))
        self.rooms.update(np.unique(act.probe.room[act.probe.room >= 0]).tolist())
        self.num_episodes += int(ended.sum())
        self.num_updates += num_updates

    def report(self) -> dict[str, Any]:
        """The numbers since the last report; scores are None where no episode ended."""
        full = len(self.last_scores) == LAST_EPISODES
        full_training = len(self.last_training_scores) == LAST_EPISODES
        row = {
            "episode_score": _mean(self.scores),
            "score_of_last_100": _mean(self.last_scores) if full else None,
            "training_score_of_last_100": _mean(self.last_training_scores) if full_training else None,
            "paid_of_last_100": float(np.mean(np.array(self.last_scores) > 0)) if full else None,
            "first_paid_step": self.first_paid_step,
            "explorer_score": _mean(self.explorer_scores),
            "explorer_score_max": max(self.explorer_scores, default=None),
            "episode_length": _mean(self.lengths),
            "num_episodes": self.num_episodes,
            "rooms_visited": len(self.rooms),
            "tree_depth_mean": _mean(self.depth_means),
            "tree_depth_max": self.depth_max,
            "evaluation_score": self.evaluation.get("mean_score"),
            "evaluation_rooms": self.evaluation.get("rooms_visited"),
            "wrong_action_ratio": self.wrong_action_ratio,
        }
        for values in (self.scores, self.explorer_scores, self.lengths, self.depth_means):
            values.clear()
        self.depth_max, self.wrong_action_ratio = 0, None
        return row

    def to_meta(self) -> dict[str, Any]:
        """All of it as json values: a row after a resume tells of the same steps as without the stop."""
        return dataclasses.asdict(self) | {"rooms": sorted(self.rooms)}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "Tally":
        """The tally as `to_meta` kept it; what another version kept beside is left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in meta.items() if name in known} | {"rooms": set(meta["rooms"])})


def _mean(values: list) -> float | None:
    return float(np.mean(values)) if values else None
