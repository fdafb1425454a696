"""DeepSea against its rules in plain Python and its known best return."""

import jax
import numpy as np
import pytest

from learnmax_jax.worlds import deep_sea
from tests.worlds import rollouts

NUM_ENVS, SIZE, SEED, NUM_STEPS = 8, 4, 3, 300


def test_every_step_follows_the_rules() -> None:
    actions = rollouts.draw_actions(NUM_STEPS, NUM_ENVS, 2)
    environments = deep_sea.make(num_envs=NUM_ENVS, seed=SEED, size=SIZE)
    played = rollouts.play(environments, jax.random.key(0), actions)
    rights = np.asarray(deep_sea.right_actions(seed=SEED, size=SIZE))
    assert played.observation.shape == (NUM_STEPS + 1, NUM_ENVS, 1, 1, 2) and played.observation.dtype == np.uint8
    num_found = 0
    for b in range(NUM_ENVS):
        row = column = 0
        for t in range(NUM_STEPS + 1):
            reward = 0.0
            if t == 0 or row == SIZE:
                row = column = 0
            else:
                goes_right = actions[t - 1, b] == rights[row, column]
                if goes_right:
                    reward -= 0.01 / SIZE
                    reward += column == SIZE - 1
                num_found += reward > 0
                row, column = row + 1, min(max(column + (1 if goes_right else -1), 0), SIZE - 1)
            assert played.observation[t, b].reshape(-1).tolist() == [row, column]
            assert (played.probe.y[t, b], played.probe.x[t, b]) == (row, column)
            np.testing.assert_allclose(played.reward[t, b], reward, atol=1e-7)
            assert (played.first[t, b], played.last[t, b]) == (row == 0, row == SIZE)
            assert played.discount[t, b] == (row != SIZE)
    assert num_found > 5  # 480 episodes, one in 16 finds it


@pytest.mark.parametrize("size", [5, 30])
def test_always_right_finds_the_treasure(size: int) -> None:
    rights = np.asarray(deep_sea.right_actions(seed=1, size=size))
    actions = np.stack([np.diag(rights), 1 - rights[:, 0]], axis=1)  # always right, always left
    played = rollouts.play(deep_sea.make(num_envs=2, seed=1, size=size), jax.random.key(0), actions)
    np.testing.assert_allclose(played.reward.sum(axis=0), [0.99, 0.0], atol=1e-6)
    assert played.last[-1].all() and not played.last[:-1].any()


def test_the_seed_is_the_sea() -> None:
    first, same, other = (np.asarray(deep_sea.right_actions(seed=seed, size=20)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert 0.4 < (first != other).mean() < 0.6 and 0.4 < first.mean() < 0.6


def test_a_saved_state_continues_exactly() -> None:
    environments = deep_sea.make(num_envs=NUM_ENVS, seed=SEED, size=SIZE)
    actions = rollouts.draw_actions(22, NUM_ENVS, 2)
    rollouts.assert_continues_from_saved_state(environments, jax.random.key(0), actions)


@pytest.mark.parametrize(("field", "value"), [("num_envs", 0), ("size", 1), ("size", 256), ("seed", -1)])
def test_a_wrong_argument_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{field}={value}: .*Allowed: .*Nearest: \d+"):
        deep_sea.make(**{"num_envs": 2, "seed": 0, "size": 4, field: value})
