"""Bonuses in units of their own size, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.exploration import normalise
from learnmax_jax.exploration.kind import Paid
from learnmax_jax.exploration.novelty import Novelty
from learnmax_jax.types import Supposed
from tests.exploration.batches import batch_of


def _kind(bonus: float, *, promises: bool = False) -> Novelty:
    """Pays `bonus` for every second observation, and says that everything else would pay twice as much."""

    def pay(state, params, batch, rng_key):
        paid = jnp.broadcast_to(bonus * (jnp.arange(batch.mask.shape[1]) % 2), batch.mask.shape)
        shape = (batch.mask.shape[0], batch.mask.shape[1] - 1)
        supposed = Supposed(jnp.zeros(shape, jnp.int32), jnp.full(shape, 2 * bonus), jnp.ones(shape, bool), promises)
        return Paid(state + 1, paid, supposed, {"paid": jnp.asarray(bonus)})

    return Novelty(
        init=lambda rng_key: jnp.zeros((), jnp.int32),
        pay=pay,
        observe=lambda state, observation, first, reward: (state + 10, observation, first),
        rarity=lambda state, keys: keys * 2,
        metrics=lambda state: {"seen": state},
    )


def _normalised(bonus: float, *, discount: float = 1 - 1 / normalise.RETURN) -> Novelty:
    """By default a bonus of size 1 stays 1."""
    return normalise.normalised(_kind(bonus), discount=discount)


BATCH = batch_of(np.zeros((2, 4, 1, 1, 1), np.uint8), np.zeros(2))


def test_bonuses_of_any_size_become_as_large() -> None:
    for bonus in (0.01, 0.5, 20.0):
        kind = _normalised(bonus)
        state = kind.init(jax.random.key(0))
        assert float(kind.metrics(state)["scale"]) == 1
        for update in range(3):
            paid = kind.pay(state, None, BATCH, jax.random.key(0))
            state = paid.state
            np.testing.assert_allclose(paid.bonus, np.tile([0, 2**0.5], (2, 2)), rtol=1e-4)
            np.testing.assert_allclose(paid.supposed.reward, 2 * 2**0.5, rtol=1e-4)
            assert int(kind.metrics(state)["seen"]) == update + 1
        np.testing.assert_allclose(kind.metrics(state)["scale"], bonus / 2**0.5, rtol=1e-4)


def test_promises_keep_the_size_that_they_were_made_with() -> None:
    """Optimism pays nothing else: divided by the size of no bonus at all, its rewards would leave the support."""
    kind = normalise.normalised(_kind(0.01, promises=True), discount=0.9)
    paid = kind.pay(kind.init(jax.random.key(0)), None, BATCH, jax.random.key(0))
    np.testing.assert_allclose(paid.supposed.reward, 0.02)
    np.testing.assert_allclose(paid.bonus.max(), 2**0.5, rtol=1e-4)


def test_what_is_hardly_new_stays_small_and_padding_does_not_count() -> None:
    kind = _normalised(1e-6)
    paid = kind.pay(kind.init(jax.random.key(0)), None, BATCH, jax.random.key(0))
    np.testing.assert_allclose(paid.bonus.max(), 1e-6 / normalise.SMALLEST, rtol=1e-4)
    kind = _normalised(1.0)
    padded = BATCH.replace(mask=BATCH.mask.at[:, 1].set(False))
    paid = kind.pay(kind.init(jax.random.key(0)), None, padded, jax.random.key(0))
    np.testing.assert_allclose(paid.bonus[0, 3], 3**0.5, rtol=1e-4)


def test_the_size_follows_slowly() -> None:
    state = _normalised(1.0).init(jax.random.key(0))
    for _ in range(200):
        state = _normalised(1.0).pay(state, None, BATCH, jax.random.key(0)).state
    state = _normalised(0.0).pay(state, None, BATCH, jax.random.key(0)).state
    weight = 1 - normalise.DECAY**200
    expected = (0.5 * normalise.DECAY * weight / (normalise.DECAY * weight + 1 - normalise.DECAY)) ** 0.5
    np.testing.assert_allclose(normalise.scale(state), expected, rtol=1e-4)


def test_the_rest_is_passed_on() -> None:
    kind = _normalised(1.0)
    state, seen, first = kind.observe(kind.init(jax.random.key(0)), jnp.ones(3), jnp.zeros(3, bool), jnp.zeros(3))
    assert int(state.kinds) == 10 and seen.sum() == 3 and not first.any()
    assert kind.rarity(state, jnp.ones(2)).sum() == 4


def test_a_bonus_of_typical_size_at_every_step_adds_up_to_the_same_whatever_the_discount() -> None:
    for discount in (0.0, 0.9, 0.99):
        kind = _normalised(3.0, discount=discount)
        paid = kind.pay(kind.init(jax.random.key(0)), None, BATCH, jax.random.key(0))
        size = float(jnp.sqrt((paid.bonus**2).mean()))
        np.testing.assert_allclose(size / (1 - discount), normalise.RETURN, rtol=1e-4)
    kind = _normalised(3.0, discount=1.0)
    assert bool(jnp.isfinite(kind.pay(kind.init(jax.random.key(0)), None, BATCH, jax.random.key(0)).bonus).all())
