"""What the dynamics predicts of held-out windows."""

from functools import partial
from typing import Any

import jax
import numpy as np

from learnmax_jax.agent import Agent
from learnmax_jax.examination.batching import NUM_WINDOWS, batches, filled
from learnmax_jax.examination.codec import Codec
from learnmax_jax.examination.held_out import HORIZONS, HeldOut
from learnmax_jax.examination.of_tokenizer import ReadPlaces
from learnmax_jax.learning.learner import TrainState
from learnmax_jax.measures import latent_space, linear_probe, prediction
from learnmax_jax.measures.rollout import Rollout, forced_nats, roll_out
from learnmax_jax.models.code_tables import scale_and_rank
from learnmax_jax.types import Batch

# Frames that a model may see before it predicts one: does it use more than the last?
WINDOWS = (1, 2, 3, 8, 32)


class ModelExaminer:
    """Held-out windows, and what is compiled to roll a model through them: once, an examination may come often."""

    def __init__(self, agent: Agent, codec: Codec, held_out: HeldOut, windows: Batch) -> None:
        """Compiles nothing yet; `windows` are those of `held_out`, which has some."""
        self._agent, self._codec, self._held_out, self._windows = agent, codec, held_out, windows
        self._count = windows.mask.shape[0]
        end = held_out.context_frames
        self._taken = np.asarray(windows.rows.action)[:, end - 1 : end - 1 + max(HORIZONS)]  # led to the frames ahead
        ahead: dict[str, Any] = {
            "world_model": agent.world_model,
            "context_frames": end,
            "unroll_steps": max(HORIZONS),
        }
        self._roll_out = jax.jit(partial(roll_out, **ahead))
        self._forced_nats = jax.jit(partial(forced_nats, **ahead))
        self._look = {
            window: jax.jit(partial(roll_out, world_model=agent.world_model, context_frames=window, unroll_steps=1))
            for window in WINDOWS
            if window <= end
        }

    def examine(self, train: TrainState, probe: ReadPlaces | None) -> dict[str, Any]:
        """Figures of predictions, and of the latents that they are made from.

        Args:
          train: what has learned.
          probe: reads the player's place off codes; without one, its error is left out.
        """
        parts = [self._roll_out(train.model, part) for part in batches(self._windows)]
        rolled: Any = jax.tree.map(lambda *x: np.concatenate(x)[: self._count], *jax.device_get(parts))
        figures = {
            **self._of_latents(train, rolled),
            **self._of_losses(rolled),
            **self._of_actions(train, rolled),
            **self._of_window_lengths(train),
        }
        for k in HORIZONS:
            figures |= self._of_horizon(train, rolled, probe, k)
        return figures

    def _of_latents(self, train: TrainState, rolled: Rollout) -> dict[str, Any]:
        """Whether imagined latents are told from those of true frames, and what codes are to the transformer."""
        imagined, seen = (x[:, 0].mean(axis=1) for x in (rolled.latents, rolled.forced_latents))
        scale, rank = scale_and_rank(self._agent.world_model.code_table(train.model))
        return {
            "code_input_scale": float(scale.mean()),
            "code_input_rank": float(rank.mean()),
            "latent_separability": float(latent_space.separability(jax.random.key(0), seen, imagined, ridge=1e-3)),
            "latent_spread": float(np.std(seen, axis=0).mean()),  # 0 where a consistency loss made all latents one
            "latent_cka": float(latent_space.linear_cka(seen, imagined)),
        }

    def _of_losses(self, rolled: Rollout) -> dict[str, Any]:
        """Losses where true frames come before, in one pass or one by one, and open loop."""
        forced, rolling, opened = (float(x.mean()) for x in (rolled.forced_nats, rolled.rolling_nats, rolled.nats))
        return {
            "forced_nats": forced,
            "rolling_nats": rolling,
            "open_nats": opened,
            "rolling_over_forced": rolling / max(forced, 1e-9),
            "exposure_ratio": opened / max(rolling, 1e-9),
        }

    def _of_actions(self, train: TrainState, rolled: Rollout) -> dict[str, Any]:
        """The loss where another window's action is asked about, and of the actions that were held out."""
        asked = self._taken[np.random.default_rng(0).permutation(self._count)]
        pieces = filled(asked, NUM_WINDOWS).reshape(-1, NUM_WINDOWS, asked.shape[1])
        parts = zip(batches(self._windows), pieces, strict=True)
        wrong = np.concatenate([self._forced_nats(train.model, *part) for part in parts])[: self._count]
        before = np.concatenate([rolled.last_codes[:, None], rolled.codes[:, :-1]], axis=1)
        telling = (rolled.codes != before).any(axis=(-2, -1)) & (asked != self._taken)
        forced = np.asarray(rolled.forced_nats)
        ratio = float(wrong[telling].mean() / max(forced[telling].mean(), 1e-9)) if telling.any() else None
        held_out = np.isin(self._taken, self._agent.config.pretrain.held_out_actions)
        of_held_out = {"held_out_action_nats": float(forced[held_out].mean())} if held_out.any() else {}
        return {"wrong_action_ratio": ratio, **of_held_out}

    def _of_window_lengths(self, train: TrainState) -> dict[str, Any]:
        """Losses of the next frame, and of whether the episode ends, by how many frames are seen before it."""
        figures = {}
        for window in self._look:
            figures[f"nats_of_window_{window}"], _ = self.nats_of_window(train, self._windows, window)
            _, figures[f"end_nats_of_window_{window}"] = self.nats_of_window(train, self._held_out.endings, window)
        return figures

    def nats_of_window(self, train: TrainState, windows: Batch, window: int) -> tuple[float, float]:
        """Cross-entropies of the first frame ahead, and of whether the episode ends there.

        Only the last `window` frames before it are seen.
        """
        seen = _cut(windows, self._held_out.context_frames - window)
        rolled = [self._look[window](train.model, part) for part in batches(seen)]
        count = seen.mask.shape[0]
        of_codes, of_end = (
            np.concatenate([getattr(part, name)[:, 0] for part in rolled])[:count] for name in ("nats", "end_nats")
        )
        return float(of_codes.mean()), float(of_end.mean())

    def _of_horizon(self, train: TrainState, rolled: Any, probe: ReadPlaces | None, k: int) -> dict[str, Any]:
        """Codes, pictures and the player's place after k open-loop steps; `rolled` is a Rollout of numpy arrays."""
        assert self._held_out.ahead is not None
        at = k - 1
        ahead = self._held_out.ahead[at :: max(HORIZONS)]
        true, medians = ahead.grey, self._held_out.medians(ahead)
        last = np.asarray(self._windows.rows.observation[:, self._held_out.context_frames - 1, ..., 0], np.float32)
        predicted, codes = rolled.predicted[:, at], rolled.codes[:, at]
        mask = prediction.foreground(true, last, medians, threshold=self._agent.config.tokenizer.motion_threshold)
        errors = {
            "model": prediction.foreground_error(true, self._codec.decode(train, predicted), mask),
            "copy": prediction.foreground_error(true, last, mask),
            "reconstruction": prediction.foreground_error(true, self._codec.decode(train, codes), mask),
        }
        mean = prediction.foreground_error(true, rolled.mean_frames[:, at, ..., 0], mask)
        figures = {f"error_{name}_{k}": value for name, value in errors.items()} | {
            f"error_mean_{k}": mean,
            f"gap_closed_{k}": prediction.gap_closed(**errors),
            f"gap_closed_mean_{k}": prediction.gap_closed(**(errors | {"model": mean})),
            f"changed_accuracy_{k}": prediction.changed_accuracy(codes, predicted, rolled.last_codes),
            f"accuracy_{k}": float((codes == predicted).mean()),
            f"frames_right_{k}": float((codes == predicted).all(axis=(-2, -1)).mean()),
        }
        if probe is not None:
            off = linear_probe.distance(probe(predicted, ahead.room), ahead.places)
            figures[f"predicted_position_error_{k}"] = float(off.mean())
        return figures


def _cut(windows: Batch, begin: int) -> Batch:
    """Windows without their first rows."""
    return windows.replace(rows=jax.tree.map(lambda x: x[:, begin:], windows.rows), mask=windows.mask[:, begin:])
