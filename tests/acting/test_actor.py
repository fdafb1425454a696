"""Acting against a plain replay of the scripted world (N12), and what each search may see (N05, N04)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.acting import actor, groups
from learnmax_jax.models.support import Support
from learnmax_jax.search import planner
from learnmax_jax.types import SearchOutput
from learnmax_jax.worlds import scripted
from tests.models import tiny

ENVS, ACTIONS, WINDOW, STEPS, PHASES = 3, 5, 5, 4, 6
LENGTHS = {"min_length": 2, "max_length": 11}
NOTHING_RANDOM = {"epsilon": 0.0, "longest_hold": 1, "longest_way_back": 0}


def _plan(params, rng_key, context, latent, codes, beta) -> SearchOutput:
    """Picks by the frame's number, and shows in the fields that act() only passes on what a search would see."""
    action = (codes[:, 3, 0] + codes[:, 0, 0]) % ACTIONS
    return SearchOutput(
        action=action,
        search_policy=jax.random.uniform(rng_key, (len(beta), ACTIONS)),
        search_value=jnp.stack([codes[:, 3, 0] + 10 * beta, beta], axis=-1),
        depth_mean=latent,
        depth_max=context.length - context.start,
        finite=codes[:, 3, 0] % 2 == 0,
    )


def _observe(counter, observation, first, reward):
    """Counts calls; the key is the frame's number and the reward that led there."""
    _, number = scripted.read(observation)
    return counter + 1, jnp.stack([number.astype(jnp.uint32), reward.astype(jnp.uint32)], axis=-1), first


class Play:
    """Some phases of play in the scripted world, joined along time."""

    def __init__(self, *, window: int, num_steps: int, phases: int, num_groups: int = 1, **random: float) -> None:
        # Tokens are the frame's four bands, so that every frame has codes of its own.
        self.bundle, self.params = tiny.make(num_tokens=4, num_groups=1, num_codes=256, num_actions=ACTIONS)
        self.world = scripted.make(num_envs=ENVS, num_actions=ACTIONS, size=4, **LENGTHS)
        env_state, time_step = self.world.reset(jax.random.key(0))
        memory = actor.init_memory(self.bundle, self.params, time_step.observation, window=window)
        self.beta = jnp.asarray([0.0, 0.1, 0.2])
        state = actor.init_actor(env_state, time_step, memory, self.beta)
        act = jax.jit(
            partial(
                actor.act,
                world_model=self.bundle,
                groups=groups.at_once(self.world, num_groups),
                plan=_plan,
                observe=_observe,
                num_steps=num_steps,
                **(NOTHING_RANDOM | random),
            )
        )
        outputs, counter = [], jnp.zeros((), jnp.int32)
        for phase in range(phases):
            state, counter, output = act(self.params, state, counter, jax.random.key(phase))
            outputs.append(jax.device_get(output))
        self.state, self.counter, self.num_steps, self.window = state, int(counter), num_steps, window
        self.output = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *outputs)
        self.rows = self.output.transitions

    def led_here(self) -> np.ndarray:
        before = np.concatenate([np.full((ENVS, 1), ACTIONS), self.rows.action[:, :-1]], axis=1)
        return np.where(self.rows.first, ACTIONS, before)


@pytest.fixture(scope="module")
def play() -> Play:
    return Play(window=WINDOW, num_steps=STEPS, phases=PHASES)


def _replay(environment: int, actions: np.ndarray) -> list[dict]:
    """The world once more, in plain Python: what every row should say."""
    rows, episode, step, score, over = [], 0, 0, 0.0, False
    for action in actions.tolist():
        row = {"number": 100 * episode + step, "episode_step": step, "first": step == 0, "valid": not over}
        row |= {"reward": 0.0, "discount": 1.0, "last": False}
        if over:
            episode, step, over = episode + 1, -1, False
            row["episode_score"], score = score, 0.0
        else:
            length = 2 + (environment - episode) % 10
            row["reward"] = float(step * ACTIONS + action)
            row["last"] = over = step + 1 == length
            row["discount"] = float(not (over and (environment + episode) // 2 % 2 == 0))
            score += row["reward"]
            row["episode_score"] = score
        step += 1
        rows.append(row)
    return rows


def test_n12_rows_equal_a_plain_replay(play: Play) -> None:
    environment, number = scripted.read(play.rows.observation)
    np.testing.assert_array_equal(environment, np.broadcast_to(np.arange(ENVS)[:, None], number.shape))
    for env in range(ENVS):
        expected = _replay(env, play.rows.action[env])
        for name in ("episode_step", "first", "valid", "reward", "discount", "last"):
            ours = getattr(play.rows, name)[env]
            np.testing.assert_array_equal(ours, [row[name] for row in expected], err_msg=f"{name} of {env}")
        np.testing.assert_array_equal(number[env], [row["number"] for row in expected])
        np.testing.assert_array_equal(play.output.episode_score[env], [row["episode_score"] for row in expected])


def test_n12_valid_rows_are_the_episodes_lengths(play: Play) -> None:
    """Where an action was ignored the row is no transition; scores are whole where an episode ends."""
    rows = play.rows
    ends = rows.last.sum()
    assert ends >= 6 and (rows.last & (rows.discount == 0)).any() and (rows.last & (rows.discount == 1)).any()
    np.testing.assert_array_equal(rows.valid[:, 1:], ~rows.last[:, :-1])
    for env in range(ENVS):
        lengths = [2 + (env - episode) % 10 for episode in range(PHASES * STEPS)]
        (at,) = np.nonzero(rows.last[env])
        for episode, end in enumerate(at):
            assert rows.valid[env, : end + 1].sum() == sum(lengths[: episode + 1])
            begin = end - lengths[episode] + 1
            assert rows.reward[env, begin : end + 1].sum() == play.output.episode_score[env, end]


def test_rows_carry_what_the_search_and_the_novelty_said(play: Play) -> None:
    rows = play.rows
    environment, number = scripted.read(rows.observation)
    led_here = np.concatenate([np.zeros((ENVS, 1)), rows.reward[:, :-1]], axis=1)
    np.testing.assert_array_equal(rows.novelty_key, np.stack([number, led_here], axis=-1))
    assert len(np.unique(led_here)) > 3
    np.testing.assert_array_equal(rows.first_visit, rows.first)
    assert play.counter == PHASES * STEPS
    np.testing.assert_array_equal(rows.action, (number % 256 + environment) % ACTIONS)
    np.testing.assert_allclose(rows.search_value, number % 256 + 10 * rows.beta, atol=1e-5)
    np.testing.assert_array_equal(rows.beta, np.broadcast_to(np.asarray(play.beta)[:, None], rows.beta.shape))
    np.testing.assert_array_equal(play.output.finite, number % 2 == 0)
    assert rows.search_policy.dtype == np.float16 and rows.search_policy.shape == (ENVS, PHASES * STEPS, ACTIONS)
    # Every step of every phase drew with a key of its own.
    assert len({policy.tobytes() for policy in np.moveaxis(rows.search_policy, 1, 0)}) == PHASES * STEPS


def _seen(play: Play, env: int, t: int) -> range:
    """Frames a search at row t may see: of its episode, and of the last W - 1 before the phase, or of the phase."""
    begin = t - t % play.num_steps - (play.window - 1)
    while begin < t and (begin < 0 or play.rows.first[env, begin + 1 : t + 1].any()):
        begin += 1
    return range(max(begin, 0), t + 1)


def test_n05_every_search_sees_its_window_and_no_other_episode(play: Play) -> None:
    """The latent at a step equals a fresh context over exactly these frames, whatever phase they were played in."""
    codes = np.asarray(play.rows.observation[:, :, :4, :1, 0], np.int32)
    rows = [(env, t) for env in range(ENVS) for t in range(PHASES * STEPS)]
    frames = [_seen(play, *at) for at in rows]
    width = max(map(len, frames))
    # An episode's first frame alone; or all that is remembered and played since, though the episode is older.
    assert min(map(len, frames)) == 1 and width == WINDOW - 1 + STEPS
    inputs = np.zeros((len(rows), width, 4, 1), np.int32), np.zeros((len(rows), width), np.int32)
    first = np.zeros((len(rows), width), bool)
    for index, ((env, _), seen) in enumerate(zip(rows, frames)):
        place = slice(width - len(seen), width)
        inputs[0][index, place] = codes[env, seen.start : seen.stop]
        inputs[1][index, place] = play.led_here()[env, seen.start : seen.stop]
        first[index, width - len(seen)] = True
    _, latents = jax.jit(partial(play.bundle.context, capacity=width))(play.params, *inputs, first)
    for index, (at, seen) in enumerate(zip(rows, frames)):
        assert play.output.depth_max[at] == len(seen), at
        np.testing.assert_allclose(play.output.depth_mean[at], latents[index, -1], atol=1e-5)


def test_memory_holds_the_last_frames(play: Play) -> None:
    memory, kept = play.state.memory, slice(PHASES * STEPS - (WINDOW - 1), None)
    np.testing.assert_array_equal(memory.codes[..., 0], play.rows.observation[:, kept, :, 0, 0])
    np.testing.assert_array_equal(memory.first, play.rows.first[:, kept])
    np.testing.assert_array_equal(memory.action, play.led_here()[:, kept])


@pytest.mark.parametrize(("window", "num_steps"), [(WINDOW, STEPS * PHASES), (1, 4)])
def test_phases_change_nothing_but_what_the_search_remembers(play: Play, window: int, num_steps: int) -> None:
    """One long phase, or no memory at all, plays the same rows."""
    other = Play(window=window, num_steps=num_steps, phases=STEPS * PHASES // num_steps)
    for name in ("observation", "action", "reward", "last", "valid", "episode_step", "novelty_key"):
        np.testing.assert_array_equal(getattr(other.rows, name), getattr(play.rows, name), err_msg=name)
    for env in range(ENVS):
        for t in range(STEPS * PHASES):
            assert other.output.depth_max[env, t] == len(_seen(other, env, t))
    # The same frames in sight, the same latent.
    same = other.output.depth_max == play.output.depth_max
    np.testing.assert_allclose(other.output.depth_mean[same], play.output.depth_mean[same], atol=1e-5)
    assert not same.all() and same.any()
    assert other.state.memory.codes.shape[1] == window - 1


def test_groups_that_take_turns_play_the_same_rows(play: Play) -> None:
    """All but what is drawn at random; each of three groups is one environment here."""
    other = Play(window=WINDOW, num_steps=STEPS, phases=PHASES, num_groups=ENVS)
    drawn = {"search_policy"}
    for name in vars(play.rows).keys() - drawn:
        np.testing.assert_array_equal(getattr(other.rows, name), getattr(play.rows, name), err_msg=name)
    for name in ("episode_score", "depth_max", "finite", "probe"):
        jax.tree.map(np.testing.assert_array_equal, getattr(other.output, name), getattr(play.output, name))
    np.testing.assert_allclose(other.output.depth_mean, play.output.depth_mean, atol=1e-5)
    assert other.counter == play.counter
    jax.tree.map(np.testing.assert_array_equal, other.state, play.state)
    # Every group's every step drew with a key of its own.
    assert len({policy.tobytes() for policy in np.concatenate(other.rows.search_policy)}) == ENVS * PHASES * STEPS


def test_final_state_goes_on_where_the_rows_stop(play: Play) -> None:
    state, rows = play.state, play.rows
    for env in range(ENVS):
        # One more row, of any action, tells the state before it.
        after = _replay(env, np.append(rows.action[env], 0))[-1]
        assert bool(state.first[env]) == after["first"]
        assert bool(state.ended[env]) == (not after["valid"])
        assert int(state.episode_step[env]) == after["episode_step"]
        assert float(state.episode_score[env]) == after["episode_score"] - after["reward"]
    np.testing.assert_array_equal(scripted.read(state.observation)[0], np.arange(ENVS))
    np.testing.assert_array_equal(state.action, rows.action[:, -1])


def test_acting_with_the_planner(play: Play) -> None:
    """The parts fit: the policy is one, and equal keys play equally. Without simulations, which cost compile time."""
    plan = partial(
        planner.plan,
        world_model=play.bundle,
        support=Support(-5.0, 5.0, 11),
        discounts=(0.99, 0.9),
        intrinsic_crosses_end=False,
        kind="none",
        num_simulations=0,
        max_depth=2,
        max_num_considered_actions=2,
        value_floor=1.0,
        gumbel_scale=1.0,
    )
    act = jax.jit(
        partial(
            actor.act,
            world_model=play.bundle,
            groups=groups.at_once(play.world, 1),
            plan=plan,
            observe=_observe,
            num_steps=STEPS,
            **NOTHING_RANDOM,
        )
    )
    runs = [jax.device_get(act(play.params, play.state, jnp.int32(0), jax.random.key(seed))[2]) for seed in (0, 0, 1)]
    for output in runs:
        np.testing.assert_allclose(output.transitions.search_policy.astype(np.float32).sum(axis=-1), 1, atol=5e-3)
        assert output.finite.all() and output.depth_mean.shape == (ENVS, STEPS)
    np.testing.assert_array_equal(runs[0].transitions.action, runs[1].transitions.action)
    assert (runs[0].transitions.action != runs[2].transitions.action).any()


def test_what_is_done_is_what_is_stored_where_actions_are_held_and_betas_turned() -> None:
    """The world's rewards tell which action it was given, the plan's values which beta it was told."""
    play = Play(window=WINDOW, num_steps=STEPS, phases=PHASES, epsilon=0.5, longest_hold=4, longest_way_back=3)
    rows = play.rows
    environment, number = scripted.read(rows.observation)
    for env in range(ENVS):
        expected = _replay(env, rows.action[env])
        for name in ("episode_step", "first", "valid", "reward", "discount", "last"):
            np.testing.assert_array_equal(getattr(rows, name)[env], [row[name] for row in expected], err_msg=name)
    random = rows.action != (number % 256 + environment) % ACTIONS
    assert 0.2 < random.mean() < 0.8
    np.testing.assert_array_equal(play.state.action, rows.action[:, -1])
    np.testing.assert_allclose(rows.search_value, number % 256 + 10 * rows.beta, atol=1e-5)
    np.testing.assert_allclose(np.abs(rows.beta), np.broadcast_to(play.beta[:, None], rows.beta.shape), rtol=1e-6)
    turned = rows.beta < 0
    assert turned[1:].any() and not turned[1:].all() and not turned[0].any()
    # The sign is turned in an episode's first steps, up to three, and never again in it.
    assert (rows.episode_step[turned] < 3).all()
    again = turned[:, 1:] & ~turned[:, :-1] & ~rows.first[:, 1:]
    assert not again.any()
