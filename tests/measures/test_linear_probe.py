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


def test_features_are_one_hot_codes_of_those_that_were_used() -> None:
    codes, vectors = np.array([[[1, 0]], [[2, 2]]]), np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    features = linear_probe.features_of(codes, vectors)
    np.testing.assert_array_equal(features(codes), [[1, 0, 1, 0], [0, 1, 0, 1]])
    np.testing.assert_array_equal(features(np.array([[[2, 0]], [[0, 1]]])), [[0, 1, 1, 0], [0, 0, 0, 0]])


def test_features_are_vectors_where_codes_are_many() -> None:
    vectors = np.random.default_rng(0).normal(size=(1, 5000, 5)).astype(np.float32)
    codes = np.arange(5000).reshape(2500, 2, 1)
    np.testing.assert_array_equal(
        linear_probe.features_of(codes, vectors)(codes[:1])[0], np.concatenate([vectors[0, 0], vectors[0, 1]])
    )


def test_each_room_has_a_map_of_its_own_if_it_is_known_well() -> None:
    rng = np.random.default_rng(0)
    x, rooms = rng.normal(size=(1000, 3)), np.repeat([1, 4, 5], [400, 400, 200])
    weights = {1: rng.normal(size=(3, 2)), 4: rng.normal(size=(3, 2)), 5: np.zeros((3, 2))}
    places = np.concatenate([x[rooms == room] @ weights[room] for room in (1, 4, 5)])
    probe = linear_probe.fit_places(x, places, rooms)
    assert sorted(probe.by_room) == [1, 4]  # 200 frames are too few
    errors = linear_probe.distance(probe(x, rooms), places)
    assert errors[rooms < 5].max() < 0.1 < errors[rooms == 5].mean()
    np.testing.assert_allclose(probe(x[:3], np.array([5, 5, 9])), probe.anywhere(x[:3]))


def test_a_code_that_never_changes_has_no_weight() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(300, 2)), np.ones((300, 1))], axis=1)
    probe = linear_probe.fit(x, 2.0 * x[:, :1] + 5.0, ridge=1e-6)
    np.testing.assert_allclose(probe.weights[:, 0], [2.0, 0.0, 0.0, 5.0], atol=1e-6)


def test_rooms_are_told_apart() -> None:
    codes = np.random.default_rng(0).integers(0, 4, (400, 1, 2))
    features = linear_probe.features_of(codes, np.zeros((2, 4, 1)))(codes)
    rooms = codes[:, 0, 1] // 2 + 7
    assert linear_probe.room_accuracy(features[:200], rooms[:200], features[200:], rooms[200:]) == 1
    shuffled = np.random.default_rng(1).permutation(rooms)
    assert linear_probe.room_accuracy(features[:200], shuffled[:200], features[200:], shuffled[200:]) < 0.7
