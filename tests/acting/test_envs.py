"""The door of the acting room: what it refuses, and what an action number means."""

import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from learnmax_jax.acting import envs
from learnmax_jax.acting.families import ATARI
from learnmax_jax.worlds import scripted

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


def test_action_sets_by_name() -> None:
    # ALE's src/ale/common/Constants.h: PLAYER_A_NOOP = 0, ... PLAYER_A_DOWNLEFTFIRE = 17.
    ale = {
        "NOOP": 0, "FIRE": 1, "UP": 2, "RIGHT": 3, "LEFT": 4, "DOWN": 5,
        "UPRIGHT": 6, "UPLEFT": 7, "DOWNRIGHT": 8, "DOWNLEFT": 9,
        "UPFIRE": 10, "RIGHTFIRE": 11, "LEFTFIRE": 12, "DOWNFIRE": 13,
        "UPRIGHTFIRE": 14, "UPLEFTFIRE": 15, "DOWNRIGHTFIRE": 16, "DOWNLEFTFIRE": 17,
    }  # fmt: skip
    assert {name: number for number, name in enumerate(envs.ACTION_NAMES)} == ale
    assert set(ATARI.action_sets) == {6, 8, 18}
    for size, names in ATARI.action_sets.items():
        assert len(names) == size
        assert ATARI.emulator_actions(size).tolist() == [ale[name] for name in names]
        assert ATARI.emulator_actions(size).dtype == np.int32
    assert envs.ACTION_SETS[6] == ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN")
    assert envs.ACTION_SETS[8] == (*envs.ACTION_SETS[6], "RIGHTFIRE", "LEFTFIRE")


@pytest.mark.parametrize("backend", envs.BACKENDS)
@pytest.mark.parametrize("game", ["MontezumaRevenge-v5", "Pong-v5", "MsPacman-v5", "JourneyEscape-v5"])
def test_check_accepts(backend: str, game: str) -> None:
    envs.check(**{**SETTINGS, "backend": backend, "game": "scripted" if backend == "world" else game})


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("game", "Montezuma-v5", "unknown.*Nearest: MontezumaRevenge-v5, .+, .+"),  # F22
        ("game", "scripted", "unknown"),
        ("game", "Reacher-v5", "neither Atari nor MiniGrid"),
        ("game", "CartPole-v1", "neither Atari nor MiniGrid"),
        ("num_envs", 0, "integers from 1"),  # F23: EnvPool asserts without a word, or crashes
        ("num_envs", -1, "integers from 1"),
        ("num_envs", 2.0, "integers from 1"),
        ("num_threads", -1, "integers from 0"),
        ("max_episode_steps", 0, "integers from 1"),
        ("backend", "callbak", "Nearest: callback"),
        ("protocol", "standart", "Nearest: standard"),
        ("action_set", 9, r"Allowed: \(6, 8, 18\)"),
        ("zero_discount_on_life_loss", 1, "Allowed: True, False"),
    ],
)
def test_f22_f23_check_names_the_field(field: str, value: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "make_pool", lambda *_, **__: pytest.fail("an environment was made"))
    for refuse in (envs.check, envs.make):
        with pytest.raises(ValueError, match=rf"^env\.{field}={value}: .*{says}"):
            refuse(**{**SETTINGS, field: value})


def test_f22_names_the_nearest_world() -> None:
    with pytest.raises(ValueError, match=r"^env.game=scrptd: unknown.*Nearest: .*scripted"):
        envs.check(**{**SETTINGS, "backend": "world", "game": "scrptd"})


def test_f23_protocols_as_published() -> None:
    # Machado et al. 2018, section 5: stickiness 0.25, frame skip 4. noop_max=0 would end the process inside EnvPool.
    common = {"use_fire_reset": False, "frame_skip": 4}
    assert envs.PROTOCOLS == {
        "standard": {"repeat_action_probability": 0.25, "noop_max": 30, **common},
        "deterministic": {"repeat_action_probability": 0.0, "noop_max": 1, **common},
    }


def test_check_takes_under_two_seconds_in_a_new_process() -> None:
    code = (
        "import time; from learnmax_jax.acting import envs; start = time.perf_counter()\n"
        f"try: envs.check(**{ {**SETTINGS, 'game': 'Montezuma-v5'} })\n"
        "except ValueError: print(time.perf_counter() - start)"
    )
    seconds = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    )
    assert seconds < 2


def test_64_bit_arrays_stay_out_of_xla() -> None:
    with pytest.raises(ValueError, match=r"^env.backend=xla: Reacher-v5 has 64-bit .*obs.*Allowed: callback"):
        envs.refuse_64_bit("xla", "Reacher-v5")
    envs.refuse_64_bit("callback", "Reacher-v5")
    envs.refuse_64_bit("xla", "MontezumaRevenge-v5")


def test_envpool_is_imported_late() -> None:
    code = "import sys; from learnmax_jax.acting import envs; assert 'envpool' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_world_goes_by_its_name() -> None:
    environments = envs.make(**{**SETTINGS, "backend": "world", "game": "scripted", "num_envs": 3})
    _, answer = environments.reset(jax.random.key(0))
    assert environments.restorable and answer.observation.shape == (3, 84, 84, 1)
    np.testing.assert_array_equal(scripted.read(answer.observation)[0], [0, 1, 2])


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ([0], r"shape \(1,\), dtype int64.*Allowed: shape \(2,\), an integer dtype, range \[0, 17\]"),
        ([0, 0, 0], r"shape \(3,\), dtype int64.*Allowed: shape \(2,\), an integer dtype, range \[0, 17\]"),
        ([], r"shape \(0,\), dtype float64.*Allowed: shape \(2,\), an integer dtype, range \[0, 17\]"),
        ([0.0, 1.0], r"shape \(2,\), dtype float64.*Allowed: shape \(2,\), an integer dtype, range \[0, 17\]"),
        ([True, False], r"shape \(2,\), dtype bool.*Allowed: shape \(2,\), an integer dtype, range \[0, 17\]"),
        ([0, 99], r"dtype int64, range \[0, 99\]: no such.*Allowed: shape \(2,\), an integer dtype, range \[0, 17\]"),
        ([-1, 3], r"dtype int64, range \[-1, 3\]: no such.*Allowed: shape \(2,\), an integer dtype, range \[0, 17\]"),
        ([18, 3], r"dtype int64, range \[3, 18\]: no such.*Allowed: shape \(2,\), an integer dtype, range \[0, 17\]"),
    ],
)
def test_f29_the_host_refuses_a_wrong_action(action: list, says: str) -> None:
    environments = envs.make(**SETTINGS)
    state, _ = environments.reset(jax.random.key(0))
    with pytest.raises(ValueError, match=f"^action: .*{says}"):
        environments.step(state, np.array(action))


@pytest.mark.parametrize("backend", ["xla", "callback", "host"])
def test_f29_a_step_before_reset_is_refused(backend: str) -> None:
    environments = envs.make(**{**SETTINGS, "backend": backend})
    with pytest.raises(RuntimeError, match="step before reset"):
        environments.step(None, np.zeros(2, np.int32))


def test_a_state_of_an_earlier_reset_is_refused() -> None:
    environments = envs.make(**SETTINGS)
    old, _ = environments.reset(jax.random.key(0))
    environments.reset(jax.random.key(0))
    with pytest.raises(RuntimeError, match="earlier reset"):
        environments.step(old, np.zeros(2, np.int32))


def test_traced_backends_refuse_a_wrong_number_of_actions() -> None:
    for backend in ("xla", "callback"):
        environments = envs.make(**{**SETTINGS, "backend": backend})
        state, _ = environments.reset(jax.random.key(0))
        with pytest.raises(AssertionError, match="shape"):
            jax.jit(environments.step)(state, np.zeros(3, np.int32))


def test_seeds_are_positive_and_do_not_depend_on_the_batch() -> None:
    few, many = envs._draw_seeds(jax.random.key(3), 2), envs._draw_seeds(jax.random.key(3), 40)
    assert many[:2] == few and len(set(many)) == 40 and all(0 < seed < 2**31 for seed in many)
    assert envs._draw_seeds(jax.random.key(4), 2) != few
