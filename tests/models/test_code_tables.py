"""Whitened codes, and the scale and rank of a code table."""

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.models.code_tables import scale_and_rank, whiten

GROUPS, CODES, DIM = 3, 40, 4


def _vectors(codes: int = CODES) -> jax.Array:
    """Correlated, far from the origin, of unequal spread."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(GROUPS, DIM, DIM)) * [[[3.0, 1.0, 1.0, 0.5]]]
    return jnp.asarray(np.einsum("gvd,gde->gve", rng.normal(size=(GROUPS, codes, DIM)), mix) + 5, jnp.float32)


def test_s4_87_whitened_codes_have_mean_0_and_unit_covariance_in_each_group() -> None:
    white = np.asarray(jax.jit(whiten)(_vectors()), np.float64)
    np.testing.assert_allclose(white.mean(axis=1), 0, atol=1e-3)
    covariance = np.einsum("gvd,gve->gde", white, white) / CODES
    np.testing.assert_allclose(covariance, np.broadcast_to(np.eye(DIM), covariance.shape), atol=1e-2)


def test_whitening_turns_nothing_and_does_not_jump() -> None:
    """Scaled axes come back unturned, and a codebook that moved a little is whitened to nearly the same."""
    axes = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4000, DIM)), jnp.float32)
    scaled = axes * jnp.asarray([1.0, -2.0, 3.0, 0.5])[None, None]
    turned = jnp.asarray([1.0, -1.0, 1.0, 1.0])[None, None] * whiten(scaled)
    np.testing.assert_allclose(turned, axes, atol=0.3)
    # Two directions of one variance: an eigenvector's turn is anyone's guess, the symmetric root's is not.
    square = jnp.asarray([[[1.0, 1], [1, -1], [-1, 1], [-1, -1]]])
    nudged = square.at[0, 0, 0].add(1e-3)
    np.testing.assert_allclose(whiten(square), square, atol=1e-5)
    np.testing.assert_allclose(whiten(nudged), square, atol=5e-3)


def test_directions_without_spread_stay_0() -> None:
    """What differs by less than float32 can tell is not blown up: three codes in five directions, and a thin one."""
    rng = np.random.default_rng(2)
    few = jnp.asarray(rng.normal(size=(16, 3, 5)) + 5, jnp.float32)
    thin = jnp.asarray(rng.normal(size=(16, CODES, 3)) * [[[1.0, 1.0, 1e-3]]], jnp.float32)
    for vectors, spread in ((few, [1, 1, 0]), (thin, [1, 1, 0])):
        singular = np.linalg.svd(jax.jit(whiten)(vectors), compute_uv=False) / np.sqrt(vectors.shape[1])
        np.testing.assert_allclose(singular[:, :3], np.broadcast_to(spread, (16, 3)), atol=2e-2)
    np.testing.assert_array_equal(whiten(jnp.ones((1, 5, 3))), jnp.zeros((1, 5, 3)))


def test_s4_87_scale_and_rank_by_hand() -> None:
    # Singular values (2, 2), (3, 0), (3, 1) and none.
    table = jnp.asarray([[[2.0, 0], [0, 2], [0, 0]], [[3, 0], [0, 0], [0, 0]], [[0, 1], [0, 0], [3, 0]], [[0, 0]] * 3])
    scale, rank = jax.jit(scale_and_rank)(table)
    np.testing.assert_allclose(scale, np.sqrt([8 / 6, 9 / 6, 10 / 6, 0]), rtol=1e-6)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(rank, [2, 1, np.exp(entropy), 0], rtol=1e-5)
    # A whitened table spreads over all its directions.
    np.testing.assert_allclose(scale_and_rank(whiten(_vectors()))[1], DIM, rtol=1e-3)
