"""Disagreement of an ensemble: high at what it was not taught, low at what it was, and nothing else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.exploration import disagreement
from learnmax_jax.exploration.kind import Kind, Paid, Parts
from learnmax_jax.models.novelty_nets import Ensemble
from learnmax_jax.types import Batch
from tests.exploration.batches import batch_of
from tests.learning import small

SIZE = 5
ACTIONS = 2


def _rows(rng: np.random.Generator, batch: int, length: int) -> Batch:
    """A walk round a ring of places, always by action 0; the value of a place is its number over ten."""
    place = (rng.integers(0, SIZE, size=(batch, 1)) + np.arange(length + 1)) % SIZE
    observation = np.stack([place, place], axis=-1)[:, :, None, None, :]
    value = jnp.asarray(place / 10, jnp.float32)
    return batch_of(observation, rng.integers(0, 1000, size=batch), search_value=value)


@pytest.fixture(scope="module")
def parts() -> tuple[Kind, Any]:
    tokenizer = small.identity_tokenizer(num_groups=2, num_codes=8)
    model = small.small_world_model(tokenizer, num_actions=ACTIONS)
    observation = jnp.zeros((1, 1, 1, 2), jnp.uint8)
    params = model.init(jax.random.key(0), observation, tokenizer.init(jax.random.key(1), observation))
    made = disagreement.make(
        Parts(num_envs=1, observation_shape=(1, 1, 2), tokenizer=tokenizer, world_model=model, latent_width=16),
        num_members=4,
        width=16,
        prior_scale=1.0,
        value_weight=0.5,
        learning_rate=5e-3,
    )
    return made, params


@pytest.fixture(scope="module")
def history(parts: tuple[Kind, Any]) -> list[Paid]:
    kind, params = parts
    rng, pay = np.random.default_rng(0), jax.jit(kind.pay)
    state, paid = kind.init(jax.random.key(2)), []
    for index in range(300):
        paid.append(pay(state, params, _rows(rng, 16, 4), jax.random.key(index)))
        state = paid[-1].state
    return paid


def _by_action(paid: Paid, action: int) -> float:
    assert paid.supposed is not None
    return float(jnp.mean(paid.supposed.reward, where=paid.supposed.action == action))


def test_actions_that_were_taken_end_up_known_and_others_do_not(history: list[Paid]) -> None:
    assert float(history[0].bonus[:, 1:].mean()) > 0.2
    assert _by_action(history[-1], 0) < 0.35 * _by_action(history[0], 0)
    assert _by_action(history[-1], 1) > 2 * _by_action(history[-1], 0)


def test_the_reward_stands_at_the_observation_that_a_step_leads_to(history: list[Paid]) -> None:
    paid = history[0]
    assert paid.supposed is not None and not paid.supposed.q_too
    assert (paid.bonus[:, 0] == 0).all()
    # Where the drawn action is the one that was taken, both say the same.
    same = paid.supposed.action == 0
    np.testing.assert_allclose(paid.bonus[:, 1:][same], paid.supposed.reward[same], rtol=1e-5)


def test_rows_that_are_no_transitions_pay_nothing_and_teach_nothing(parts: tuple[Kind, Any]) -> None:
    kind, params = parts
    batch = _rows(np.random.default_rng(1), 3, 4)
    batch = batch.replace(rows=batch.rows.replace(valid=batch.rows.valid.at[:, 2:].set(False)))
    changed = batch.replace(rows=batch.rows.replace(search_value=batch.rows.search_value.at[:, 4].set(9.0)))
    paid, other = (kind.pay(kind.init(jax.random.key(2)), params, each, jax.random.key(0)) for each in (batch, changed))
    assert (paid.bonus[:, 3:] == 0).all() and (paid.bonus[:, 1:3] > 0).all()
    assert paid.supposed is not None and not paid.supposed.mask[:, 2:].any()
    for a, b in zip(jax.tree.leaves(paid.state), jax.tree.leaves(other.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_spread_by_hand() -> None:
    class Said:
        """Two members that are told what to say."""

        def apply(self, variables: Any, latent: Any, action: Any) -> Any:
            return variables["params"]

    def spread(p: list[float], q: list[float], values: tuple[float, float] = (0.0, 0.0)) -> float:
        logits = jnp.log(jnp.asarray([p, q]) + 1e-9)[:, None, None, None, None]  # [K, B, L, N, G, V]
        state = disagreement.EnsembleState((logits, jnp.asarray(values)[:, None, None]), None)
        net: Ensemble = Said()  # type: ignore[assignment]
        return float(disagreement.bonus(state, net, None, None, value_weight=2.0)[0, 0])  # type: ignore[arg-type]

    assert spread([1.0, 0.0], [1.0, 0.0]) == pytest.approx(0, abs=1e-3)
    # Agreed uncertainty is no disagreement.
    assert spread([0.5, 0.5], [0.5, 0.5]) == pytest.approx(0, abs=1e-3)
    # One bit of information of one bit there can be.
    assert spread([1.0, 0.0], [0.0, 1.0]) == pytest.approx(1, abs=1e-3)
    # H(3/4, 1/4) - (H(1/2) + 0) / 2 = 0.5623 - 0.3466 = 0.2158 nats, of log 2 = 0.6931: 0.3113; its root 0.5579.
    assert spread([0.5, 0.5], [1.0, 0.0]) == pytest.approx(0.5579, abs=1e-3)
    # Values 1 and 3 deviate by 1 from their mean, twice that counts.
    assert spread([1.0, 0.0], [1.0, 0.0], (1.0, 3.0)) == pytest.approx(2, abs=1e-3)


def test_the_frozen_members_stay(parts: tuple[Kind, Any], history: list[Paid]) -> None:
    start = parts[0].init(jax.random.key(2))
    end = history[-1].state
    for a, b in zip(
        jax.tree.leaves(start.params["frozen_prior"]), jax.tree.leaves(end.params["frozen_prior"]), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), start.params["trained"], end.params["trained"])
    assert all(jax.tree.leaves(moved))
