"""The counting world against a plain Python account of its script."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.types import Environments, TimeStep
from learnmax_jax.worlds import scripted

NUM_ENVS, NUM_ACTIONS, NUM_STEPS = 5, 7, 60


def play(environments: Environments, actions: np.ndarray) -> tuple[TimeStep, TimeStep]:
    """The reset's answer and those of the steps, `[T, B, ...]`, from one compiled scan."""
    state, start = environments.reset(jax.random.key(0))
    _, steps = jax.jit(lambda state, actions: jax.lax.scan(environments.step, state, actions))(state, actions)
    return jax.device_get((start, steps))


@pytest.fixture(scope="module")
def actions() -> np.ndarray:
    return np.random.default_rng(0).integers(0, NUM_ACTIONS, (NUM_STEPS, NUM_ENVS)).astype(np.int32)


@pytest.fixture(scope="module")
def environments() -> Environments:
    return scripted.make(num_envs=NUM_ENVS, num_actions=NUM_ACTIONS, size=12, min_length=3, max_length=9)


@pytest.fixture(scope="module")
def played(environments: Environments, actions: np.ndarray) -> tuple[TimeStep, TimeStep]:
    return play(environments, actions)


def test_shapes_and_dtypes(played: tuple[TimeStep, TimeStep]) -> None:
    for answer, shape in zip(played, ((NUM_ENVS,), (NUM_STEPS, NUM_ENVS))):
        assert answer.observation.shape == (*shape, 12, 12, 1)
        dtypes = [x.dtype for x in (answer.observation, answer.reward, answer.discount, answer.first, answer.last)]
        assert dtypes == [np.uint8, np.float32, np.float32, np.bool_, np.bool_]
        *facts, ram = jax.tree.leaves(answer.probe)
        assert all(fact.shape == shape and (fact == -1).all() for fact in facts)
        assert ram.shape == (*shape, 0)


def test_n12_every_step_agrees_with_the_script(played: tuple[TimeStep, TimeStep], actions: np.ndarray) -> None:
    start, steps = played
    assert start.first.all() and not start.last.any() and (start.discount == 1).all() and (start.reward == 0).all()
    valid_transitions = np.zeros(NUM_ENVS, int)
    ended_lengths = np.zeros(NUM_ENVS, int)
    for b in range(NUM_ENVS):
        episode = step = 0
        ended = False
        assert scripted.read(start.observation[b]) == (b, 0)
        for t in range(NUM_STEPS):
            length = 3 + (b - episode) % 7
            if ended:  # the next-step reset: action ignored, nothing paid
                episode, step, ended = episode + 1, 0, False
                reward, discount = 0, 1
            else:
                reward = step * NUM_ACTIONS + actions[t, b]
                step += 1
                ended = step == length
                discount = 0 if ended and (b + episode) % 4 < 2 else 1
                valid_transitions[b] += 1
                ended_lengths[b] += length if ended else 0
            assert scripted.read(steps.observation[t, b]) == (b, 100 * episode + step)
            assert steps.reward[t, b] == reward
            assert steps.discount[t, b] == discount
            assert steps.last[t, b] == ended
            assert steps.first[t, b] == (step == 0)
        valid_transitions[b] -= step * (not ended)  # leave the unfinished episode out
    # Valid rows by the flags alone, up to the last end, are the sum of the lengths.
    for b in range(NUM_ENVS):
        last_end = np.flatnonzero(steps.last[:, b])[-1]
        assert (~steps.first[: last_end + 1, b]).sum() == valid_transitions[b] == ended_lengths[b]


def test_both_ends_and_different_lengths_occur(played: tuple[TimeStep, TimeStep]) -> None:
    _, steps = played
    ends = steps.discount[steps.last]
    assert 0 < (ends == 0).sum() < len(ends)
    assert len({int(np.flatnonzero(steps.last[:, b])[0]) for b in range(NUM_ENVS)}) == NUM_ENVS


@pytest.mark.parametrize("num_lengths", [2, 5, 7, 10])
def test_every_length_ends_both_ways(num_lengths: int) -> None:
    environment, episode = np.meshgrid(np.arange(4), np.arange(40), indexing="ij")
    length = scripted.episode_length(environment, episode, min_length=3, max_length=2 + num_lengths)
    terminates = scripted.is_termination(environment, episode)
    pairs = {(int(n), bool(end)) for n, end in zip(np.ravel(length), np.ravel(terminates))}
    assert pairs == {(n, end) for n in range(3, 3 + num_lengths) for end in (False, True)}


def test_frames_say_large_numbers_exactly() -> None:
    for size in (4, 6, 7, 84):
        episode = jnp.array([0, 2, 655, 166_666])
        step = jnp.array([0, 99, 35, 41])
        environment = jnp.array([0, 3, 255, 7])
        frame = scripted.draw(environment, episode, step, size=size)
        assert frame.shape == (4, size, size, 1)
        number, count = scripted.read(frame)
        np.testing.assert_array_equal(number, environment)
        np.testing.assert_array_equal(count, [0, 299, 65_535, 16_666_641])


def test_rewards_name_step_and_action() -> None:
    step, action = jnp.meshgrid(jnp.arange(20), jnp.arange(NUM_ACTIONS))
    rewards = scripted.script_reward(step, action, num_actions=NUM_ACTIONS)
    assert len(np.unique(rewards)) == rewards.size


def test_a_saved_state_continues_exactly(environments: Environments, actions: np.ndarray) -> None:
    step = jax.jit(environments.step)
    state, _ = environments.reset(jax.random.key(0))
    for t in range(10):
        state, _ = step(state, actions[t])
    saved = jax.tree.map(np.array, state)
    state, expected = jax.lax.scan(environments.step, state, actions[10:40])
    _, restored = jax.lax.scan(environments.step, jax.tree.map(jnp.asarray, saved), actions[10:40])
    assert environments.restorable
    jax.tree.map(np.testing.assert_array_equal, expected, restored)


def test_actions_out_of_range_are_clipped(environments: Environments) -> None:
    state, _ = environments.reset(jax.random.key(0))
    _, wrong = environments.step(state, jnp.array([99, -1, 0, 6, 7]))
    np.testing.assert_array_equal(wrong.reward, [6, 0, 0, 6, 6])


@pytest.mark.parametrize(
    ("field", "value"), [("num_envs", 0), ("num_actions", 0), ("size", 3), ("min_length", 0), ("max_length", 100)]
)
def test_a_wrong_argument_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{field}={value}: .*Allowed: .*Nearest: \d+"):
        scripted.make(**{"num_envs": 2, field: value})
