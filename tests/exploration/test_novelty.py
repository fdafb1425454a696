"""Several kinds as one: what they pay is added, one gives the keys, and none is as good as nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.exploration import novelty
from learnmax_jax.exploration.kind import Kind, Paid, Parts
from learnmax_jax.types import Supposed
from tests.exploration.batches import batch_of

PARTS = Parts(num_envs=2, observation_shape=(1, 1, 2), tokenizer=None, world_model=None, latent_width=1)  # type: ignore[arg-type]
BATCH = batch_of(np.zeros((2, 3, 1, 1, 2)), np.arange(2))


def _paying(amount: float, *, watches: bool = False, supposes: bool = False) -> Callable[..., Kind]:
    def make(parts: Parts, *, times: int) -> Kind:
        def pay(state: Any, params: Any, batch: Any, rng_key: Any) -> Paid:
            shape = batch.mask[:, 1:].shape
            supposed = Supposed(jnp.zeros(shape, jnp.int32), jnp.ones(shape), jnp.ones(shape, bool), False)
            bonus = jnp.full(batch.mask.shape, amount * times)
            return Paid(state + 1, bonus, supposed if supposes else None, {f"paid_{amount:g}": jnp.asarray(amount)})

        def observe(state: Any, observation: Any, first: Any, reward: Any) -> Any:
            return state + 10, jnp.full((parts.num_envs, 2), 7, jnp.uint32), ~first

        return Kind(
            init=lambda key: jnp.zeros((), jnp.int32),
            pay=pay,
            observe=observe if watches else None,
            rarity=(lambda state, keys: jnp.full(keys.shape[:-1], amount)) if watches else None,
            metrics=lambda state: {f"state_{amount:g}": state},
        )

    return make


def _together(monkeypatch: pytest.MonkeyPatch, **makes: Callable[..., Kind]) -> novelty.Novelty:
    monkeypatch.setattr(novelty, "KINDS", makes)
    return novelty.make(PARTS, {name: {"times": 2} for name in makes})


def test_what_the_kinds_pay_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = _together(monkeypatch, one=_paying(0.5, watches=True), two=_paying(3.0, supposes=True))
    state = kind.init(jax.random.key(0))
    paid = kind.pay(state, None, BATCH, jax.random.key(0))
    np.testing.assert_array_equal(paid.bonus, np.full((2, 3), 7.0))
    assert paid.supposed is not None and set(paid.metrics) == {"paid_0.5", "paid_3"}
    assert {name: int(each) for name, each in paid.state.items()} == {"one": 1, "two": 1}
    state, keys, first_visit = kind.observe(paid.state, None, jnp.array([True, False]), jnp.zeros(2))
    assert {name: int(each) for name, each in state.items()} == {"one": 11, "two": 1}
    assert (keys == 7).all() and first_visit.tolist() == [False, True]
    np.testing.assert_array_equal(kind.rarity(state, keys), [0.5, 0.5])
    assert {name: int(value) for name, value in kind.metrics(state).items()} == {"state_0.5": 11, "state_3": 1}


def test_without_a_kind_nothing_is_new() -> None:
    kind = novelty.make(PARTS, {})
    state = kind.init(jax.random.key(0))
    paid = kind.pay(state, None, BATCH, jax.random.key(0))
    assert state == paid.state == {} and paid.supposed is None and paid.metrics == {} == kind.metrics(state)
    np.testing.assert_array_equal(paid.bonus, np.zeros((2, 3)))
    _, keys, first_visit = kind.observe(state, BATCH.rows.observation[:, 0], jnp.array([True, False]), jnp.zeros(2))
    assert not keys.any() and not first_visit.any() and keys.dtype == jnp.uint32
    np.testing.assert_array_equal(kind.rarity(state, keys), [1.0, 1.0])


def test_a_row_has_one_key_and_an_action_one_supposed_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="two: a row has one key, given by one"):
        _together(monkeypatch, one=_paying(1.0, watches=True), two=_paying(2.0, watches=True))
    kind = _together(monkeypatch, one=_paying(1.0, supposes=True), two=_paying(2.0, supposes=True))
    with pytest.raises(ValueError, match="one and two both suppose"):
        kind.pay(kind.init(jax.random.key(0)), None, BATCH, jax.random.key(0))
