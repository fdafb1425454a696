"""World T against its own table, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.types import TimeStep
from learnmax_jax.worlds import table

_WORLD = {
    "num_envs": 6,
    "seed": 3,
    "num_states": 50,
    "num_actions": 4,
    "num_digits": 3,
    "base": 7,
    "max_length": 9,
    "reward_state": 11,
}
_NUM_STEPS = 300


def _play(rng_key: jax.Array, actions: np.ndarray, **change: int) -> TimeStep:
    """The reset's answer and those of the steps, `[1 + T, B, ...]`."""
    environments = table.make(**{**_WORLD, **change})
    state, start = environments.reset(rng_key)
    _, steps = jax.jit(lambda state: jax.lax.scan(environments.step, state, jnp.asarray(actions)))(state)
    return jax.tree.map(lambda first, rest: np.concatenate([first[None], rest]), start, steps)


def _spell(observation: np.ndarray) -> np.ndarray:
    """Digits `[..., 1, 1, G]` in base 7, the highest first, to numbers `[...]`."""
    digits = observation[..., 0, 0, :].astype(int)
    return digits @ 7 ** np.arange(digits.shape[-1])[::-1]


def _written_out(seed: int, num_states: int, num_actions: int) -> np.ndarray:
    states, actions = jnp.meshgrid(jnp.arange(num_states), jnp.arange(num_actions), indexing="ij")
    return np.asarray(table.next_state(states, actions, seed=seed, num_states=num_states))


@pytest.fixture(scope="module")
def actions() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, (_NUM_STEPS, 6)).astype(np.int32)


@pytest.fixture(scope="module")
def played(actions: np.ndarray) -> TimeStep:
    return _play(jax.random.key(0), actions)


def test_every_step_follows_the_table(played: TimeStep, actions: np.ndarray) -> None:
    entries = _written_out(3, 50, 4)
    states = _spell(played.observation)
    assert played.observation.shape == (_NUM_STEPS + 1, 6, 1, 1, 3) and played.observation.dtype == np.uint8
    num_rewards, step = 0, np.zeros(6, int)
    assert played.first[0].all() and not played.last[0].any()
    for t in range(_NUM_STEPS):
        over = played.last[t]
        step = np.where(over, 0, step + 1)
        np.testing.assert_array_equal(played.first[t + 1], over)
        np.testing.assert_array_equal(played.last[t + 1], step == 9)
        expected = entries[states[t], actions[t]]
        np.testing.assert_array_equal(states[t + 1][~over], expected[~over])
        np.testing.assert_array_equal(played.reward[t + 1], ~over & (expected == 11))
        num_rewards += int(played.reward[t + 1].sum())
    # It never terminates: every end is the limit's.
    np.testing.assert_array_equal(played.discount, np.ones((_NUM_STEPS + 1, 6)))
    assert num_rewards > 5
    assert states.max() < 50 and len(np.unique(states[played.first])) > 20


def test_the_seed_is_the_table_and_the_key_the_first_states(actions: np.ndarray, played: TimeStep) -> None:
    np.testing.assert_array_equal(_play(jax.random.key(0), actions).observation, played.observation)
    other = _play(jax.random.key(1), actions).observation
    assert (_spell(other[0]) != _spell(played.observation[0])).any()
    assert (_written_out(3, 50, 4) != _written_out(4, 50, 4)).mean() > 0.9
    # Entries are uniform: 20,000 of them over 50 states, chi-square with 49 degrees of freedom (99.9%: 85).
    occurrences = np.bincount(_written_out(5, 5_000, 4).reshape(-1) % 50, minlength=50)
    assert ((occurrences - 400) ** 2 / 400).sum() < 85


def test_no_reward_state_no_reward(actions: np.ndarray) -> None:
    assert _play(jax.random.key(0), actions, reward_state=-1).reward.sum() == 0


def test_a_saved_state_continues_exactly(actions: np.ndarray, played: TimeStep) -> None:
    environments = table.make(**_WORLD)
    step = jax.jit(environments.step)
    state, _ = environments.reset(jax.random.key(0))
    for t in range(20):
        state, _ = step(state, jnp.asarray(actions[t]))
    leaves, structure = jax.tree.flatten(state.replace(rng_key=jax.random.key_data(state.rng_key)))
    saved = jax.tree.unflatten(structure, [np.array(leaf) for leaf in leaves])
    state = jax.tree.map(jnp.asarray, saved).replace(rng_key=jax.random.wrap_key_data(saved.rng_key))
    for t in range(20, 40):
        state, answer = step(state, jnp.asarray(actions[t]))
        np.testing.assert_array_equal(answer.observation, played.observation[t + 1])
        np.testing.assert_array_equal(answer.reward, played.reward[t + 1])


def test_digits_by_hand_and_any_size() -> None:
    # 48 = 0 * 49 + 6 * 7 + 6; 2^31 - 1 in base 256 is 127 255 255 255.
    assert table.draw(jnp.asarray([48, 8]), num_digits=3, base=7)[:, 0, 0].tolist() == [[0, 6, 6], [0, 1, 1]]
    largest = 2**31 - 1
    assert table.draw(jnp.asarray([largest]), num_digits=5, base=256)[0, 0, 0].tolist() == [0, 127, 255, 255, 255]
    environments = table.make(**{**_WORLD, "num_states": largest, "num_digits": 32, "base": 64})
    state, start = environments.reset(jax.random.key(0))
    state, answer = environments.step(state, jnp.zeros(6, jnp.int32))
    assert answer.observation.shape == start.observation.shape == (6, *environments.observation_shape) == (6, 1, 1, 32)
    assert int(state.state.max()) > 2**28 and int(state.state.min()) >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_states": 344}, r"^num_states=344: .*Nearest: 343$"),
        ({"base": 257}, r"^base=257: .*Nearest: 256$"),
        ({"num_digits": 0}, r"^num_digits=0: .*Nearest: 1$"),
        ({"reward_state": 50}, r"^reward_state=50: .*Nearest: 49$"),
        ({"max_length": 0}, r"^max_length=0: .*Nearest: 1$"),
        ({"num_envs": 0}, r"^num_envs=0: .*Nearest: 1$"),
        ({"num_actions": 0}, r"^num_actions=0: .*Nearest: 1$"),
    ],
)
def test_make_refuses_what_is_out_of_range(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table.make(**{**_WORLD, **change})
