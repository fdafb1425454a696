"""Losses by hand, and the alignment of every target by a model that is never wrong."""

import dataclasses
import types
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.learning import losses
from learnmax_jax.learning.supervision import Supervision
from learnmax_jax.models.dynamics import Context, Node
from learnmax_jax.models.support import inverse_rescale
from learnmax_jax.models.world_model import ModelParams, WorldModel
from learnmax_jax.types import Array, Outcome, Prediction
from tests.learning import small
from tests.learning.small import EVERY_PART, SUPPORT

LN2 = np.log(2.0)


def test_masked_mean_by_hand() -> None:
    x = jnp.asarray([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    mask = jnp.asarray([[True, False, True], [False, True, False]])
    # (0.5 * (1 + 3) + 2 * 20) / 3
    assert float(losses.masked_mean(x, mask, jnp.asarray([0.5, 2.0]))) == pytest.approx(14.0)
    # Whole sequences weigh, whatever axes follow: (0.5 * 6 + 2 * 60) / 6.
    deep = losses.masked_mean(x[:, :, None], jnp.ones((2, 3, 1), bool), jnp.asarray([0.5, 2.0]))
    assert float(deep) == pytest.approx(20.5)
    assert float(losses.masked_mean(x, jnp.zeros((2, 3), bool), jnp.ones(2))) == 0


def test_masked_rows_get_no_gradient() -> None:
    mask = jnp.asarray([[True, False, True], [False, True, False]])
    gradient = jax.grad(lambda x: losses.masked_mean(x, mask, jnp.asarray([0.5, 2.0])))(jnp.ones((2, 3)))
    np.testing.assert_allclose(gradient, [[0.5 / 3, 0, 0.5 / 3], [0, 2 / 3, 0]], rtol=1e-6)


def test_categorical_and_scalar_losses_by_hand() -> None:
    # softmax([0, ln 3]) = [1/4, 3/4]
    logits = jnp.asarray([0.0, np.log(3.0)])
    assert float(losses.categorical_loss(logits, jnp.asarray([0.5, 0.5]))) == pytest.approx(
        -0.5 * np.log(0.25) - 0.5 * np.log(0.75)
    )
    # Logits that put 1/2 on the bin of h(x) = 1 and 1/2 on its neighbour at 2.
    logits = jnp.where((SUPPORT.bins == 1) | (SUPPORT.bins == 2), 0.0, -100.0)
    one, half = inverse_rescale(jnp.asarray([1.0, 1.5]))
    assert float(losses.scalar_loss(logits, one, SUPPORT)) == pytest.approx(LN2, rel=1e-4)
    assert float(losses.scalar_loss(logits, half, SUPPORT)) == pytest.approx(LN2, rel=1e-4)


def test_code_loss_by_hand() -> None:
    # One token of two groups, two codes: probabilities (1/2, 1/2) and (1/4, 3/4).
    logits = jnp.asarray([[[0.0, 0.0], [0.0, np.log(3.0)]]])
    nats, accuracy = losses.code_loss(logits, jnp.asarray([[1, 1]]))
    assert float(nats) == pytest.approx((LN2 - np.log(0.75)) / 2)
    assert float(accuracy) == 0.5  # of two equal logits the first counts as the likeliest
    nats, accuracy = losses.code_loss(logits, jnp.asarray([[0, 0]]))
    assert float(nats) == pytest.approx((LN2 - np.log(0.25)) / 2)
    assert float(accuracy) == 0.5


def test_s2_24_consistency_loss_by_hand() -> None:
    # Two tokens: one points the same way at another length, one stands at 60 degrees: 1 - (1 + 1/2) / 2.
    imagined = jnp.asarray([[[3.0, 0.0], [0.0, 2.0]]])
    observed = jnp.asarray([[[0.5, 0.0], [np.sqrt(3.0), 1.0]]])
    np.testing.assert_allclose(losses.consistency_loss(imagined, observed), [0.25], atol=1e-6)
    np.testing.assert_allclose(losses.consistency_loss(imagined, -imagined), [2.0], atol=1e-6)
    moved, told = jax.grad(lambda *both: losses.consistency_loss(*both).sum(), argnums=(0, 1))(imagined, observed)
    # d(1 - cos) / dx at x = (0, 2), half a token's weight: minus sin 60 / |x| across, nothing along.
    np.testing.assert_allclose(moved, [[[0, 0], [-np.sqrt(3) / 2 / 2 / 2, 0]]], atol=1e-6)
    np.testing.assert_array_equal(told, jnp.zeros_like(observed))
    assert np.isfinite(jax.grad(lambda x: losses.consistency_loss(x, observed).sum())(jnp.zeros((1, 2, 2)))).all()


def test_continuation_loss_by_hand() -> None:
    # sigmoid(ln 3) = 3/4
    logit = jnp.asarray([np.log(3.0), np.log(3.0), 500.0, -500.0])
    loss = losses.continuation_loss(logit, jnp.asarray([1.0, 0.0, 1.0, 0.0]))
    np.testing.assert_allclose(loss, [-np.log(0.75), -np.log(0.25), 0, 0], rtol=1e-5)


def test_chance_loss_by_hand_and_its_two_sides() -> None:
    posterior, prior = jnp.asarray([0.0, np.log(3.0)]), jnp.zeros(2)
    # KL((1/4, 3/4) || (1/2, 1/2)) = ln 2 - H(1/4)
    divergence = LN2 + 0.25 * np.log(0.25) + 0.75 * np.log(0.75)
    assert float(losses.chance_loss(posterior, prior)) == pytest.approx(divergence, rel=1e-5)
    # d KL / d prior logits = softmax(prior) - posterior, four fifths of it.
    np.testing.assert_allclose(
        jax.grad(losses.chance_loss, argnums=1)(posterior, prior), 0.8 * np.asarray([0.25, -0.25]), rtol=1e-5
    )
    # d KL / d posterior logit i = p_i (ln p_i / q_i - KL), a fifth of it.
    p = np.asarray([0.25, 0.75])
    np.testing.assert_allclose(
        jax.grad(losses.chance_loss)(posterior, prior), 0.2 * p * (np.log(p / 0.5) - divergence), rtol=1e-4
    )


def _gradient_rows(loss: Any, predictions: Any) -> dict[str, np.ndarray]:
    """Which `[B, T]` rows of each prediction the loss pulls at, however little."""
    gradient = jax.jit(jax.grad(loss))(predictions)
    return {
        name: np.abs(np.asarray(value)).reshape(*value.shape[:2], -1).max(axis=-1) > 0
        for name, value in vars(gradient).items()
        if value.size
    }


KNOWN = np.asarray([[True, True, False, False], [True, True, True, True]])
# Row 0 ended by termination: its extrinsic return is over, the intrinsic one crosses the end.
ABSORBED = np.asarray([[[0, 0], [0, 0], [1, 0], [1, 0]], [[0, 0]] * 4]).astype(bool)


def test_n06_which_rows_pull_at_which_outcome() -> None:
    rng = np.random.default_rng(0)
    targets = small.random_supervision(rng, batch=2, length=4, num_groups=2, num_codes=3, num_actions=2)
    outcome = Outcome(
        reward_logits=jnp.asarray(rng.normal(size=(2, 4, 7))),
        intrinsic_logits=jnp.asarray(rng.normal(size=(2, 4, 7))),
        continuation_logit=jnp.asarray(rng.normal(size=(2, 4))),
        code_logits=jnp.asarray(rng.normal(size=(2, 4, 1, 2, 3))),
        chance_logits=jnp.zeros((2, 4, 0)),
    )

    def loss(outcome: Outcome) -> Array:
        known, absorbed = jnp.asarray(KNOWN), jnp.asarray(ABSORBED)
        parts, _ = losses.outcome_losses(
            outcome, targets.codes[:, 1:], targets.rewards, targets.discount, known, absorbed, jnp.ones(2), SUPPORT
        )
        return sum(parts.values())

    pulled = _gradient_rows(loss, outcome)
    np.testing.assert_array_equal(pulled["code_logits"], KNOWN)
    np.testing.assert_array_equal(pulled["continuation_logit"], KNOWN)
    np.testing.assert_array_equal(pulled["reward_logits"], KNOWN | ABSORBED[..., 0])
    np.testing.assert_array_equal(pulled["intrinsic_logits"], KNOWN)


def test_n06_which_rows_pull_at_policy_and_values() -> None:
    rng = np.random.default_rng(0)
    targets = small.random_supervision(rng, batch=2, length=3, num_groups=2, num_codes=3, num_actions=2)
    values = jnp.asarray(rng.normal(size=(2, 4, 3, 7)))

    def loss(policy: Array, values: Array) -> Array:
        prediction = Prediction(policy_logits=policy, value_logits=values, q_logits=jnp.zeros((2, 4, 0)))
        known, absorbed = jnp.asarray(KNOWN), jnp.asarray(ABSORBED)
        parts = losses.prediction_losses(
            prediction, targets.policy, targets.values, known, absorbed, jnp.ones(2), SUPPORT
        )
        return sum(parts.values())

    policy_gradient, value_gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.zeros((2, 4, 2)), values)
    np.testing.assert_array_equal(np.abs(policy_gradient).max(axis=-1) > 0, KNOWN)
    pulled = np.abs(value_gradient).max(axis=-1) > 0
    for head, kind in enumerate((0, 1, 0)):  # long extrinsic, intrinsic, short extrinsic
        np.testing.assert_array_equal(pulled[:, :, head], KNOWN | ABSORBED[..., kind])


# A world of seven states whose every number is a bin. Action 2 enters state 0, the end, where nothing is left.
STATES, ACTIONS, LENGTH, UNROLL, BATCH = 7, 3, 8, 3, 6
_RNG = np.random.default_rng(1)
NEXT = _RNG.integers(1, STATES, size=(STATES, ACTIONS))
NEXT[:, 2] = 0
REWARD = _RNG.integers(-2, 3, size=(STATES, ACTIONS, 2)).astype(np.float32)
VALUE = _RNG.integers(-2, 3, size=(STATES, 3)).astype(np.float32)
Q = _RNG.integers(-2, 3, size=(STATES, ACTIONS, 2)).astype(np.float32)
BEST = _RNG.integers(0, ACTIONS, size=STATES)
for _table in (NEXT, REWARD, VALUE, Q):
    _table[0] = 0


def _sharp(index: Any, size: int) -> Array:
    return 40.0 * jax.nn.one_hot(index, size)


def _bin(value: Array) -> Array:
    return _sharp((value + 3).astype(jnp.int32), SUPPORT.num_bins)


def _oracle_outcome(params: Any, node: Node, action: Array, chance: None) -> Outcome:
    state = jnp.argmax(node.latent[:, 0], axis=-1)
    following = jnp.asarray(NEXT)[state, action]
    reward = jnp.asarray(REWARD)[state, action]
    return Outcome(
        reward_logits=_bin(reward[:, 0]),
        intrinsic_logits=_bin(reward[:, 1]),
        continuation_logit=jnp.where(following == 0, -40.0, 40.0),
        code_logits=_sharp(following, STATES)[:, None, None],
        chance_logits=jnp.zeros((state.shape[0], 0)),
    )


def _oracle_unroll(
    params: Any, context: Context, node: Node, actions: Array, chance: None
) -> tuple[Node, Array, Outcome]:
    latents, outcomes = [], []
    for step in range(actions.shape[1]):
        outcomes.append(_oracle_outcome(params, node, actions[:, step], None))
        node = node.replace(latent=(outcomes[-1].code_logits[:, :, 0] > 0).astype(jnp.float32))
        latents.append(node.latent)
    return node, jnp.stack(latents, axis=1), jax.tree.map(lambda *x: jnp.stack(x, axis=1), *outcomes)


def _oracle_predict(params: Any, latent: Array, beta: Array) -> Prediction:
    state = jnp.argmax(latent[:, 0], axis=-1)
    return Prediction(
        policy_logits=_sharp(jnp.asarray(BEST)[state], ACTIONS),
        value_logits=_bin(jnp.asarray(VALUE)[state]),
        q_logits=jnp.moveaxis(_bin(jnp.asarray(Q)[state]), 1, 2),
    )


def _oracle(states: np.ndarray) -> types.SimpleNamespace:
    """A world model that knows the true states of the windows and steps by the world's own table."""

    def context(params: Any, codes: Array, action: Array, first: Array, *, capacity: int) -> tuple[Context, Array]:
        start = jnp.zeros(BATCH, jnp.int32)
        return Context((), (), start, start), jax.nn.one_hot(states, STATES)[:, :, None]

    return types.SimpleNamespace(
        num_actions=ACTIONS,
        num_outcomes=0,
        context=context,
        root=lambda latent, codes, *, max_depth: Node(latent, codes, (), (), jnp.zeros(latent.shape[0], jnp.int32)),
        predict=_oracle_predict,
        outcome=_oracle_outcome,
        unroll=_oracle_unroll,
    )


def _true_windows() -> tuple[np.ndarray, Supervision]:
    """States `[B, L + 1]` and their targets: two windows run through, two are truncated, two end in state 0.

    Rows past a truncation, and all that is masked past a termination, say nonsense.
    """
    rng = np.random.default_rng(2)
    lengths = np.asarray([LENGTH + 1, LENGTH + 1, 3, LENGTH, 2, 5])
    terminates = np.arange(BATCH) >= 4
    actions = rng.integers(0, 2, size=(BATCH, LENGTH + 1))
    actions[terminates, lengths[terminates] - 1] = 2
    states = rng.integers(1, STATES, size=(BATCH, LENGTH + 1))
    for t in range(LENGTH):
        goes_on = (t < lengths) | terminates
        states[:, t + 1] = np.where(goes_on, NEXT[states[:, t], actions[:, t]], states[:, t + 1])
    valid = np.arange(LENGTH + 1)[None] < lengths[:, None]
    over = ~valid & terminates[:, None]
    known = (valid | over)[..., None]
    nonsense = rng.integers(-2, 3, size=(BATCH, LENGTH + 1, 2))
    rewards, values = REWARD[states, actions], VALUE[states]
    return states, Supervision(
        codes=jnp.asarray(states[:, :, None, None], jnp.int32),
        led_here=jnp.zeros((BATCH, LENGTH + 1), jnp.int32),
        action=jnp.asarray(actions[:, :-1], jnp.int32),
        first=jnp.zeros((BATCH, LENGTH + 1), bool),
        beta=jnp.zeros((BATCH, LENGTH + 1)),
        played_at=jnp.full((BATCH, LENGTH + 1), 0.5),
        rewards=inverse_rescale(jnp.asarray(np.where(known, rewards, nonsense)[:, :-1], jnp.float32)),
        discount=jnp.asarray(np.where(valid, actions != 2, rng.random(valid.shape) < 0.5)[:, :-1], jnp.float32),
        policy=jnp.where(valid[..., None], jax.nn.one_hot(BEST[states], ACTIONS), 1 / ACTIONS),
        values=inverse_rescale(jnp.asarray(np.where(known, values, 2.0))),
        q=inverse_rescale(jnp.asarray(Q[states[:, :-1], actions[:, :-1]])),
        valid=jnp.asarray(valid),
        absorbed=jnp.asarray(np.broadcast_to(over[..., None], nonsense.shape)),
        weights=jnp.ones(BATCH),
    )


@jax.jit
def _weighed_oracle_loss(supervision: Supervision, weights: losses.LossWeights) -> tuple[Array, Any]:
    states, _ = _true_windows()
    return losses.world_model_loss(
        None,
        ModelParams(network=None, tokenizer=None),  # type: ignore[arg-type]
        supervision,
        jax.random.key(0),
        world_model=_oracle(states),
        support=SUPPORT,
        weights=weights,
        unroll_steps=UNROLL,
        num_unrolls=40,  # every start of every window
    )


def _oracle_loss(supervision: Supervision) -> tuple[Array, Any]:
    return _weighed_oracle_loss(supervision, EVERY_PART)


def test_n06_a_model_that_is_never_wrong_has_no_loss() -> None:
    loss, (metrics, priorities) = _oracle_loss(_true_windows()[1])
    assert float(loss) < 1e-3
    assert {name for name in metrics if name.startswith("loss_")} == {
        *(f"loss_{name}" for name in ("codes", "reward", "intrinsic", "continuation", "policy", "value", "q")),
        *(f"loss_open_{name}" for name in ("codes", "reward", "intrinsic", "continuation", "policy", "value")),
        "loss_open_consistency",
    }
    for name in ("code_accuracy", "open_code_accuracy", "changed_code_accuracy"):
        assert float(metrics[name]) == pytest.approx(1.0)
    np.testing.assert_allclose(priorities, np.full((BATCH, LENGTH), 1e-3), atol=2e-5)


def test_n09_a_priority_is_the_error_of_what_the_row_was_played_for() -> None:
    """Also where the sequence was searched again at beta 0: it is drawn again for the player that it is of."""
    truth = _true_windows()[1]
    off = truth.values.at[:, 2, 0].add(0.25).at[:, 3, 1].add(1.0)
    _, (_, priorities) = _oracle_loss(truth.replace(values=off))
    ((extrinsic,), (intrinsic,)) = (
        np.unique(np.asarray(priorities)[np.asarray(truth.valid)[:, row], row].round(3)) for row in (2, 3)
    )
    assert extrinsic == pytest.approx(0.251, abs=2e-3) and intrinsic == pytest.approx(0.501, abs=2e-3)


@pytest.mark.parametrize("shift", [1, -1])
@pytest.mark.parametrize(
    ("field", "parts"),
    [
        ("codes", ("codes", "open_codes")),
        ("rewards", ("reward", "intrinsic", "open_reward", "open_intrinsic")),
        ("discount", ("continuation", "open_continuation")),
        ("policy", ("policy", "open_policy")),
        ("values", ("value", "open_value")),
        ("q", ("q",)),
        ("action", ("codes", "open_codes")),
    ],
)
def test_n06_any_target_shifted_by_one_step_is_wrong(field: str, parts: tuple[str, ...], shift: int) -> None:
    _, supervision = _true_windows()
    shifted = supervision.replace(**{field: jnp.roll(getattr(supervision, field), shift, axis=1)})
    metrics = _oracle_loss(shifted)[1][0]
    for part in parts:
        assert float(metrics[f"loss_{part}"]) > 1.0, part


def test_n06_unrolls_reach_the_first_and_the_last_row() -> None:
    _, supervision = _true_windows()
    wrong_first = supervision.replace(rewards=supervision.rewards.at[:2, 0].add(1.0))
    assert float(_oracle_loss(wrong_first)[1][0]["loss_open_reward"]) > 0.05
    wrong_last = supervision.replace(values=supervision.values.at[:2, -1].add(1.0))
    assert float(_oracle_loss(wrong_last)[1][0]["loss_open_value"]) > 0.05


def test_n06_the_final_observation_of_a_terminated_episode_is_told_to_be_worth_nothing() -> None:
    _, supervision = _true_windows()
    # Sequences 4 and 5 end after 2 and after 5 steps: row 2 and row 5 are the first past the end.
    past = jnp.asarray([4, 5]), jnp.asarray([2, 5])
    for field, part in (("values", "value"), ("rewards", "reward")):
        wrong = supervision.replace(**{field: getattr(supervision, field).at[past].add(1.0)})
        metrics = _oracle_loss(wrong)[1][0]
        assert float(metrics[f"loss_{part}"]) > 0.1 and float(metrics[f"loss_open_{part}"]) > 0.1


def test_n06_the_step_that_ends_an_episode_counts() -> None:
    _, supervision = _true_windows()
    # Sequences 2 to 5: the last transition is row 2, 7, 1, 4; sequences 0 and 1 run on past row 7.
    last = jnp.arange(BATCH), jnp.asarray([7, 7, 2, 7, 1, 4])
    known = supervision.valid[:, :-1]
    counted = {"reward": known | supervision.absorbed[:, :-1, 0], "continuation": known, "q": known}
    for field, part in (("rewards", "reward"), ("discount", "continuation"), ("q", "q")):
        value = getattr(supervision, field)
        # No table says 3: another bin, and 40 nats for each of six rows.
        wrong = 1.0 - value[last] if field == "discount" else inverse_rescale(jnp.full((BATCH, 2), 3.0))
        metrics = _oracle_loss(supervision.replace(**{field: value.at[last].set(wrong)}))[1][0]
        assert float(metrics[f"loss_{part}"]) == pytest.approx(6 * 40 / int(counted[part].sum()), rel=1e-3), part
        assert part == "q" or float(metrics[f"loss_open_{part}"]) > 1.0, part


def test_each_part_counts_what_its_weight_says() -> None:
    _, supervision = _true_windows()
    names = [field.name for field in dataclasses.fields(losses.LossWeights)]
    weights = losses.LossWeights(**{name: float(index + 2) for index, name in enumerate(names)})
    wrong = supervision.replace(
        **{name: jnp.roll(getattr(supervision, name), 1, axis=1) for name in ("codes", "rewards", "discount")},
        **{name: jnp.roll(getattr(supervision, name), 1, axis=1) for name in ("policy", "values", "q")},
    )
    total, (metrics, _) = _weighed_oracle_loss(wrong, weights)
    # As in the metrics of unit weights; open-loop parts are told as they count.
    unit = _oracle_loss(wrong)[1][0]
    expected = 0.0
    for name in ("codes", "reward", "intrinsic", "continuation", "policy", "value", "q"):
        weight = getattr(weights, name)
        expected += weight * float(unit[f"loss_{name}"])
        if name != "q":
            expected += weight * weights.open_loop * float(unit[f"loss_open_{name}"])
    expected += weights.consistency * weights.open_loop * float(unit["loss_open_consistency"])
    assert float(total) == pytest.approx(expected, rel=1e-4) == float(metrics["loss"])


def test_s2_24_a_weight_of_0_spends_nothing_on_consistency() -> None:
    def told(weight: float) -> tuple[set[str], int]:
        weights = EVERY_PART.replace(consistency=weight)
        supervision = _true_windows()[1]
        traced, out = jax.make_jaxpr(lambda s: _weighed_oracle_loss(s, weights), return_shape=True)(supervision)
        return set(out[1][0]), str(traced).count("rsqrt")

    (without, spent), (with_it, more) = told(0.0), told(0.5)
    assert with_it - without == {"loss_open_consistency"} and without < with_it
    assert spent == 0 < more


NUM_GROUPS, NUM_CODES = 2, 5


def _real_model(num_outcomes: int, dtype: str = "float32") -> tuple[WorldModel, ModelParams]:
    """A real world model, random where its `init` puts zeros."""
    tokenizer = small.identity_tokenizer(num_groups=NUM_GROUPS, num_codes=NUM_CODES)
    world_model = small.small_world_model(tokenizer, num_actions=ACTIONS, num_outcomes=num_outcomes, dtype=dtype)
    frames = jnp.zeros((1, 1, 1, NUM_GROUPS), jnp.uint8)
    state = jax.jit(tokenizer.init)(jax.random.key(0), frames)
    rng = np.random.default_rng(0)
    spec = jax.eval_shape(world_model.init, jax.random.key(0), frames, state).network
    network = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, x.dtype), spec)
    return world_model, ModelParams(network=network, tokenizer=state)


_make = partial(small.random_supervision, num_groups=NUM_GROUPS, num_codes=NUM_CODES, num_actions=ACTIONS, length=4)


@pytest.fixture(scope="module")
def learned() -> Any:
    """A real world model, and its loss and gradients by (network, tokenizer, supervision)."""
    world_model, params = _real_model(num_outcomes=2)

    def loss(
        network: Any, tokenizer_state: Any, supervision: Supervision, weights: losses.LossWeights
    ) -> tuple[Array, Any]:
        return losses.world_model_loss(
            network,
            ModelParams(network=None, tokenizer=tokenizer_state),
            supervision,
            jax.random.key(0),
            world_model=world_model,
            support=SUPPORT,
            weights=weights,
            unroll_steps=2,
            num_unrolls=2,
        )

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True))

    def gradients(
        network: Any, tokenizer_state: Any, supervision: Supervision, weights: losses.LossWeights = EVERY_PART
    ) -> Any:
        return compiled(network, tokenizer_state, supervision, weights)

    return types.SimpleNamespace(
        network=params.network, state=params.tokenizer, make=partial(_make, batch=3), gradients=gradients
    )


def _mixed(kept: Supervision, others: Supervision, sequence: int) -> Supervision:
    """`kept` in one sequence, `others` in the rest."""
    mine = np.arange(3) == sequence
    return jax.tree.map(lambda a, b: jnp.where(mine.reshape(-1, *[1] * (a.ndim - 1)), a, b), kept, others)


def test_n09_one_hot_weights_give_exactly_that_sequences_loss(learned: Any) -> None:
    a, b = (learned.make(np.random.default_rng(seed)) for seed in (0, 1))
    total, parts = 0.0, []
    for sequence in range(3):
        weights = jnp.asarray(np.arange(3) == sequence, jnp.float32)
        (loss, (metrics, _)), (gradient, _) = learned.gradients(
            learned.network, learned.state, a.replace(weights=weights)
        )
        others = _mixed(a, b, sequence).replace(weights=weights)
        (same, _), (same_gradient, _) = learned.gradients(learned.network, learned.state, others)
        # The other sequences count for nothing.
        np.testing.assert_allclose(same, loss, rtol=1e-6)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), same_gradient, gradient)
        # Three times that sequence, without weights, is the same again: a third of the batch, for every part.
        alone = jax.tree.map(lambda x, at=sequence: jnp.stack([x[at]] * 3), a)
        (_, (alone_metrics, _)), _ = learned.gradients(learned.network, learned.state, alone)
        for name in ("codes", "reward", "intrinsic", "continuation", "policy", "value", "q", "chance"):
            np.testing.assert_allclose(3 * metrics[f"loss_{name}"], alone_metrics[f"loss_{name}"], rtol=1e-5)
        total += loss
        parts.append(float(loss))
    (uniform, _), _ = learned.gradients(learned.network, learned.state, a)
    np.testing.assert_allclose(total, uniform, rtol=1e-5)
    assert len({round(part, 3) for part in parts}) == 3


def test_every_parameter_learns_and_no_gradient_reaches_the_tokenizer(learned: Any) -> None:
    supervision = learned.make(np.random.default_rng(0))
    (loss, _), (gradient, tokenizer_gradient) = learned.gradients(learned.network, learned.state, supervision)
    assert np.isfinite(loss)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tokenizer_gradient):
        assert leaf.dtype == jax.dtypes.float0 or not np.any(leaf), jax.tree_util.keystr(path)


def test_the_choice_of_outcome_learns_from_what_it_foretells(learned: Any) -> None:
    supervision = learned.make(np.random.default_rng(0))
    unweighted = EVERY_PART.replace(chance=0.0)
    _, (gradient, _) = learned.gradients(learned.network, learned.state, supervision, unweighted)
    # Straight through the pick: without it only the prior would pull at the posterior, and that has no weight here.
    assert np.abs(gradient["transition"]["posterior"]["kernel"]).max() > 1e-4


def test_rows_past_a_truncation_have_no_say(learned: Any) -> None:
    a, b = (learned.make(np.random.default_rng(seed)) for seed in (0, 1))
    valid = jnp.broadcast_to(jnp.arange(5) < 2, (3, 5))

    def beyond(x: Array, y: Array, first_row: int) -> Array:
        """`y` from a row on."""
        late = (jnp.arange(x.shape[1]) >= first_row).reshape(1, -1, *[1] * (x.ndim - 2))
        return jnp.where(late, y, x)

    # Row 2 is the final observation: its codes are the last thing that is known.
    changed = a.replace(
        codes=beyond(a.codes, b.codes, 3),
        led_here=beyond(a.led_here, b.led_here, 3),
        **{
            name: beyond(getattr(a, name), getattr(b, name), 2)
            for name in ("action", "rewards", "discount", "policy", "values", "q")
        },
    )
    results = [
        learned.gradients(learned.network, learned.state, supervision.replace(valid=valid))
        for supervision in (a, changed)
    ]
    (loss, (_, priorities)), (gradient, _) = results[0]
    (same, (_, same_priorities)), (same_gradient, _) = results[1]
    np.testing.assert_allclose(same, loss, rtol=1e-6)
    np.testing.assert_allclose(same_priorities, priorities, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), same_gradient, gradient)


def test_an_unroll_sees_its_start_and_its_actions_and_no_later_frame() -> None:
    world_model, params = _real_model(num_outcomes=0)

    @jax.jit
    def open_parts(supervision: Supervision) -> Any:
        # As many steps as there are: every unroll starts at row 0.
        metrics = losses.world_model_loss(
            params.network,
            params,
            supervision,
            jax.random.key(0),
            world_model=world_model,
            support=SUPPORT,
            weights=EVERY_PART,
            unroll_steps=4,
            num_unrolls=1,
        )[1][0]
        return jnp.stack([metrics[f"loss_open_{name}"] for name in ("reward", "continuation", "policy", "value")])

    a, b = (_make(np.random.default_rng(seed), batch=2) for seed in (0, 1))
    expected = open_parts(a)
    later = jnp.arange(5)[None] > 0
    blind = a.replace(
        codes=jnp.where(later[:, :, None, None], b.codes, a.codes), led_here=jnp.where(later, b.led_here, a.led_here)
    )
    np.testing.assert_allclose(open_parts(blind), expected, rtol=1e-6)
    for seen in (
        a.replace(codes=jnp.where(later[:, :, None, None], a.codes, (a.codes + 1) % NUM_CODES)),
        a.replace(action=(a.action + 1) % ACTIONS),
        a.replace(beta=a.beta + 1),
    ):
        assert (np.abs(open_parts(seen) - expected) > 1e-4).any()


def test_n15_products_in_bfloat16_change_the_loss_by_less_than_2_percent() -> None:
    told = {}
    for dtype in ("float32", "bfloat16"):
        world_model, params = _real_model(num_outcomes=0, dtype=dtype)

        def loss(network: Any, world_model: WorldModel = world_model, params: ModelParams = params) -> Array:
            return losses.world_model_loss(
                network,
                params,
                _make(np.random.default_rng(0), batch=8),
                jax.random.key(0),
                world_model=world_model,
                support=SUPPORT,
                weights=EVERY_PART,
                unroll_steps=2,
                num_unrolls=2,
            )[0]

        value, gradient = jax.jit(jax.value_and_grad(loss))(params.network)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
        told[dtype] = float(value), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
    (exact, direction), (rounded, rounded_direction) = told.values()
    assert 0 < abs(rounded - exact) < 0.02 * exact
    cosine = direction @ rounded_direction / (np.linalg.norm(direction) * np.linalg.norm(rounded_direction))
    assert 0.99 < cosine < 1 - 1e-7
