"""Evaluation: whose steps count, what interrupts it, what it reads and what it writes."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import evaluate
from learnmax_jax import agent as agents
from learnmax_jax import checkpoints, config, evaluation, lifecycle
from learnmax_jax import step as steps
from learnmax_jax.acting.actor import ActOutput
from learnmax_jax.types import Probe, Transition
from tests import runs

pytestmark = pytest.mark.timeout(900)


def evaluator(num_episodes: int, max_episode_steps: int) -> evaluation.Evaluator:
    return evaluation.Evaluator(
        runs.tiny(),
        protocol="deterministic",
        num_episodes=num_episodes,
        max_episode_steps=max_episode_steps,
        noise="none",
    )


@pytest.fixture(scope="module")
def params() -> Any:
    agent = agents.build(runs.tiny())
    return jax.jit(agent.init_train)(jax.random.key(0), jnp.zeros((2, 84, 84, 1), jnp.uint8)).model


def phase(
    reward: Any, *, last: Any = False, valid: Any = True, room: Any = -1, key: Any = 0, observation: Any = 0
) -> ActOutput:
    """An act phase `[3, 2]` that says this and nothing else."""

    def filled(value: Any, dtype: Any, *shape: int) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, dtype), (3, 2, *shape))

    nothing = filled(0, np.float32)
    rows = Transition(
        observation=np.broadcast_to(np.asarray(observation, np.uint8)[..., None, None, None], (3, 2, 84, 84, 1)),
        action=filled(0, np.int32),
        reward=filled(reward, np.float32),
        discount=nothing,
        first=filled(False, bool),
        last=filled(last, bool),
        valid=filled(valid, bool),
        episode_step=filled(0, np.int32),
        beta=nothing,
        search_policy=filled(0, np.float16, 8),
        search_value=nothing,
        novelty_key=filled(0, np.uint32, 2),
        first_visit=filled(False, bool),
    )
    unread = filled(-1, np.int32)
    probe = Probe(
        room=filled(room, np.int32),
        x=unread,
        y=unread,
        key=filled(key, np.int32),
        lives=unread,
        ram=np.zeros((*unread.shape, 0), np.uint8),
    )
    return ActOutput(rows, nothing, probe, nothing, unread, filled(True, bool))


def test_every_environment_plays_one_episode_and_no_step_beside_it(
    params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Environment 0 ends after 2 steps, 1 is cut off after 3, 2 ends after 1; what follows is of no episode.
    script = iter(
        [
            phase(
                [[1, 2], [4, 8], [64, 0]],
                last=[[False, True], [False, False], [True, False]],
                valid=[[True, True], [True, True], [True, False]],
                room=[[1, 1], [1, 2], [7, 9]],
                key=[[0, 0], [0, 0], [1, 0]],
                observation=[[10, 20], [0, 0], [0, 0]],
            ),
            phase(
                [[0, 99], [16, 32], [128, 256]],
                valid=[[False, True], [True, True], [True, True]],
                room=[[5, 5], [3, 4], [9, 9]],
                key=[[1, 1], [0, 1], [0, 0]],
                observation=[[30, 40], [0, 0], [0, 0]],
            ),
        ]
    )
    player = evaluator(3, 3)
    monkeypatch.setattr(player, "_act", lambda params, state, key: (state, next(script)))
    result = player.play(params, jax.random.key(0), interrupted=lambda: False)
    assert result is not None and next(script, None) is None
    assert result.scores == [3, 28, 64] and result.lengths == [2, 3, 1]
    assert result.rooms == [1, 2, 3, 7]
    assert result.film[:, 0, 0].tolist() == [10, 20]
    assert result.summary() == {
        "mean_score": 95 / 3,
        "median_score": 28.0,
        "scores": [3.0, 28.0, 64.0],
        "rooms_visited": 4,
        "key_rate": 1 / 3,
        "num_env_steps": 6,
        "num_frames": 6,
        "protocol": "deterministic",
        "noise": "none",
    }


def test_the_same_program_plays_again_and_the_key_decides_nothing_else(params: Any) -> None:
    # The scripted world's first episodes last 3, 4 and 5 steps; the third is cut off.
    player = evaluator(3, 4)
    results = [player.play(params, jax.random.key(seed), interrupted=lambda: False) for seed in (0, 0, 1)]
    assert all(result is not None and result.lengths == [3, 4, 4] for result in results)
    assert player._act._cache_size() == 1
    assert results[0].scores == results[1].scores
    summary = results[0].summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["key_rate"] is None and summary["rooms_visited"] == 0
    assert len(results[0].film) == 3


def test_it_plays_at_beta_0_over_emulators_of_its_own_with_the_noise_that_is_asked_for(params: Any) -> None:
    settings = runs.tiny(("env.backend", "xla"), ("env.game", "Pong-v5"), ("exploration.epsilon", 0.5))
    limits = {"protocol": "deterministic", "num_episodes": 3, "max_episode_steps": 7}
    sampled = settings.search.gumbel_scale
    for noise, expected in (("none", (0.0, 0.0)), ("search", (sampled, 0.0)), ("training", (sampled, 0.5))):
        chosen = evaluation.Evaluator(settings, noise=noise, **limits).player.config
        assert (chosen.env.backend, chosen.env.protocol, chosen.env.num_envs) == ("callback", "deterministic", 3)
        assert (chosen.search.gumbel_scale, chosen.exploration.epsilon) == expected
        assert (chosen.env.max_episode_steps, chosen.exploration.num_exploit_envs) == (7, 3)
    assert settings.search.gumbel_scale > 0
    world = evaluator(3, 7).player
    np.testing.assert_array_equal(steps.start_actor(world, params, jax.random.key(0)).beta, np.zeros(3))


def test_a_signal_ends_it_between_act_phases(params: Any) -> None:
    answers = iter([False, True])
    assert evaluator(3, 6).play(params, jax.random.key(0), interrupted=lambda: next(answers)) is None
    assert next(answers, None) is None


def result_of(num_frames: int) -> evaluation.Result:
    film = np.arange(num_frames, dtype=np.uint8)[:, None, None] * 20 + np.zeros((1, 84, 84), np.uint8)
    return evaluation.Result([1.0], [num_frames], [], None, 4, "standard", "none", film)


def test_a_film_has_every_frame_at_twice_the_size(tmp_path: pathlib.Path) -> None:
    path = evaluation.write_film(result_of(9), tmp_path / "new" / "film.gif")
    with Image.open(path) as film:
        assert film.size == (168, 168) and film.n_frames == 9
        film.seek(8)
        assert film.convert("L").getpixel((80, 80)) == 160
    assert [entry.name for entry in path.parent.iterdir()] == ["film.gif"]


def test_a_film_that_cannot_be_written_takes_the_next_place_and_the_numbers_stay(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    blocked, free = tmp_path / "file" / "a.gif", tmp_path / "free" / "a.gif"
    assert evaluate._write_film(result_of(2), [blocked, free]) == str(free)
    assert evaluate._write_film(result_of(2), [blocked]) == f"not written ({blocked}: File exists)"


def test_what_it_restores_is_the_newest_good_model(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def restored() -> int:
        return evaluation.restore(tmp_path)[3]

    assert lifecycle.exit_code(restored) == 2  # no run
    settings = runs.tiny()
    config.dump(settings, tmp_path / "config.json")
    assert lifecycle.exit_code(restored) == 2  # no checkpoint yet
    agent = agents.build(settings)
    state = steps.init_state(agent)
    for step in (1, 2):
        network = jax.tree.map(lambda x, step=step: x + step, state.train.network)
        saved = state.replace(train=state.train.replace(network=network), step=jnp.asarray(step, jnp.int32))
        checkpoints.save(tmp_path / "checkpoints", step, steps.to_save(agent, saved), {}, keep=2)
    before = runs.files(tmp_path)
    for step, break_it in ((2, True), (1, True)):
        read, params, key, at = evaluation.restore(tmp_path)
        assert (read, at) == (settings, step)
        np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(state.rng_key))
        jax.tree.map(
            lambda x, y, step=step: np.testing.assert_array_equal(x, y + step), params.network, state.train.network
        )
        assert runs.files(tmp_path) == before
        if break_it:
            runs.damage(tmp_path, step)
            before = runs.files(tmp_path)
    assert lifecycle.exit_code(restored) == 4
