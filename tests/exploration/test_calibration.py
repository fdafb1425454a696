"""Does the ensemble know where it is wrong? Its values' spread beside |V - V*| on a random table (S2-27).

`-s` prints the figures.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.exploration import disagreement
from learnmax_jax.exploration.kind import Parts
from learnmax_jax.models.novelty_nets import Ensemble
from learnmax_jax.models.rows import latents
from learnmax_jax.types import Batch
from tests.exploration.batches import batch_of, spearman
from tests.learning import small

BASE, ACTIONS, MEMBERS, WIDTH, GAMMA = 8, 4, 5, 32, 0.9
STATES = BASE * BASE
UPDATES, BATCH = 600, 64


def _world(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random table: next states `[S, A]`, and V* of the states they are, `[S, A]`, one reward in four."""
    following = rng.integers(0, STATES, (STATES, ACTIONS))
    reward = rng.random((STATES, ACTIONS)) * (rng.random((STATES, ACTIONS)) < 0.25)
    best = np.zeros(STATES)
    for _ in range(200):
        best = (reward + GAMMA * best[following]).max(axis=1)
    return following, (best[following] - best.mean()) / best.std()


def _batch(following: np.ndarray, values: np.ndarray, state: np.ndarray, action: np.ndarray, time: np.ndarray) -> Batch:
    """A transition a window: what a state and an action lead to, and its value."""
    both = np.stack([state, following[state, action]], axis=1)
    observation = np.stack(np.divmod(both, BASE), axis=-1)[:, :, None, None, :]
    value = np.stack([np.zeros(len(state)), values[state, action]], axis=1)
    taken = np.stack([action, np.zeros_like(action)], axis=1)
    return batch_of(
        observation,
        time,
        action=jnp.asarray(taken, jnp.int32),
        search_value=jnp.asarray(value, jnp.float32),
        search_policy=jnp.full((*both.shape, ACTIONS), 1 / ACTIONS, jnp.float16),
    )


def correlations(seed: int) -> tuple[float, float, float]:
    """Rank correlations over all (state, action): spread with error, spread with visits; spread of a shuffle."""
    rng = np.random.default_rng(seed)
    following, values = _world(rng)
    tokenizer = small.identity_tokenizer(num_groups=2, num_codes=BASE)
    model = small.small_world_model(tokenizer, num_actions=ACTIONS)
    blank = jnp.zeros((1, 1, 1, 2), jnp.uint8)
    params = model.init(jax.random.key(seed), blank, tokenizer.init(jax.random.key(seed + 1), blank))
    kind = disagreement.make(
        Parts(num_envs=1, observation_shape=(1, 1, 2), tokenizer=tokenizer, world_model=model, latent_width=16),
        num_members=MEMBERS,
        width=WIDTH,
        prior_scale=1.0,
        value_weight=0.5,
        learning_rate=3e-3,
    )
    # Some pairs often, some rarely, a quarter of them never.
    shares = np.zeros(STATES * ACTIONS)
    visited = rng.permutation(STATES * ACTIONS)[: 3 * STATES * ACTIONS // 4]
    shares[visited] = 1 / np.arange(1, len(visited) + 1)
    seen = rng.choice(STATES * ACTIONS, p=shares / shares.sum(), size=512)  # the replay: each is a row of its own
    visits = np.bincount(seen, minlength=STATES * ACTIONS)
    pay, state = jax.jit(kind.pay), kind.init(jax.random.key(seed + 2))
    for update in range(UPDATES):
        rows = rng.integers(0, len(seen), BATCH)
        here, action = np.divmod(seen[rows], ACTIONS)
        state = pay(state, params, _batch(following, values, here, action, rows), jax.random.key(update)).state
    every, action = np.divmod(np.arange(STATES * ACTIONS), ACTIONS)
    batch = _batch(following, values, every, action, np.zeros(len(every), int))
    _, latent = latents(model, params, batch)
    net = Ensemble(num_members=MEMBERS, num_actions=ACTIONS, num_groups=2, num_codes=BASE, width=WIDTH, prior_scale=1.0)
    _, predicted = net.apply({"params": state.params}, latent[:, :1], jnp.asarray(action)[:, None])
    predicted = np.asarray(predicted)[..., 0]
    spread, error = predicted.std(axis=0), np.abs(predicted.mean(axis=0) - values[every, action])
    return spearman(spread, error), spearman(spread, -visits), spearman(rng.permutation(spread), error)


@pytest.mark.slow
def test_s2_27_the_spread_of_values_ranks_their_error() -> None:
    figures: Any = np.asarray([correlations(seed) for seed in range(5)])
    print("\nspread with |V - V*|, spread with rarity, shuffled spread:", figures.round(2).tolist())
    of_error, of_rarity, shuffled = figures.T
    assert (of_error > 0.3).all()
    assert (of_rarity > 0.3).all()
    assert (np.abs(shuffled) < 0.2).all()
