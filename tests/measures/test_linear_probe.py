"""The linear probe recovers a linear map, and no other."""

import numpy as np

from learnmax_jax.measures import linear_probe


def test_a_linear_map_with_bias_is_recovered() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(500, 4)), rng.normal(size=(4, 2))
    probe = linear_probe.fit(x, x @ weights + 100.0, ridge=1e-6)
    other = rng.normal(size=(50, 4))
    np.testing.assert_allclose(probe(other), other @ weights + 100.0, atol=1e-6)
    assert (linear_probe.distance(probe(other), other @ weights + np.array([103.0, 104.0])) - 5).max() < 1e-6


def test_noise_is_not_read() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, 4)), rng.normal(size=(2000, 2))
    assert linear_probe.fit(x[:1000], y[:1000])(x[1000:]).std() < 0.2


def test_features_are_one_hot_codes_while_they_are_few() -> None:
    codes, vectors = np.array([[[1, 0]], [[2, 2]]]), np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    np.testing.assert_array_equal(linear_probe.features_of(codes, vectors), [[0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1]])


def test_features_are_vectors_where_codes_are_many() -> None:
    vectors = np.random.default_rng(0).normal(size=(1, 3000, 5)).astype(np.float32)
    codes = np.array([[[7], [2999]]])
    np.testing.assert_array_equal(
        linear_probe.features_of(codes, vectors)[0], np.concatenate([vectors[0, 7], vectors[0, 2999]])
    )


def test_rooms_are_told_apart() -> None:
    codes = np.random.default_rng(0).integers(0, 4, (400, 1, 2))
    features = linear_probe.features_of(codes, np.zeros((2, 4, 1)))
    rooms = codes[:, 0, 1] // 2 + 7
    assert linear_probe.room_accuracy(features[:200], rooms[:200], features[200:], rooms[200:]) == 1
    shuffled = np.random.default_rng(1).permutation(rooms)
    assert linear_probe.room_accuracy(features[:200], shuffled[:200], features[200:], shuffled[200:]) < 0.7
