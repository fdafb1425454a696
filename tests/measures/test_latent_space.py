"""S2-23: known gaussians, told apart exactly as far as their means allow."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.measures import latent_space

MANY, WIDTH, RIDGE = 20_000, 8, 1e-3


def _gaussians(distance: float, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Unequal variances and correlated features; `distance` is Mahalanobis, between the means."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(WIDTH, WIDTH))
    first, second = rng.normal(size=(2, MANY, WIDTH))
    second[:, 2] += distance
    return jnp.asarray(first @ mix + 5, jnp.float32), jnp.asarray(second @ mix + 5, jnp.float32)


_separability = jax.jit(latent_space.separability, static_argnames="ridge")


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.0, 2.0, 6.0])
def test_s2_23_gaussians_are_told_apart_as_far_as_their_means_stand_apart(distance: float) -> None:
    # Scores of the best plane are N(0, 1) and N(d, 1): AUC = Phi(d / sqrt 2) = (1 + erf(d / 2)) / 2.
    auc = _separability(jax.random.key(0), *_gaussians(distance), ridge=RIDGE)
    assert float(auc) == pytest.approx((1 + math.erf(distance / 2)) / 2, abs=0.02)


def test_s2_23_the_half_that_was_fitted_is_not_the_half_that_is_judged() -> None:
    """With more features than rows any labels can be fitted; held-out rows stay a coin's toss."""
    noise = jax.random.normal(jax.random.key(1), (2, 64, 256))
    scores = [float(_separability(jax.random.key(seed), *noise, ridge=RIDGE)) for seed in range(8)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.1)


def test_s2_23_pairs_share_a_half() -> None:
    """Were the twin of a fitted row judged, a plane with room to remember rows would take it for the other set."""
    twins = jax.random.normal(jax.random.key(2), (64, 256))
    assert float(_separability(jax.random.key(0), twins, twins, ridge=RIDGE)) == 0.5


def test_area_under_curve_by_hand() -> None:
    # Of 2 x 3 pairs: 1 beats 0, ties 1; 3 beats all three: (1 + 1/2 + 3) / 6.
    auc = latent_space.area_under_curve(jnp.asarray([1.0, 3.0]), jnp.asarray([2.0, 0.0, 1.0]))
    assert float(auc) == pytest.approx(4.5 / 6)


def test_s2_23_cka_knows_one_space_in_another_turn_scale_and_place() -> None:
    x, y = _gaussians(0.0)
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (WIDTH, WIDTH)))[0]
    cka = jax.jit(latent_space.linear_cka)
    assert float(cka(x, 3.0 * x @ turn - 7.0)) == pytest.approx(1.0, abs=1e-4)
    assert float(cka(x, y)) < 0.02
    # Half of y's variance is x's, the other half is unrelated: X'Y = X'X, |X'X|^2 / (|X'X| |2 X'X|) = 1 / 2.
    white, other = jax.random.normal(jax.random.key(4), (2, MANY, WIDTH))
    assert float(cka(white, white + other)) == pytest.approx(0.5, abs=0.03)
    assert float(cka(white, white[:, :4])) == pytest.approx(math.sqrt(0.5), abs=0.02)
