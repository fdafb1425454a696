"""Visits of each cell's levels: by hand, against a plain loop, and where whole frames would still be novel."""

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.exploration import patch_counts
from learnmax_jax.exploration.kind import Parts
from tests.exploration.batches import batch_of

PARTS = Parts(num_envs=3, observation_shape=(2, 2, 1), tokenizer=None, world_model=None, latent_width=1)  # type: ignore[arg-type]
KIND = patch_counts.make(PARTS, grid_height=2, grid_width=2, num_levels=4)


def frames(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (3, 2, 2, 1)).astype(np.uint8)


def test_visits_first_visits_and_bonus_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    state = KIND.init(jax.random.key(0))
    see = jax.jit(KIND.observe)
    visits: dict[tuple, int] = {}
    seen: list[set] = [set(), set(), set()]
    for step in range(12):
        observation, first = frames(rng), rng.random(3) < 0.2
        state, keys, first_visit = see(state, jnp.asarray(observation), jnp.asarray(first))
        for env in range(3):
            seen[env] = set() if first[env] else seen[env]
            now = {(cell, int(pixel) // 64) for cell, pixel in enumerate(observation[env].ravel())}
            assert bool(first_visit[env]) == bool(now - seen[env]), (step, env)
            seen[env] |= now
            for each in now:
                visits[each] = visits.get(each, 0) + 1
        assert keys.shape == (3, 2)
    observation = np.stack([frames(rng), frames(rng)], axis=1)
    batch = batch_of(observation, np.zeros(3), first_visit=jnp.array([[True, True], [True, False], [True, True]]))
    paid = KIND.pay(state, None, batch, jax.random.key(0)).bonus
    for env, time in np.ndindex(3, 2):
        cells = enumerate((observation[env, time].ravel() // 64).tolist())
        rarest = min(max(visits.get(cell, 0), 1) for cell in cells)
        np.testing.assert_allclose(paid[env, time], 0.0 if (env, time) == (1, 1) else rarest**-0.5, rtol=1e-6)
    assert int(KIND.metrics(state)["num_keys"]) == len(visits)


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
            state, _, _ = KIND.observe(state, jnp.asarray(np.stack([frame] * 3)), jnp.zeros(3, bool))
    paid = lambda frame: float(  # noqa: E731
        KIND.pay(
            state, None, batch_of(frame[None, None], np.zeros(1), first_visit=jnp.ones((1, 1), bool)), jax.random.key(0)
        ).bonus[0, 0]
    )
    assert paid(both[3]) < 0.1 and paid(both[0]) < 0.1  # 150 visits each
    assert paid(np.array([0, 0, 90, 0], np.uint8).reshape(2, 2, 1)) == 1.0
