"""Scripted play: rows of every environment as numpy records, each row unlike any other."""

import dataclasses

import jax
import numpy as np

from learnmax_jax.types import Transition

NUM_ACTIONS = 3


class Stream:
    """Endless play of E environments with next-step resets; keeps every row it ever gave."""

    def __init__(self, num_envs: int, seed: int, longest: int, truncated_share: float = 0.5) -> None:
        self.rng = np.random.default_rng(seed)
        self.longest = longest
        self.truncated_share = truncated_share
        self.rows: list[list[Transition]] = [[] for _ in range(num_envs)]
        self.left = [self._draw_length() for _ in range(num_envs)]
        self.step = [0] * num_envs
        self.episode = [0] * num_envs

    def _draw_length(self) -> int:
        return int(self.rng.integers(1, self.longest + 1))

    def break_off(self) -> None:
        """Begins new episodes everywhere, as a resumed run does."""
        for e in range(len(self.rows)):
            self._begin(e)

    def _begin(self, e: int) -> None:
        self.left[e], self.step[e], self.episode[e] = self._draw_length(), 0, self.episode[e] + 1

    def _row(self, e: int) -> Transition:
        time = len(self.rows[e])
        final = self.left[e] == 0
        last = self.left[e] == 1
        terminated = last and self.rng.random() >= self.truncated_share
        row = Transition(
            observation=np.array([time % 256, time // 256, e, self.episode[e] % 256], np.uint8).reshape(2, 2, 1),
            action=np.int32(self.rng.integers(NUM_ACTIONS)),
            reward=np.float32(0 if final else time + 1),
            discount=np.float32(0 if terminated else 1),
            first=np.bool_(self.step[e] == 0),
            last=np.bool_(last),
            valid=np.bool_(not final),
            episode_step=np.int32(self.step[e]),
            beta=np.float32(e),
            search_policy=self.rng.dirichlet(np.ones(NUM_ACTIONS)).astype(np.float16),
            search_value=np.float32(self.rng.normal()),
            novelty_key=np.array([time, e], np.uint32),
            first_visit=np.bool_(self.rng.random() < 0.5),
        )
        if final:
            self._begin(e)
        else:
            self.left[e] -= 1
            self.step[e] += 1
        return row

    def chunk(self, length: int) -> Transition:
        """Plays `length` steps; Transition `[E, length, ...]`."""
        for e, rows in enumerate(self.rows):
            rows.extend(self._row(e) for _ in range(length))
        chunk = [stack(rows[-length:]) for rows in self.rows]
        return stack(chunk)


def stack(records: list) -> Transition:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *records)


def example(num_envs: int) -> Transition:
    """Rows `[E, ...]` of the stream's shapes."""
    return jax.tree.map(lambda x: x[:, 0], Stream(num_envs, 0, 5).chunk(1))


def fields(record: Transition) -> dict[str, np.ndarray]:
    return {field.name: np.asarray(getattr(record, field.name)) for field in dataclasses.fields(record)}
