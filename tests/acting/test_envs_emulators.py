"""The emulators themselves: recorded routes, ends of episodes, lost lives, seeds, frames of a step."""

import gc
import subprocess
import sys
import weakref
from typing import Any

import chex
import jax
import numpy as np
import pytest

from learnmax_jax.acting import envs
from learnmax_jax.acting.backends import Frame
from learnmax_jax.acting.families import ATARI
from learnmax_jax.acting.routes import load_routes
from learnmax_jax.types import Environments, TimeStep

ROUTES = load_routes()
EMULATORS = ("xla", "callback", "host")
SETTINGS: dict[str, Any] = {
    "backend": "host",
    "game": "MontezumaRevenge-v5",
    "num_envs": 2,
    "num_threads": 1,
    "protocol": "deterministic",
    "action_set": 18,
    "max_episode_steps": 27000,
    "zero_discount_on_life_loss": False,
}


def play(environments: Environments, rng_key: jax.Array, actions: np.ndarray, *, compiled: bool) -> TimeStep:
    """Answers `[1 + T, B, ...]`: the reset's, then the steps' to actions `[T, B]`."""
    state, start = environments.reset(rng_key)
    if compiled:
        _, steps = jax.jit(lambda state, actions: jax.lax.scan(environments.step, state, actions))(state, actions)
        return jax.tree.map(lambda first, rest: np.concatenate([first[None], rest]), *jax.device_get((start, steps)))
    answers = [start]
    for action in actions:
        state, answer = environments.step(state, action)
        answers.append(answer)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *answers)


def play_with(rng_key: jax.Array, actions: np.ndarray, **settings: Any) -> TimeStep:
    settings = {**SETTINGS, "num_envs": actions.shape[1], **settings}
    return play(envs.make(**settings), rng_key, actions, compiled=settings["backend"] != "host")


def random_actions(num_steps: int, num_envs: int, num_actions: int = 18) -> np.ndarray:
    return np.random.default_rng(0).integers(0, num_actions, (num_steps, num_envs)).astype(np.int32)


@pytest.mark.parametrize("backend", EMULATORS)
@pytest.mark.parametrize("name", sorted(ROUTES))
def test_routes_pay_at_the_recorded_steps(backend: str, name: str) -> None:
    route = ROUTES[name]
    actions = np.tile(np.array(route.actions, np.int32)[:, None], (1, 2))
    played = play_with(jax.random.key(1), actions, backend=backend)
    for b in range(2):
        assert {int(t): float(played.reward[t + 1, b]) for t in np.flatnonzero(played.reward[1:, b])} == route.rewards
    assert played.reward[1:, 0].sum() == route.score
    assert played.observation.shape == (len(actions) + 1, 2, 84, 84, 1) and played.observation.dtype == np.uint8
    assert not played.last.any() and (played.discount == 1).all() and played.first.sum() == 2
    # The key is in hand from the observation after the first 100 until the door pays 300.
    taken, *door = sorted(route.rewards)
    key = np.zeros(len(actions) + 1, int)
    key[taken + 1 : door[0] + 1 if door else None] = 1
    np.testing.assert_array_equal(played.probe.key[:, 0], key)
    assert (played.probe.room == 1).all() and (played.probe.lives <= 6).all()
    assert (played.probe.x[0] == 77).all() and (played.probe.y[0] == 235).all()  # where every game starts


def test_routes_do_not_depend_on_the_seed() -> None:
    route = ROUTES["key"]
    pool = envs.make_pool(
        "MontezumaRevenge-v5", seeds=[1, 12345], num_threads=1, max_episode_steps=27000,
        **envs.PROTOCOLS["deterministic"],
    )  # fmt: skip
    pool.reset()
    rewards = np.stack([pool.step(np.full(2, action, np.int32))[1] for action in route.actions])
    assert np.argwhere(rewards).tolist() == [[99, 0], [99, 1]]


def test_the_set_of_eight_plays_the_key_route() -> None:
    ours = ATARI.emulator_actions(8).tolist()
    actions = np.array([ours.index(action) for action in ROUTES["key"].actions], np.int32)[:, None]
    played = play_with(jax.random.key(1), actions, action_set=8)
    assert np.flatnonzero(played.reward).tolist() == [100] and played.reward.sum() == 100


def test_backends_agree_under_sticky_actions_and_truncations() -> None:
    actions = random_actions(70, 3)
    settings = {"protocol": "standard", "max_episode_steps": 30, "zero_discount_on_life_loss": True}
    host, *others = [play_with(jax.random.key(5), actions, backend=backend, **settings) for backend in EMULATORS[::-1]]
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, host, other)
        assert jax.tree.map(lambda x: x.dtype, host) == jax.tree.map(lambda x: x.dtype, other)
    assert host.last.sum() == 6


@pytest.mark.parametrize("backend", EMULATORS)
def test_n07_a_time_limit_truncates_and_the_next_action_is_ignored(backend: str) -> None:
    actions = np.full((13, 2), 3, np.int32)
    actions[5] = [0, 14]  # the ignored ones
    played = play_with(jax.random.key(0), actions, backend=backend, max_episode_steps=5)
    # Frame 0 is the reset, frame 5 the fifth step's; frame 6 the next reset, frame 11 the fifth step's after it.
    assert np.flatnonzero(played.last[:, 0]).tolist() == [5, 11]
    assert np.flatnonzero(played.first[:, 0]).tolist() == [0, 6, 12]
    assert (played.discount == 1).all() and (played.reward == 0).all()
    assert (played.first[:, 0] == played.first[:, 1]).all() and not (played.first & played.last).any()
    np.testing.assert_array_equal(played.observation[6, 0], played.observation[6, 1])
    np.testing.assert_array_equal(played.observation[6], played.observation[0])
    assert (played.observation[5] != played.observation[6]).any()  # the true final frame, not the reset's
    # (13 - 2 ignored) real steps, and rows before the last end are the sum of the lengths.
    assert (~played.first[1:12, 0]).sum() == 5 + 5


@pytest.mark.parametrize("backend", EMULATORS)
def test_n07_a_lost_life_is_no_end(backend: str) -> None:
    # Breakout: the ball is served at once and missed, five lives go in less than 300 steps.
    actions = np.ones((300, 1), np.int32)
    off, on = (
        play_with(jax.random.key(2), actions, backend=backend, game="Breakout-v5", zero_discount_on_life_loss=switch)
        for switch in (False, True)
    )
    lives = on.probe.lives[:, 0]
    lost = np.concatenate([[False], lives[1:] < lives[:-1]])
    over = on.last[:, 0]
    assert lost.sum() >= 5 and over.sum() >= 1 and not (over & ~lost).any()
    np.testing.assert_array_equal(on.discount[:, 0], np.where(lost, 0, 1))
    np.testing.assert_array_equal(off.discount[:, 0], np.where(over, 0, 1))
    for name in ("observation", "reward", "first", "last"):
        np.testing.assert_array_equal(getattr(on, name), getattr(off, name))
    assert all((field == -1).all() for field in (on.probe.room, on.probe.x, on.probe.y, on.probe.key))


def test_n07_flags_by_hand() -> None:
    # Columns: play on, life lost, time limit, game over, both on one step (EnvPool: truncated only), reset frame.
    frame = Frame(
        observation=np.zeros((6, 84, 84, 1), np.uint8),
        reward=np.zeros(6, np.float32),
        truncated=np.array([0, 0, 1, 0, 1, 0], bool),
        terminated=np.array([0, 0, 0, 1, 1, 0], np.int32),
        elapsed_step=np.array([7, 7, 7, 7, 7, 0], np.int32),
        lives=np.array([3, 2, 3, 0, 0, 1], np.int32),
        ram=np.zeros((6, 128), np.uint8),
    )
    before = np.array([3, 3, 3, 1, 1, 3], np.int32)
    for switch, discount in ((False, [1, 1, 1, 0, 0, 1]), (True, [1, 0, 1, 0, 0, 1])):
        answer = envs.make_time_step(frame, before, game="Pong-v5", zero_discount_on_life_loss=switch)
        assert answer.discount.tolist() == discount and answer.discount.dtype == np.float32
        assert answer.last.tolist() == [False, False, True, True, True, False]
        assert answer.first.tolist() == [False] * 5 + [True]


def test_n07_a_game_over_on_the_time_limit_terminates() -> None:
    actions = np.ones((300, 1), np.int32)
    free = play_with(jax.random.key(1), actions, game="Breakout-v5")
    length = int(np.flatnonzero(free.last)[0])
    limited = play_with(jax.random.key(1), actions[:length], game="Breakout-v5", max_episode_steps=length)
    for played in (free, limited):
        assert played.last[length] and played.discount[length] == 0 and (played.discount[:length] == 1).all()


@pytest.mark.parametrize("backend", ["xla", "callback"])
def test_f29_compiled_programs_clip_and_cast(backend: str) -> None:
    good = np.array([[17, 0], [11, 3]] * 15, np.int32)
    bad = np.array([[99.0, -5.0], [11.0, 3.0]] * 15, np.float32)
    one, other = (play_with(jax.random.key(1), actions, backend=backend) for actions in (good, bad))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_f33_seeds_and_threads() -> None:
    actions = random_actions(200, 3)
    settings = {"game": "Breakout-v5", "protocol": "standard"}
    once, again, threads, other = (
        play_with(jax.random.key(seed), actions, num_threads=num_threads, **settings)
        for seed, num_threads in ((7, 1), (7, 1), (7, 2), (8, 1))
    )
    jax.tree.map(np.testing.assert_array_equal, once, again)
    jax.tree.map(np.testing.assert_array_equal, once, threads)
    assert once.reward.sum() > 0
    assert (once.observation != other.observation).any(axis=(0, 2, 3, 4)).all()
    assert (once.observation[:, 0] != once.observation[:, 1]).any()  # environments differ too


@pytest.mark.parametrize("backend", ["xla", "callback"])
def test_a_new_reset_plays_new_emulators(backend: str) -> None:
    environments = envs.make(**{**SETTINGS, "backend": backend, "protocol": "standard"})
    step = jax.jit(environments.step)
    actions = random_actions(40, 2)

    def run(seed: int) -> np.ndarray:
        state, answer = environments.reset(jax.random.key(seed))
        frames = [answer.observation]
        for action in actions:
            state, answer = step(state, action)
            frames.append(answer.observation)
        return np.stack(frames)

    first, other, again = run(1), run(2), run(1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("backend", ["xla", "callback"])
def test_steps_trace_once(backend: str) -> None:
    environments = envs.make(**{**SETTINGS, "backend": backend})
    chex.clear_trace_counter()  # it counts by a function's name
    step = jax.jit(chex.assert_max_traces(environments.step, n=1))
    state, _ = environments.reset(jax.random.key(0))
    for _ in range(3):
        state, _ = step(state, np.zeros(2, np.int32))


def test_n13_a_step_is_four_frames() -> None:
    def pool(frame_skip: int) -> Any:
        protocol = {**envs.PROTOCOLS["deterministic"], "frame_skip": frame_skip}
        return envs.make_pool("MontezumaRevenge-v5", seeds=[1], num_threads=1, max_episode_steps=27000, **protocol)

    assert {protocol["frame_skip"] for protocol in envs.PROTOCOLS.values()} == {4}
    four, one = pool(4), pool(1)
    four.reset(), one.reset()
    for action in ROUTES["key"].actions:
        _, reward, _, _, info = four.step(np.array([action], np.int32))
        single = [one.step(np.array([action], np.int32)) for _ in range(4)]
        assert reward == sum(step[1] for step in single)
        np.testing.assert_array_equal(info["ram"], single[-1][4]["ram"])


@pytest.mark.parametrize(("protocol", "differ"), [("standard", True), ("deterministic", False)])
def test_only_standard_actions_stick(protocol: str, differ: bool) -> None:
    # The same start for both seeds (one no-op at most), the same actions: only stickiness can part them.
    settings = {**envs.PROTOCOLS[protocol], "noop_max": 1}
    pool = envs.make_pool("MontezumaRevenge-v5", seeds=[1, 2], num_threads=1, max_episode_steps=27000, **settings)
    pool.reset()
    rams = [pool.step(np.full(2, action, np.int32))[4]["ram"] for action in ROUTES["key"].actions[:60]]
    assert any((ram[0] != ram[1]).any() for ram in rams) == differ


def test_a_pool_outlives_its_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    # Steps that were dispatched run on after the Environments are gone, and point into the pool (xla).
    pools = []
    make_pool = envs.make_pool

    def make_watched_pool(*args: Any, **kwargs: Any) -> Any:
        pool = make_pool(*args, **kwargs)
        pools.append(weakref.ref(pool))
        return pool

    monkeypatch.setattr(envs, "make_pool", make_watched_pool)
    # Something else holds a process's first xla pool, which would hide the fault: the second one tells.
    for backend in ("xla", "xla", "host"):
        environments = envs.make(**{**SETTINGS, "backend": backend})
        state, _ = environments.reset(jax.random.key(0))
        step = jax.jit(environments.step) if backend == "xla" else environments.step
        jax.block_until_ready(step(state, np.zeros(2, np.int32)))
        del environments, state, step
    gc.collect()
    assert [pool() is not None for pool in pools] == [True, True, False]


@pytest.mark.slow
def test_steps_under_way_survive_their_environments() -> None:
    code = (
        "import gc, jax, numpy as np\nfrom learnmax_jax.acting import envs\n"
        "def dispatch():\n"
        f"    environments = envs.make(**{ {**SETTINGS, 'backend': 'xla'} })\n"
        "    step = jax.jit(environments.step)\n"
        "    state, _ = environments.reset(jax.random.key(0))\n"
        "    for _ in range(3): state, _ = step(state, np.zeros(2, np.int32))\n"
        "for _ in range(15): dispatch(); gc.collect()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
