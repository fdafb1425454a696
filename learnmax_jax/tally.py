"""What the host counts of a run's play between two reports, and over its life."""

import dataclasses
from typing import Any

import numpy as np

from learnmax_jax.acting.actor import ActOutput


@dataclasses.dataclass
class Tally:
    """Episodes, rooms and tree depths, from the outputs of act phases.

    Attributes:
      num_updates: of the learner, ever.
      num_episodes: finished, ever.
      seconds: wall time of the run up to its last checkpoint.
      rooms: numbers of all rooms seen in play (emulator RAM; a report, nothing learns from it).
      evaluation: the last evaluation's summary.
    """

    num_updates: int = 0
    num_episodes: int = 0
    seconds: float = 0.0
    rooms: set[int] = dataclasses.field(default_factory=set)
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    _scores: list[float] = dataclasses.field(default_factory=list)
    _explorer_scores: list[float] = dataclasses.field(default_factory=list)
    _lengths: list[int] = dataclasses.field(default_factory=list)
    _depth_means: list[float] = dataclasses.field(default_factory=list)
    _depth_max: int = 0

    def add(self, act: ActOutput, num_updates: int) -> None:
        """Counts one act phase `[E, T, ...]` of numpy arrays."""
        rows = act.transitions
        ended = rows.last & rows.valid
        exploits = rows.beta == 0
        self._scores.extend(act.episode_score[ended & exploits].tolist())
        self._explorer_scores.extend(act.episode_score[ended & ~exploits].tolist())
        self._lengths.extend((rows.episode_step[ended] + 1).tolist())
        self._depth_means.append(float(act.depth_mean.mean()))
        self._depth_max = max(self._depth_max, int(act.depth_max.max()))
        self.rooms.update(np.unique(act.probe.room[act.probe.room >= 0]).tolist())
        self.num_episodes += int(ended.sum())
        self.num_updates += num_updates

    def report(self) -> dict[str, Any]:
        """The numbers since the last report; scores are None where no episode ended."""
        row = {
            "episode_score": _mean(self._scores),
            "explorer_score": _mean(self._explorer_scores),
            "explorer_score_max": max(self._explorer_scores, default=None),
            "episode_length": _mean(self._lengths),
            "num_episodes": self.num_episodes,
            "rooms_visited": len(self.rooms),
            "tree_depth_mean": _mean(self._depth_means),
            "tree_depth_max": self._depth_max,
            "evaluation_score": self.evaluation.get("mean_score"),
            "evaluation_rooms": self.evaluation.get("rooms_visited"),
        }
        for values in (self._scores, self._explorer_scores, self._lengths, self._depth_means):
            values.clear()
        self._depth_max = 0
        return row

    def to_meta(self) -> dict[str, Any]:
        """What of it a checkpoint keeps, as json values."""
        return {
            "num_updates": self.num_updates,
            "num_episodes": self.num_episodes,
            "seconds": self.seconds,
            "rooms": sorted(self.rooms),
            "evaluation": self.evaluation,
        }

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "Tally":
        """The tally as `to_meta` kept it."""
        return cls(**(meta | {"rooms": set(meta["rooms"])}))


def _mean(values: list) -> float | None:
    return float(np.mean(values)) if values else None
