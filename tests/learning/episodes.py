"""Hand-made windows, and a world model whose every answer can be worked out on paper."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.models.dynamics import Context
from learnmax_jax.models.support import Support, rescale
from learnmax_jax.types import Array, Batch, Prediction, SearchOutput, SequenceIndex, Transition

NUM_ACTIONS = 3
# Wide enough for 10^5 / 1000 and fine enough that a scalar survives two_hot and expectation.
SUPPORT = Support(minimum=-30.0, maximum=30.0, num_bins=61)


def window(rng: np.random.Generator, *, length: int, transitions: int, ending: str, from_start: bool) -> dict[str, Any]:
    """One window of L + 1 rows as replay gives it out, and what the rows past the end must not say.

    Args:
      rng: draws the rest.
      length: L.
      transitions: how many rows, from row 0 on, are transitions; L + 1 fills the window.
      ending: terminated, truncated (both with a final observation in row `transitions`, if that is in the window), or
        newest (the row after the last transition is the newest one stored: nobody knows yet how it ends).
      from_start: row 0 opens the episode.
    """
    row = np.arange(length + 1)
    valid, mask = row < transitions, row <= transitions
    ends = (row == transitions - 1) & (ending != "newest")
    terminated = ends & (ending == "terminated")
    life_lost = valid & ~ends & (rng.random(length + 1) < 0.1)
    # A reset's discount is 1; padding's is 0.
    discount = np.where(~mask | terminated | life_lost, 0.0, 1.0)
    frame = rng.integers(1, 250, size=length + 1)
    fields = {
        "observation": np.where(mask, frame, frame[min(transitions, length)]),
        "action": rng.integers(0, NUM_ACTIONS, size=length + 1),
        "reward": np.where(valid, 10.0 ** (row % 6), 0.0),
        "discount": discount,
        "first": (row == 0) & from_start,
        "last": ends,
        "valid": valid,
        "search_policy": rng.dirichlet(np.ones(NUM_ACTIONS), size=length + 1),
        "search_value": rng.normal(size=length + 1) * 20,
        "beta": rng.choice([0.0, 0.1, -0.1, 0.2], length + 1),
        "mask": mask,
        # Padding is no observation of its own: whatever is said of it must not count.
        "novelty": np.where(mask, rng.random(length + 1), 77.0),
        "weights": rng.random(),
    }
    return fields


def random_window(rng: np.random.Generator, length: int) -> dict[str, Any]:
    """Any of them, those that end in the last two rows among them."""
    return window(
        rng,
        length=length,
        transitions=int(rng.integers(1, length + 2)),
        ending=str(rng.choice(["terminated", "truncated", "newest"])),
        from_start=bool(rng.random() < 0.5),
    )


def to_batch(windows: list[dict[str, Any]]) -> tuple[Batch, Array]:
    """Batch and novelty `[B, L + 1]`."""
    stacked = {name: np.stack([each[name] for each in windows]) for name in windows[0]}
    count, length = stacked["mask"].shape
    rows = Transition(
        observation=jnp.asarray(stacked["observation"], jnp.uint8)[:, :, None, None, None],
        action=jnp.asarray(stacked["action"], jnp.int32),
        reward=jnp.asarray(stacked["reward"], jnp.float32),
        discount=jnp.asarray(stacked["discount"], jnp.float32),
        first=jnp.asarray(stacked["first"]),
        last=jnp.asarray(stacked["last"]),
        valid=jnp.asarray(stacked["valid"]),
        episode_step=jnp.zeros((count, length), jnp.int32),
        beta=jnp.asarray(stacked["beta"], jnp.float32),
        search_policy=jnp.asarray(stacked["search_policy"], jnp.float16),
        search_value=jnp.asarray(stacked["search_value"], jnp.float32),
        novelty_key=jnp.zeros((count, length, 2), jnp.uint32),
        first_visit=jnp.zeros((count, length), bool),
    )
    nowhere = jnp.zeros(count, jnp.int32)
    batch = Batch(
        rows=rows,
        mask=jnp.asarray(stacked["mask"]),
        weights=jnp.asarray(stacked["weights"], jnp.float32),
        index=SequenceIndex(environment=nowhere, start=nowhere, anchor=nowhere),
    )
    return batch, jnp.asarray(stacked["novelty"], jnp.float32)


def value_of(frame: Any, beta: Any, head: int, scale: Any = 1.0) -> Any:
    """What the paper model thinks of a frame; `head` 0..2 are values, 3.. are Q, 3 + kind * A + action."""
    return scale * ((frame * (7 + head) + 13 * head) % 50 - 25 + 10 * beta * (head + 1))


def _logits(value: Array) -> Array:
    """Logits whose expectation is `value`."""
    return jnp.log(SUPPORT.two_hot(rescale(value)))


def _predict(params: Array, latent: Array, beta: Array) -> Prediction:
    frame = latent[:, 0, 0]
    values = jnp.stack([value_of(frame, beta, head, params) for head in range(3)], axis=1)
    q = [[value_of(frame, beta, 3 + kind * NUM_ACTIONS + a, params) for a in range(NUM_ACTIONS)] for kind in range(2)]
    return Prediction(
        policy_logits=jnp.zeros((frame.shape[0], NUM_ACTIONS)),
        value_logits=_logits(values),
        q_logits=_logits(jnp.stack([jnp.stack(each, axis=1) for each in q], axis=1)),
    )


def _context(params: Array, codes: Array, action: Array, first: Array, *, capacity: int) -> tuple[Context, Array]:
    count, length = first.shape
    # The key of a frame is the frame, so that a search can read which frames it was given.
    keys = jnp.pad(
        codes[:, None, :, :, :].astype(jnp.float32), ((0, 0),) * 2 + ((0, capacity - length),) + ((0, 0),) * 2
    )
    start = jnp.zeros(count, jnp.int32)
    return Context((keys,), (keys,), start, jnp.full(count, length, jnp.int32)), codes.astype(jnp.float32)


# Its parameter is one number that scales all it predicts; a frame's code and latent are its one pixel.
paper_model = types.SimpleNamespace(
    num_actions=NUM_ACTIONS,
    num_outcomes=0,
    tokenise=lambda params, observation: observation.astype(jnp.int32).reshape(-1, 1, 1),
    context=_context,
    predict=_predict,
)


def paper_plan(
    params: Array, rng_key: Array, context: Context, latent: Array, codes: Array, beta: Array
) -> SearchOutput:
    """A search that tells what it was given: the frame, how many frames it saw, the last of them, and beta."""
    del params, rng_key
    frame = latent[:, 0, 0]
    newest = jax.vmap(lambda keys, length: keys[0, length - 1, 0, 0])(context.keys[0], context.length)
    agrees = (newest == frame) & (codes[:, 0, 0] == frame)
    value = jnp.where(agrees, plan_value(frame, context.length, beta), jnp.nan)
    return SearchOutput(
        action=jnp.zeros_like(context.length),
        search_policy=jax.nn.one_hot(context.length % NUM_ACTIONS, NUM_ACTIONS),
        search_value=jnp.stack([value, -value], axis=1),
        depth_mean=jnp.zeros_like(beta),
        depth_max=jnp.zeros_like(context.length),
        finite=jnp.ones_like(agrees),
    )


def plan_value(frame: Any, length: Any, beta: Any) -> Any:
    return frame / 8 + 3 * length + 5 * beta
