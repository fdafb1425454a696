"""Frames to codes and codes to pictures, any number of them."""

import jax
import numpy as np

from learnmax_jax.agent import Agent
from learnmax_jax.examination.batching import chunks
from learnmax_jax.learning.learner import TrainState


class Codec:
    """An agent's tokenizer, compiled for pieces of one size."""

    def __init__(self, agent: Agent) -> None:
        """Compiles nothing yet."""
        self._tokenise = jax.jit(lambda params, x: agent.world_model.tokenise(params, x))
        self._decode = jax.jit(lambda params, codes: agent.world_model.decode(params, codes))

    def tokenise(self, train: TrainState, frames: np.ndarray) -> np.ndarray:
        """Codes `[M, N, G]` of frames `[M, H, W, C]`, a few at a time."""
        # One after the other: what is dispatched ahead has its memory already.
        parts = [jax.device_get(self._tokenise(train.model, x)) for x in chunks(frames)]
        return np.concatenate(parts)[: len(frames)]

    def decode(self, train: TrainState, codes: np.ndarray) -> np.ndarray:
        """Pictures `[M, H, W]` of codes `[M, N, G]`."""
        parts = [jax.device_get(self._decode(train.model, x)) for x in chunks(codes)]
        return np.concatenate(parts)[: len(codes), ..., 0]
