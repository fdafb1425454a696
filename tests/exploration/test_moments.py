"""Running moments: equal to NumPy's over all batches; rows that are masked count for nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.exploration import moments


def test_features_are_whitened_by_the_mean_over_all_batches() -> None:
    batches = np.random.default_rng(4).normal(size=(3, 5, 2, 4)).astype(np.float32)
    batches[..., 0] = 2.0  # never changes
    known = moments.init(4)
    for features in batches:
        known = moments.add(known, jnp.asarray(features), jnp.ones((5, 2), bool))
    flat = batches.reshape(-1, 4)
    np.testing.assert_allclose(known.mean, flat.mean(axis=0), rtol=1e-5)
    white = moments.whiten(jnp.asarray(flat), known, least=0.1)
    np.testing.assert_allclose(white[:, 1:], ((flat - flat.mean(axis=0)) / (flat.std(axis=0) + 0.1))[:, 1:], rtol=1e-4)
    np.testing.assert_allclose(white[:, 0], 0.0, atol=1e-5)
    far = moments.whiten(jnp.full((1, 4), 4096.0), known, least=0.1)
    np.testing.assert_array_equal(far, 5.0)


def test_masked_rows_and_batches_count_for_nothing() -> None:
    features = np.random.default_rng(5).normal(size=(6, 3)).astype(np.float32)
    mask = np.array([True, False, True, True, False, False])
    known = moments.add(moments.init(3), jnp.asarray(features), jnp.asarray(mask))
    np.testing.assert_allclose(known.mean, features[mask].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(known.square, (features[mask] ** 2).mean(axis=0), rtol=1e-6)
    again = moments.add(known, jnp.asarray(features), jnp.zeros(6, bool))
    jax.tree.map(np.testing.assert_array_equal, again, known)
