"""What a tokenizer and a model are worth on held-out frames; RAM is read here, and nothing learns from it.

Names of the figures: `recall` (share of frames whose decoded picture shows the player), `position_error`
(pixels, of a linear probe of the codes for each room), `room_accuracy` (of another), `gap_closed_<k>` (share
of the step from copying the last frame to reconstructing the next that k open-loop steps go, in foreground error;
the likeliest codes decoded), `gap_closed_mean_<k>` (the same of the picture of all that is held possible),
`frames_right_<k>` (share of frames all of whose codes are), `wrong_action_ratio` (loss with another action asked about,
over the loss with the one that was taken; frames that change), `held_out_codes_used` (of a codebook; the room's
is not counted) and `rooms_apart` (share of the rooms whose background is no other room's, too; training frames).
"""

import pathlib
from functools import partial
from typing import Any

import jax

from learnmax_jax import pictures
from learnmax_jax.agent import Agent
from learnmax_jax.examination import held_out, of_tokenizer
from learnmax_jax.examination.codec import Codec
from learnmax_jax.examination.of_model import ModelExaminer
from learnmax_jax.learning.learner import TrainState
from learnmax_jax.replay.dataset import Dataset


class Examiner:
    """Held-out frames and windows of one data set, and what is compiled to look at them."""

    def __init__(self, agent: Agent, recorded: Dataset, data: pathlib.Path) -> None:
        """Gathers frames, windows and RAM's facts; compiles nothing.

        Args:
          agent: the parts.
          recorded: the data set.
          data: its folder, for the probes.
        """
        self._agent, self._codec = agent, Codec(agent)
        self._held_out = held_out.gather(agent.config, recorded, data)
        self.windows, self.context_frames = self._held_out.windows, self._held_out.context_frames
        self.of_model: ModelExaminer | None = None
        if self.windows is not None:
            self.of_model = ModelExaminer(agent, self._codec, self._held_out, self.windows)
        self.imagine = jax.jit(
            partial(
                pictures.imagine,
                world_model=agent.world_model,
                context_frames=self.context_frames,
                unroll_steps=agent.config.learner.unroll_steps,
            )
        )

    def examine(self, train: TrainState, *, with_model: bool) -> dict[str, Any]:
        """All figures that the data allows.

        Args:
          train: what has learned.
          with_model: the dynamics has learned something too.
        """
        figures, probe = of_tokenizer.examine(self._agent, self._codec, self._held_out, train)
        if with_model and self.of_model is not None:
            figures |= self.of_model.examine(train, probe)
        return figures
