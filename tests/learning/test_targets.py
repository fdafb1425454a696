"""Value, Q and unroll targets against slow references and by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.learning import targets

_GAMMA = 0.9


def _random_episode(rng: np.random.Generator, length: int, ending: str) -> dict[str, np.ndarray]:
    """Rows of one Batch element: `length` transitions at most 12, then repeats of the final observation.

    Rewards are powers of ten (1, 10, 100, ...), so that no two shifts give the same sum.
    """
    rows = 12
    row = np.arange(rows)
    valid = row < length
    ends = (row == length - 1) & (ending != "open")
    life_lost = valid & ~ends & (rng.random(rows) < 0.15)
    terminated = ends & (ending == "terminated")
    return {
        "reward": np.where(valid, 10.0 ** (row % 6), 0),
        "discount": np.where(valid & ~terminated & ~life_lost, 1.0, 0.0),
        "last": ends,
        "valid": valid,
        "value": rng.normal(size=rows + 1) * 1e3,
        "q": rng.normal(size=(rows + 1, 4)) * 1e3,
        "selector": rng.normal(size=(rows + 1, 4)),
        "policy": rng.dirichlet(np.ones(4), size=rows),
    }


def _random_episodes() -> list[dict[str, np.ndarray]]:
    """200 episodes of every ending; an open one fills its window."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(200):
        ending = rng.choice(["terminated", "truncated", "open"])
        length = 12 if ending == "open" else int(rng.integers(1, 13))
        episodes.append(_random_episode(rng, length, ending))
    return episodes


def _stack(episodes: list[dict[str, np.ndarray]], name: str) -> jax.Array:
    x = np.stack([episode[name] for episode in episodes])
    return jnp.asarray(x if x.dtype == bool else x.astype(np.float32))


def _slow_n_step(episode: dict[str, np.ndarray], values: np.ndarray, t: int, td_steps: int) -> float:
    """Walks forward from row t, one step at a time."""
    total, weight = 0.0, 1.0
    for step in range(td_steps):
        now = t + step
        if now == len(episode["valid"]) or not episode["valid"][now]:
            return total + weight * values[now]
        total += weight * episode["reward"][now]
        weight *= _GAMMA * episode["discount"][now]
    return total + weight * values[t + td_steps]


@pytest.mark.parametrize("td_steps", [1, 3, 5, 50])
def test_n06_n_step_targets_match_a_slow_reference(td_steps: int):
    episodes = _random_episodes()
    discounts = targets.return_discounts(_stack(episodes, "discount"), gamma=_GAMMA, crosses_end=False)
    fast = jax.vmap(lambda *x: targets.n_step_targets(*x, td_steps=td_steps))(
        _stack(episodes, "reward"), discounts, _stack(episodes, "value"), _stack(episodes, "valid")
    )
    steps = min(td_steps, 12)
    slow = [[_slow_n_step(episode, episode["value"], t, min(steps, 12 - t)) for t in range(12)] for episode in episodes]
    np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("td_lambda", [0.0, 0.5, 0.95, 1.0])
def test_n06_td_lambda_targets_match_a_weighted_sum_of_n_step_targets(td_lambda: float):
    episodes = _random_episodes()[:50]
    discounts = targets.return_discounts(_stack(episodes, "discount"), gamma=_GAMMA, crosses_end=False)
    fast = jax.vmap(lambda *x: targets.td_lambda_targets(*x, td_lambda=td_lambda))(
        _stack(episodes, "reward"), discounts, _stack(episodes, "value"), _stack(episodes, "valid")
    )
    for episode, row in zip(episodes, fast, strict=True):
        for t in range(12):
            # The last of them takes the weight of all that would follow.
            longest = 12 - t
            weights = [(1 - td_lambda) * td_lambda**n for n in range(longest - 1)] + [td_lambda ** (longest - 1)]
            returns = [_slow_n_step(episode, episode["value"], t, n + 1) for n in range(longest)]
            np.testing.assert_allclose(row[t], np.dot(weights, returns), rtol=1e-5, atol=1e-2)


def test_n06_rewards_of_powers_of_ten_by_hand():
    rewards = jnp.asarray([1.0, 10.0, 100.0, 1000.0])
    values = jnp.asarray([7.0, 7.0, 7.0, 7.0, 2.0])
    valid = jnp.ones(4, bool)
    # Two steps, discount 1: 1 + 10 + v[2], 10 + 100 + v[3], 100 + 1000 + v[4], and past the end 1000 + v[4].
    two = targets.n_step_targets(rewards, jnp.ones(4), values, valid, td_steps=2)
    np.testing.assert_array_equal(two, [18, 117, 1102, 1002])
    # As far as the rows go: the full return.
    full = targets.n_step_targets(rewards, jnp.ones(4), values, valid, td_steps=4)
    np.testing.assert_array_equal(full, [1113, 1112, 1102, 1002])
    np.testing.assert_array_equal(full, targets.td_lambda_targets(rewards, jnp.ones(4), values, valid, td_lambda=1.0))
    one = targets.n_step_targets(rewards, jnp.ones(4), values, valid, td_steps=1)
    np.testing.assert_array_equal(one, targets.td_lambda_targets(rewards, jnp.ones(4), values, valid, td_lambda=0.0))


def _ending(ending: str) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Two transitions paying 1 and 10, an end of some kind, then two rows of padding (or two more transitions)."""
    over = ending in ("terminated", "truncated")
    rewards = jnp.asarray([1.0, 10.0, 0.0, 0.0] if over else [1.0, 10.0, 100.0, 1000.0])
    discount = jnp.asarray([1.0, float(ending == "truncated"), 0.0 if over else 1.0, 0.0 if over else 1.0])
    valid = jnp.asarray([True, True, not over, not over])
    return rewards, discount, jnp.asarray([3.0, 4.0, 5.0, 6.0, 7.0]), valid


@pytest.mark.parametrize(
    ("ending", "crosses_end", "expected"),
    [
        ("terminated", False, [1 + 0.5 * 10, 10]),  # v[2] = 5 is the final frame's: not counted
        ("truncated", False, [1 + 0.5 * 10 + 0.25 * 5, 10 + 0.5 * 5]),  # counted, and nothing beyond it
        ("life lost", False, [1 + 0.5 * 10, 10]),  # the rows after it are played on, yet not counted
        ("terminated", True, [1 + 0.5 * 10 + 0.25 * 5, 10 + 0.5 * 5]),
        ("truncated", True, [1 + 0.5 * 10 + 0.25 * 5, 10 + 0.5 * 5]),
        # 1 + 10/2 + 100/4 + 1000/8 + v[4]/16 and its tail
        ("life lost", True, [156.4375, 310.875]),
    ],
)
def test_n07_how_an_episode_ends(ending: str, crosses_end: bool, expected: list[float]):
    rewards, discount, values, valid = _ending(ending)
    discounts = targets.return_discounts(discount, gamma=0.5, crosses_end=crosses_end)
    n_step = targets.n_step_targets(rewards, discounts, values, valid, td_steps=4)
    np.testing.assert_allclose(n_step[:2], expected)
    td_lambda = targets.td_lambda_targets(rewards, discounts, values, valid, td_lambda=1.0)
    np.testing.assert_allclose(td_lambda, n_step)
    if ending == "life lost":  # no reset: the next life's rows have targets of their own
        np.testing.assert_allclose(n_step[2:], [100 + 0.5 * 1000 + 0.25 * 7, 1000 + 0.5 * 7])


def test_n07_past_the_end_only_a_termination_is_known():
    for ending, expected in [("terminated", [0, 0, 1, 1]), ("truncated", [0] * 4), ("life lost", [0] * 4)]:
        _, discount, _, _ = _ending(ending)
        last = jnp.asarray([False, ending != "life lost", False, False])
        np.testing.assert_array_equal(targets.after_termination(discount, last), np.asarray(expected, bool))


def test_n06_unroll_targets_match_a_slow_reference():
    episodes = _random_episodes()
    valid = _stack(episodes, "valid")
    absorbed = jax.vmap(targets.after_termination)(_stack(episodes, "discount"), _stack(episodes, "last"))
    starts = jnp.arange(12)

    def unroll(x: jax.Array, known_after: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(lambda *row: targets.unroll_targets(*row, first, unroll_steps=5))(x, valid, known_after)

    # name: what is asked for, and which row belongs to the prediction after k actions from row t.
    asked = {
        "reward": (unroll(_stack(episodes, "reward"), absorbed, starts), -1),
        "value": (unroll(_stack(episodes, "value")[:, :-1], absorbed, starts + 1), 0),
        "policy": (unroll(_stack(episodes, "policy"), jnp.zeros_like(absorbed), starts + 1), 0),
    }
    for name, ((fast, mask), offset) in asked.items():
        slow, known = np.zeros(fast.shape), np.zeros(mask.shape, bool)
        for b, episode in enumerate(episodes):
            ended = np.flatnonzero(episode["last"] & (episode["discount"] == 0))
            end = ended[0] if ended.size else 99
            for t in range(12):
                for k in range(1, 6):  # k = 0 has no column
                    row = t + k + offset
                    real = row < 12 and bool(episode["valid"][row])
                    slow[b, t, k - 1] = episode[name][row] if real else 0
                    known[b, t, k - 1] = real or (end < row < 12 and name != "policy")
        np.testing.assert_allclose(fast, slow, rtol=1e-6)
        np.testing.assert_array_equal(mask, known)
    actions = targets.unroll_windows(jnp.arange(100, 112), starts, unroll_steps=5)
    np.testing.assert_array_equal(actions[3], [103, 104, 105, 106, 107])
    np.testing.assert_array_equal(actions[10], [110, 111, 0, 0, 0])


def test_n06_unroll_targets_by_hand():
    # Terminated at row 1; rows 2 and 3 are padding.
    rewards, discount, values, valid = _ending("terminated")
    absorbed = targets.after_termination(discount, jnp.asarray([False, True, False, False]))
    reward, mask = targets.unroll_targets(rewards, valid, absorbed, jnp.asarray([0, 1]), unroll_steps=4)
    np.testing.assert_array_equal(reward, [[1, 10, 0, 0], [10, 0, 0, 0]])
    np.testing.assert_array_equal(mask, [[True] * 4, [True] * 3 + [False]])  # row 4 is not at hand
    value, _ = targets.unroll_targets(values[:-1], valid, absorbed, jnp.asarray([1, 2]), unroll_steps=2)
    np.testing.assert_array_equal(value, [[4, 0], [0, 0]])  # values of row 1; then over, though values[2] = 5


def test_q_targets_double_and_plain_by_hand():
    rewards, discounts, valid = jnp.asarray([1.0, 10.0]), jnp.asarray([0.5, 0.5]), jnp.ones(2, bool)
    q_values = jnp.asarray([[9.0, 9.0], [2.0, 4.0], [6.0, 8.0]])
    selector = jnp.asarray([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])  # takes action 0 where q_values prefers 1
    plain = targets.q_targets(rewards, discounts, q_values, q_values, valid, td_steps=1)
    np.testing.assert_array_equal(plain, [1 + 0.5 * 4, 10 + 0.5 * 8])
    double = targets.q_targets(rewards, discounts, q_values, selector, valid, td_steps=1)
    np.testing.assert_array_equal(double, [1 + 0.5 * 2, 10 + 0.5 * 6])
    two_steps = targets.q_targets(rewards, discounts, q_values, selector, valid, td_steps=2)
    np.testing.assert_array_equal(two_steps, [1 + 0.5 * 10 + 0.25 * 6, 13])


def test_n06_q_targets_match_a_slow_reference():
    episodes = _random_episodes()[:50]
    discounts = targets.return_discounts(_stack(episodes, "discount"), gamma=_GAMMA, crosses_end=False)
    names = ("q", "selector", "valid")
    fast = jax.vmap(lambda *x: targets.q_targets(*x, td_steps=3))(
        _stack(episodes, "reward"), discounts, *(_stack(episodes, name) for name in names)
    )
    for episode, row in zip(episodes, fast, strict=True):
        values = np.asarray(
            [q[np.argmax(selector)] for q, selector in zip(episode["q"], episode["selector"], strict=True)]
        )
        slow = [_slow_n_step(episode, values, t, min(3, 12 - t)) for t in range(12)]
        np.testing.assert_allclose(row, slow, rtol=1e-5, atol=1e-2)


def test_targets_are_causal():
    """A target never depends on an earlier reward, and the two-step one on nothing past t + 2."""
    rewards, values = jnp.ones(5), jnp.ones(6)
    arguments = (jnp.full(5, 0.5), values, jnp.ones(5, bool))
    slopes = jax.jacobian(lambda r: targets.n_step_targets(r, *arguments, td_steps=2))(rewards)
    np.testing.assert_array_equal(slopes != 0, np.triu(np.ones((5, 5))) - np.triu(np.ones((5, 5)), 2) == 1)
    slopes = jax.jacobian(lambda r: targets.td_lambda_targets(r, *arguments, td_lambda=0.5))(rewards)
    np.testing.assert_array_equal(slopes != 0, np.triu(np.ones((5, 5))) == 1)


def test_unroll_windows_keeps_shape_and_dtype():
    frames = jnp.arange(24, dtype=jnp.uint8).reshape(4, 3, 2)
    windows = targets.unroll_windows(frames, jnp.asarray([0, 3]), unroll_steps=2)
    chex.assert_shape(windows, (2, 2, 3, 2))
    chex.assert_type(windows, jnp.uint8)
    np.testing.assert_array_equal(windows[0], frames[:2])
    np.testing.assert_array_equal(windows[1, 1], np.zeros((3, 2)))


def test_targets_refuse_what_they_cannot_mean():
    trajectory = (jnp.ones(3), jnp.ones(3), jnp.ones(4), jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"^td_steps=0: .*Nearest: 1$"):
        targets.n_step_targets(*trajectory, td_steps=0)
    with pytest.raises(ValueError, match=r"^td_lambda=1.5: .*Nearest: 1.0$"):
        targets.td_lambda_targets(*trajectory, td_lambda=1.5)
    with pytest.raises(ValueError, match=r"^gamma=-1: .*Nearest: 0.0$"):
        targets.return_discounts(jnp.ones(3), gamma=-1, crosses_end=False)
    with pytest.raises(AssertionError):  # values of T rows
        targets.n_step_targets(jnp.ones(3), jnp.ones(3), jnp.ones(3), jnp.ones(3, bool), td_steps=1)
    with pytest.raises(AssertionError):  # a batch
        targets.td_lambda_targets(*(x[None] for x in trajectory), td_lambda=0.5)
