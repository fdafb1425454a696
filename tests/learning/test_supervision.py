"""Targets of whole batches against a scalar reference that walks the rows one by one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.learning import supervision
from learnmax_jax.learning.supervision import Supervision
from learnmax_jax.models.dynamics import Context
from tests.learning import episodes
from tests.learning.episodes import NUM_ACTIONS

LENGTH, BATCH = 6, 4
LAMBDA, TD_STEPS, SCALE = 0.9, 2, 1000.0
GAMMAS = (0.9, 0.8, 0.5)
BETAS = (0.0, 0.3, 0.7)


def make_supervise(
    *, num_reanalysed: int = 0, exploit_share: float = 0.0, crosses_end: bool = False, bootstrap: str = "search"
) -> Any:
    bound = partial(
        supervision.supervise,
        world_model=episodes.paper_model,
        support=episodes.SUPPORT,
        plan=episodes.paper_plan,
        num_reanalysed=num_reanalysed,
        exploit_share=exploit_share,
        reward_scale=SCALE,
        extrinsic_discount=GAMMAS[0],
        intrinsic_discount=GAMMAS[1],
        short_discount=GAMMAS[2],
        td_lambda=LAMBDA,
        td_steps=TD_STEPS,
        bootstrap=bootstrap,
        intrinsic_crosses_end=crosses_end,
    )
    return jax.jit(bound)


def reference(
    rows: dict[str, Any], *, crosses_end: bool, scale: float = 1.0, bootstrap: str = "search"
) -> dict[str, Any]:
    """One window's targets, by walking."""
    ends = [t for t in range(LENGTH + 1) if rows["last"][t]]
    over_from = ends[0] + 1 if ends and rows["discount"][ends[0]] == 0 else LENGTH + 1
    betas, frame = rows["beta"], rows["observation"]

    def head(t: int, index: int) -> float:
        return episodes.value_of(int(frame[t]), betas[t], index, scale)

    def reward(t: int, kind: int) -> float:
        return rows["reward"][t] / SCALE if kind == 0 else rows["novelty"][t + 1]

    def goes_on(t: int, kind: int, gamma: float) -> float:
        turns = kind == 1 and np.sign(betas[t]) != np.sign(betas[t + 1])
        return 0.0 if turns else gamma if kind == 1 and crosses_end else gamma * rows["discount"][t]

    def value(t: int, bootstrap: list[float], kind: int, gamma: float) -> float:
        if t == LENGTH or not rows["valid"][t]:
            return bootstrap[t]
        following = (1 - LAMBDA) * bootstrap[t + 1] + LAMBDA * value(t + 1, bootstrap, kind, gamma)
        return reward(t, kind) + goes_on(t, kind, gamma) * following

    def q(t: int, kind: int, gamma: float, steps: int) -> float:
        if steps == 0 or t == LENGTH or not rows["valid"][t]:
            of_kind = [[head(t, 3 + k * NUM_ACTIONS + a) for a in range(NUM_ACTIONS)] for k in range(2)]
            wanted = [of_kind[0][a] + betas[t] * of_kind[1][a] for a in range(NUM_ACTIONS)]
            return of_kind[kind][int(np.argmax(wanted))]
        return reward(t, kind) + goes_on(t, kind, gamma) * q(t + 1, kind, gamma, steps - 1)

    fresh = {"search": rows["search_value"], "value": [head(t, 0) for t in range(LENGTH + 1)]}
    bootstraps = [
        list(fresh[bootstrap] if bootstrap in fresh else [q(t, 0, GAMMAS[0], 0) for t in range(LENGTH + 1)]),
        [head(t, 1) for t in range(LENGTH + 1)],
        [head(t, 2) for t in range(LENGTH + 1)],
    ]
    absorbed = [[t >= over_from, t >= over_from and not crosses_end] for t in range(LENGTH + 1)]
    kinds = (0, 1, 0)
    return {
        "led_here": [NUM_ACTIONS] + [rows["action"][t] for t in range(LENGTH)],
        "rewards": [[reward(t, kind) if rows["valid"][t] else 0.0 for kind in range(2)] for t in range(LENGTH)],
        "values": [
            [0.0 if absorbed[t][kinds[h]] else value(t, bootstraps[h], kinds[h], GAMMAS[h]) for h in range(3)]
            for t in range(LENGTH + 1)
        ],
        "q": [[q(t, kind, GAMMAS[kind], TD_STEPS) for kind in range(2)] for t in range(LENGTH)],
        "absorbed": absorbed,
        "valid": rows["valid"],
    }


def check(made: Supervision, windows: list[dict[str, Any]], *, crosses_end: bool, **given: Any) -> None:
    """Every number that a loss may read."""
    expected = [reference(rows, crosses_end=crosses_end, **given) for rows in windows]
    wanted = {name: np.stack([each[name] for each in expected]) for name in expected[0]}
    for name in ("led_here", "valid", "absorbed"):
        np.testing.assert_array_equal(getattr(made, name), wanted[name], err_msg=name)
    known = wanted["valid"][:, :, None] | wanted["absorbed"][:, :, [0, 1, 0]]
    np.testing.assert_allclose(
        np.where(known, made.values, 0), np.where(known, wanted["values"], 0), rtol=1e-4, atol=2e-3
    )
    np.testing.assert_allclose(made.rewards, wanted["rewards"], rtol=1e-6, err_msg="rewards")
    taken = wanted["valid"][:, :-1, None]
    np.testing.assert_allclose(np.where(taken, made.q, 0), np.where(taken, wanted["q"], 0), rtol=1e-4, atol=2e-3)
    for name in ("action", "discount"):
        np.testing.assert_allclose(getattr(made, name), np.stack([rows[name][:-1] for rows in windows]), err_msg=name)
    np.testing.assert_allclose(made.weights, np.stack([rows["weights"] for rows in windows]), rtol=1e-6)
    np.testing.assert_array_equal(made.first, np.stack([rows["first"] for rows in windows]))
    np.testing.assert_array_equal(made.codes[:, :, 0, 0], np.stack([rows["observation"] for rows in windows]))
    np.testing.assert_allclose(made.policy, np.stack([rows["search_policy"] for rows in windows]), atol=1e-3)
    np.testing.assert_allclose(made.beta, np.stack([rows["beta"] for rows in windows]))


@pytest.mark.parametrize(
    ("crosses_end", "bootstrap"), [(False, "search"), (True, "search"), (False, "value"), (False, "q")]
)
def test_n06_targets_match_a_scalar_reference_on_200_batches(crosses_end: bool, bootstrap: str) -> None:
    supervise = make_supervise(crosses_end=crosses_end, bootstrap=bootstrap)
    rng = np.random.default_rng(int(crosses_end))
    for _ in range(50):
        windows = [episodes.random_window(rng, LENGTH) for _ in range(BATCH)]
        made = supervise(jnp.ones(()), *episodes.to_batch(windows), jax.random.key(0), jnp.asarray(BETAS))
        check(made, windows, crosses_end=crosses_end, bootstrap=bootstrap)


def _by_hand(ending: str, *, crosses_end: bool = False) -> tuple[Supervision, dict[str, Any]]:
    """Two transitions that pay 1 and 10, then the end; the reference is not asked."""
    rows = episodes.window(np.random.default_rng(0), length=LENGTH, transitions=2, ending=ending, from_start=True)
    rows |= {"discount": np.asarray([1.0, float(ending != "terminated"), 1, 0, 0, 0, 0])}
    supervise = make_supervise(crosses_end=crosses_end)
    return supervise(jnp.ones(()), *episodes.to_batch([rows]), jax.random.key(0), jnp.asarray(BETAS)), rows


def test_n07_a_terminated_episode_does_not_bootstrap_and_pays_nothing_after() -> None:
    made, rows = _by_hand("terminated")
    v = rows["search_value"]
    # G[1] = 10 / 1000; G[0] = 1 / 1000 + 0.9 (0.1 v[1] + 0.9 G[1]); from row 2 on nothing is left to gain.
    np.testing.assert_allclose(made.values[0, :2, 0], [0.001 + 0.9 * (0.1 * v[1] + 0.9 * 0.01), 0.01], rtol=1e-5)
    np.testing.assert_array_equal(made.values[0, 2:], np.zeros((5, 3)))
    np.testing.assert_array_equal(made.valid[0], [1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(made.absorbed[0], [[0, 0]] * 2 + [[1, 1]] * 5)
    # The terminating step enters observation[2], whose novelty it is paid, and the ignored action pays nothing.
    np.testing.assert_allclose(made.rewards[0, :, 1], [rows["novelty"][1], rows["novelty"][2], 0, 0, 0, 0])


@pytest.mark.parametrize("ending", ["truncated", "newest"])
def test_n07_a_truncated_episode_bootstraps_from_its_final_observation(ending: str) -> None:
    made, rows = _by_hand(ending)
    v = rows["search_value"]
    last = 0.01 + 0.9 * v[2]
    np.testing.assert_allclose(made.values[0, :2, 0], [0.001 + 0.9 * (0.1 * v[1] + 0.9 * last), last], rtol=1e-5)
    np.testing.assert_array_equal(made.absorbed, np.zeros((1, 7, 2), bool))


def test_an_intrinsic_return_that_crosses_the_end_is_unknown_beyond_it() -> None:
    made, rows = _by_hand("terminated", crosses_end=True)
    final = episodes.value_of(int(rows["observation"][2]), rows["beta"][2], 1)
    np.testing.assert_allclose(made.values[0, 1, 1], rows["novelty"][2] + 0.8 * final, rtol=1e-4)
    np.testing.assert_array_equal(made.absorbed[0], [[0, 0]] * 2 + [[1, 0]] * 5)
    np.testing.assert_array_equal(made.values[0, 2:, 0], np.zeros(5))


def test_an_end_in_the_last_row_of_a_window_is_not_past_it() -> None:
    rng = np.random.default_rng(3)
    rows = episodes.window(rng, length=LENGTH, transitions=LENGTH + 1, ending="terminated", from_start=False)
    made = make_supervise()(jnp.ones(()), *episodes.to_batch([rows]), jax.random.key(0), jnp.asarray(BETAS))
    assert rows["last"][LENGTH] and not made.absorbed.any() and made.valid.all()


def test_reanalysis_changes_the_first_sequences_only_each_row_with_the_context_that_ends_there() -> None:
    rng = np.random.default_rng(5)
    windows = [episodes.random_window(rng, LENGTH) for _ in range(BATCH)]
    batch, novelty = episodes.to_batch(windows)
    made = make_supervise(num_reanalysed=2)(jnp.ones(()), batch, novelty, jax.random.key(1), jnp.asarray(BETAS))
    relabelled = np.asarray(made.beta[:2, 0], np.float64)
    np.testing.assert_array_equal(made.beta[:2], np.repeat(made.beta[:2, :1], LENGTH + 1, axis=1))
    assert np.isin(np.asarray(made.beta[:2]), np.asarray(BETAS, np.float32)).all()
    np.testing.assert_allclose(made.played_at, np.stack([rows["beta"] for rows in windows]))
    expected = list(windows)
    for index, beta in enumerate(relabelled):
        lengths = np.arange(1, LENGTH + 2)
        expected[index] = windows[index] | {
            "beta": np.full(LENGTH + 1, beta),
            "search_policy": np.eye(NUM_ACTIONS)[lengths % NUM_ACTIONS],
            "search_value": episodes.plan_value(windows[index]["observation"], lengths, beta),
        }
    check(made, expected, crosses_end=False)


def test_reanalysed_sequences_take_their_betas_from_those_in_play() -> None:
    windows = [episodes.random_window(np.random.default_rng(5), LENGTH)] * BATCH
    batch, novelty = episodes.to_batch(windows)
    supervise = make_supervise(num_reanalysed=BATCH)
    drawn = [
        supervise(jnp.ones(()), batch, novelty, jax.random.key(seed), jnp.asarray(BETAS)).beta for seed in range(8)
    ]
    assert set(np.concatenate(drawn).ravel().tolist()) == set(np.asarray(BETAS, np.float32).tolist())


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 32, 32), (0.5, 8, 24), (0.0, 0, 0)])
def test_a_share_of_them_exploits(share: float, least: int, most: int) -> None:
    windows = [episodes.random_window(np.random.default_rng(5), LENGTH)] * BATCH
    batch, novelty = episodes.to_batch(windows)
    supervise = make_supervise(num_reanalysed=BATCH, exploit_share=share)
    in_play = jnp.asarray([0.3, 0.7])
    drawn = [supervise(jnp.ones(()), batch, novelty, jax.random.key(seed), in_play).beta[:, 0] for seed in range(8)]
    assert least <= int((np.concatenate(drawn) == 0).sum()) <= most


def test_targets_come_from_the_target_parameters_and_carry_no_gradient() -> None:
    rng = np.random.default_rng(6)
    windows = [episodes.random_window(rng, LENGTH) for _ in range(BATCH)]
    batch, novelty = episodes.to_batch(windows)
    supervise = make_supervise()
    check(
        supervise(jnp.asarray(0.5), batch, novelty, jax.random.key(0), jnp.asarray(BETAS)),
        windows,
        crosses_end=False,
        scale=0.5,
    )

    def total(params: jax.Array, novelty: jax.Array) -> jax.Array:
        made = supervise(params, batch, novelty, jax.random.key(0), jnp.asarray(BETAS))
        return made.values.sum() + made.q.sum() + made.rewards.sum()

    for gradient in jax.grad(total, argnums=(0, 1))(jnp.asarray(0.5), novelty):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_a_context_is_cut_for_every_row_sequence_major() -> None:
    keys = jnp.arange(2 * 5, dtype=jnp.float32).reshape(2, 1, 5, 1, 1)
    context = Context((keys,), (keys + 100,), jnp.asarray([0, 2]), jnp.asarray([5, 5]))
    cut = supervision.context_up_to(context, jnp.asarray([[0, 4, 1], [3, 2, 2]]))
    np.testing.assert_array_equal(cut.length, [1, 5, 2, 4, 3, 3])
    np.testing.assert_array_equal(cut.start, [0, 0, 0, 2, 2, 2])
    np.testing.assert_array_equal(cut.keys[0][:, 0, 0, 0, 0], [0, 0, 0, 5, 5, 5])
    np.testing.assert_array_equal(cut.values[0][:, 0, 0, 0, 0], [100, 100, 100, 105, 105, 105])
