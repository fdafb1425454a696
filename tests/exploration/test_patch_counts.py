"""Visits of each cell's levels: by hand, against a plain loop, and where whole frames would still be novel."""

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.exploration import patch_counts
from learnmax_jax.exploration.kind import Parts
from tests.exploration.batches import batch_of

PARTS = Parts(num_envs=3, observation_shape=(2, 2, 1), tokenizer=None, world_model=None, latent_width=1)  # type: ignore[arg-type]
KIND = patch_counts.make(PARTS, grid_height=2, grid_width=2, num_levels=4, num_stages=3)


def frames(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (3, 2, 2, 1)).astype(np.uint8)


def test_visits_first_visits_and_bonus_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    state = KIND.init(jax.random.key(0))
    see = jax.jit(KIND.observe)
    visits: dict[tuple, int] = {}
    seen: list[set] = [set(), set(), set()]
    stages = [0, 0, 0]
    shown: list[set] = []
    for step in range(24):
        observation, first = frames(rng), rng.random(3) < 0.2
        reward = np.where(rng.random(3) < 0.3, rng.choice([-1.0, 100.0], 3), 0.0).astype(np.float32)
        state, keys, first_visit = see(state, jnp.asarray(observation), jnp.asarray(first), jnp.asarray(reward))
        for env in range(3):
            before = stages[env]
            stages[env] = 0 if first[env] else min(before + (reward[env] != 0), 2)
            seen[env] = set() if first[env] or stages[env] != before else seen[env]
            now = {(stages[env], cell, int(pixel) // 64) for cell, pixel in enumerate(observation[env].ravel())}
            assert int(keys[env, 1]) == stages[env] + 1
            assert bool(first_visit[env]) == bool(now - seen[env]), (step, env)
            seen[env] |= now
            for each in now:
                visits[each] = visits.get(each, 0) + 1
            shown.append(now)
        rarest = [min(visits[each] for each in now) for now in shown[-3:]]
        np.testing.assert_allclose(KIND.rarity(state, keys), np.asarray(rarest) ** -0.5, rtol=1e-6)
        assert keys.shape == (3, 2)
    observation = np.stack([frames(rng), frames(rng)], axis=1)
    stage = np.array([[0, 1], [2, 0], [1, 2]])
    batch = batch_of(
        observation,
        np.zeros(3),
        first_visit=jnp.array([[True, True], [True, False], [True, True]]),
        novelty_key=jnp.asarray(np.stack([stage, stage + 1], axis=-1), jnp.uint32),
    )
    paid = KIND.pay(state, None, batch, jax.random.key(0)).bonus
    for env, time in np.ndindex(3, 2):
        levels = (observation[env, time].ravel() // 64).tolist()
        rarest = min(max(visits.get((int(stage[env, time]), *cell), 0), 1) for cell in enumerate(levels))
        np.testing.assert_allclose(paid[env, time], 0.0 if (env, time) == (1, 1) else rarest**-0.5, rtol=1e-6)
    metrics = KIND.metrics(state)
    assert int(metrics["num_keys"]) == len({each[1:] for each in visits})
    assert int(metrics["num_later_keys"]) == len([each for each in visits if each[0] > 0]) > 0


def test_a_known_skull_and_a_known_player_are_known_together() -> None:
    """Whole frames would call each of their combinations new."""
    state = KIND.init(jax.random.key(0))
    both = []
    for skull in (0, 90):
        for player in (0, 90):
            both.append(np.array([skull, player, 0, 0], np.uint8).reshape(2, 2, 1))
    apart = [both[1], both[2]]
    for _ in range(50):
        for frame in apart:
            state, _, _ = KIND.observe(state, jnp.asarray(np.stack([frame] * 3)), jnp.zeros(3, bool), jnp.zeros(3))
    paid = lambda frame: float(  # noqa: E731
        KIND.pay(
            state,
            None,
            batch_of(
                frame[None, None],
                np.zeros(1),
                first_visit=jnp.ones((1, 1), bool),
                novelty_key=jnp.ones((1, 1, 2), jnp.uint32),
            ),
            jax.random.key(0),
        ).bonus[0, 0]
    )
    assert paid(both[3]) < 0.1 and paid(both[0]) < 0.1  # 150 visits each
    assert paid(np.array([0, 0, 90, 0], np.uint8).reshape(2, 2, 1)) == 1.0


def test_s3_11_after_a_reward_the_same_places_are_new_again() -> None:
    """With the key in hand nothing on the way to the door would be new: S3-11, novelty runs dry."""
    state, frame = KIND.init(jax.random.key(0)), jnp.zeros((3, 2, 2, 1), jnp.uint8)
    never, none = jnp.zeros(3, bool), jnp.zeros(3)

    def worth(state: patch_counts.PatchCountState, keys: jax.Array, first_visit: jax.Array) -> np.ndarray:
        batch = batch_of(frame[:, None], np.zeros(3), first_visit=first_visit[:, None], novelty_key=keys[:, None])
        return np.asarray(KIND.pay(state, None, batch, jax.random.key(0)).bonus[:, 0])

    for _ in range(40):
        state, keys, first_visit = KIND.observe(state, frame, never, none)
    np.testing.assert_array_equal(worth(state, keys, first_visit), 0.0)  # seen in this episode
    state, keys, first_visit = KIND.observe(state, frame, never, jnp.array([100.0, 0.0, 100.0]))
    np.testing.assert_allclose(worth(state, keys, first_visit), [2**-0.5, 0.0, 2**-0.5], rtol=1e-6)
    # The next episode begins before its first reward, where all is well known.
    state, keys, first_visit = KIND.observe(state, frame, ~never, none)
    np.testing.assert_allclose(worth(state, keys, first_visit), (3 * 40 + 1 + 3) ** -0.5, rtol=1e-6)
