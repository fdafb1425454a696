"""Quantisers against brute force in float64, hand-computed gradients and a plain NumPy loop."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.models.quantizers import Quantizer, QuantizerState, codes, make_quantizer, vq
from learnmax_jax.types import Params

BASE = {
    "kind": "vq_ema",
    "distance": "l2",
    "num_groups": 3,
    "num_codes": 16,
    "code_dim": 4,
    "input_dim": 12,
    "commitment": 0.25,
    "codebook_decay": 0.9,
    "kmeans_iterations": 5,
    "revive_below": 0.0,
    "revive_limit": 1,
    "revive_warmup": 0,
}


def seen(quantised: codes.Quantised, weight: jax.Array | float = 1.0) -> codes.Seen:
    """What `update` takes; the reconstruction's error only `growing` asks for."""
    ones = jnp.ones(quantised.codes.shape)
    return codes.Seen(quantised.encoding, quantised.codes, jnp.zeros_like(ones), weight * ones)


def make(**changes: object) -> Quantizer:
    return make_quantizer(**(BASE | changes))


def encodings(seed: int, batch: int = 32, dim: int = 12) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (batch, 1, dim))


def started(quantizer: Quantizer, seed: int = 0) -> tuple:
    """Parameters and a state long past the first update, with the random codebook of `init`."""
    params, state = quantizer.init(jax.random.key(seed))
    return params, state.replace(num_updates=jnp.int32(1000))


def learn(quantizer: Quantizer) -> Callable:
    """(params, state, encoding, seed, weight) -> (params, state) after one update."""

    @jax.jit
    def step(
        params: Params, state: QuantizerState, encoding: jax.Array, seed: int, weight: jax.Array | float = 1.0
    ) -> tuple[Params, QuantizerState]:
        quantised = quantizer.quantise(params, state, encoding)
        return quantizer.update(params, state, seen(quantised, weight), jax.random.key(seed))

    return step


def brute_force(points: np.ndarray, codebook: np.ndarray, distance: str) -> np.ndarray:
    """Nearest code in float64, `[M, G, D]`, `[G, V, D]` -> `[M, G]`."""
    points, codebook = points.astype(np.float64), codebook.astype(np.float64)
    if distance == "cosine":
        points = points / np.linalg.norm(points, axis=-1, keepdims=True)
        codebook = codebook / np.linalg.norm(codebook, axis=-1, keepdims=True)
    return np.argmin(((points[:, :, None] - codebook[None]) ** 2).sum(-1), axis=-1)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("kind", ["vq_ema", "vq_grad"])
def test_n01_code_is_the_nearest_in_float64(kind: str, distance: str) -> None:
    quantizer = make(kind=kind, distance=distance)
    params, state = started(quantizer)
    encoding = encodings(1, batch=500)
    got = quantizer.quantise(params, state, encoding).codes
    want = brute_force(
        np.asarray(encoding).reshape(-1, 3, 4), np.asarray(quantizer.code_vectors(params, state)), distance
    )
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got[:, 0], want)


@pytest.mark.parametrize("kind", ["vq_ema", "vq_grad", "fsq", "random", "identity"])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_n01_vectors_are_codebook_rows_bit_for_bit(kind: str, distance: str) -> None:
    quantizer = make(kind=kind, distance=distance, code_dim=16 if kind == "identity" else 4, num_codes=16)
    params, state = started(quantizer)
    encoding = jnp.abs(encodings(2, dim=3)) * 4 if kind == "identity" else 5.0 * encodings(2)
    quantised = jax.jit(quantizer.quantise)(params, state, encoding)
    rows = np.asarray(jax.jit(quantizer.code_vectors)(params, state))[np.arange(3), np.asarray(quantised.codes)]
    np.testing.assert_array_equal(quantised.vectors, rows)


def test_n01_gradient_passes_straight_through_bit_for_bit() -> None:
    encoding = encodings(3)
    vectors = encodings(4)
    cost = lambda x: jnp.sum(jnp.sin(3.0 * x) * x)  # noqa: E731
    to_encoding, to_vectors = jax.grad(lambda z, q: cost(codes.straight_through(z, q)), argnums=(0, 1))(
        encoding, vectors
    )
    np.testing.assert_array_equal(to_encoding, jax.grad(cost)(vectors))
    np.testing.assert_array_equal(to_vectors, np.zeros_like(vectors))


@pytest.mark.parametrize("kind", ["vq_ema", "vq_grad"])
def test_n01_codebook_gets_nothing_through_the_vectors(kind: str) -> None:
    quantizer = make(kind=kind)
    params, state = started(quantizer)

    def cost(codebook: jax.Array) -> jax.Array:
        changed = ({"codebook": codebook}, state) if kind == "vq_grad" else (params, state.replace(codebook=codebook))
        return jnp.sum(quantizer.quantise(*changed, encodings(5)).vectors ** 2)

    gradient = jax.grad(cost)(params["codebook"] if kind == "vq_grad" else state.codebook)
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_n02_commitment_gradient_by_hand() -> None:
    quantizer = make(commitment=0.25)
    params, state = started(quantizer)
    encoding = encodings(6)
    quantised = quantizer.quantise(params, state, encoding)
    got = jax.grad(lambda z: quantizer.quantise(params, state, z).loss)(encoding)
    # d/dz of 0.25 mean((z - e)^2) over N = 32 x 12 numbers.
    want = 2 * 0.25 * (encoding - quantised.vectors.reshape(encoding.shape)) / (32 * 12)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    to_codebook = jax.grad(
        lambda codebook: quantizer.quantise(params, state.replace(codebook=codebook), encoding).loss
    )(state.codebook)
    np.testing.assert_array_equal(to_codebook, np.zeros_like(to_codebook))


def test_n02_codebook_by_gradient_is_pulled_to_its_encodings() -> None:
    quantizer = make(kind="vq_grad", commitment=0.0)
    params, state = started(quantizer)
    encoding = encodings(7)
    chosen = np.asarray(quantizer.quantise(params, state, encoding).codes)[:, 0]
    got, to_encoding = jax.grad(lambda p, z: quantizer.quantise(p, state, z).loss, argnums=(0, 1))(params, encoding)
    got = got["codebook"]
    np.testing.assert_array_equal(to_encoding, np.zeros_like(encoding))
    points, codebook = np.asarray(encoding).reshape(-1, 3, 4), np.asarray(params["codebook"])
    want = np.zeros_like(codebook)
    for row, group in np.ndindex(*chosen.shape):
        code = chosen[row, group]
        want[group, code] += 2 * (codebook[group, code] - points[row, group]) / (32 * 12)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_n03_fifty_updates_equal_a_float64_loop(distance: str) -> None:
    quantizer = make(distance=distance)
    params, state = started(quantizer)
    # Half of the codes begin with a history, the others with none.
    usage = jnp.where(jnp.arange(16)[None] < 8, 2.0, 0.0) * jnp.ones((3, 1))
    state = state.replace(usage=usage, sums=2.0 * state.codebook * (usage > 0)[..., None])
    book, counts, sums = (np.asarray(x, np.float64) for x in (state.codebook, state.usage, state.sums))
    step = learn(quantizer)
    absent = 0
    for index in range(50):
        # Encodings drawn near a corner: some codes are never chosen.
        encoding = 0.5 * encodings(100 + index) + 1.0
        weight = np.random.default_rng(index).uniform(0.2, 5.0, (32, 1, 3)).astype(np.float32)
        _, state = step(params, state, encoding, index, jnp.asarray(weight))

        points = np.asarray(encoding, np.float64).reshape(-1, 3, 4)
        if distance == "cosine":
            points /= np.linalg.norm(points, axis=-1, keepdims=True)
        chosen = brute_force(points, book, distance)  # of the codebook before the update
        for group in range(3):
            for code in range(16):
                mine = chosen[:, group] == code
                absent += not mine.any()
                heavy = weight[mine, 0, group].astype(np.float64)
                counts[group, code] = 0.9 * counts[group, code] + 0.1 * heavy.sum()
                sums[group, code] = 0.9 * sums[group, code] + 0.1 * heavy @ points[mine, group]
                if counts[group, code] > 1e-12:
                    mean = sums[group, code] / counts[group, code]
                    book[group, code] = mean / np.linalg.norm(mean) if distance == "cosine" else mean
    assert absent > 500
    np.testing.assert_allclose(state.usage, counts, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(state.sums, sums, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(state.codebook, book, rtol=2e-4, atol=2e-5)


def test_decay_grows_to_its_value() -> None:
    quantizer = make(codebook_decay=0.9)
    params, state = started(quantizer)
    encoding = jnp.broadcast_to(state.codebook[:, 0].reshape(1, 1, 12), (32, 1, 12))
    step = learn(quantizer)
    # (1 + t) / (10 + t): 2/11 at t = 1, 31/40 at t = 30, the full 0.9 from t = 80 on.
    for num_updates, decay in ((1, 2 / 11), (30, 31 / 40), (79, 80 / 89), (81, 0.9), (10_000, 0.9)):
        before = state.replace(usage=jnp.ones((3, 16)), sums=state.codebook, num_updates=jnp.int32(num_updates))
        _, new = step(params, before, encoding, 0)
        np.testing.assert_allclose(new.usage[:, 1:], decay, rtol=1e-6)


def test_n03_absent_codes_decay_and_stay() -> None:
    quantizer = make()
    params, state = started(quantizer)
    state = state.replace(usage=jnp.full((3, 16), 2.0), sums=2.0 * state.codebook)
    encoding = jnp.broadcast_to(state.codebook[:, 0].reshape(1, 1, 12), (32, 1, 12))  # only code 0 of each group
    _, new = learn(quantizer)(params, state, encoding, 0)
    np.testing.assert_allclose(new.usage[:, 1:], 1.8, rtol=1e-6)  # 0.9 x 2
    np.testing.assert_allclose(new.usage[:, 0], 0.9 * 2 + 0.1 * 32, rtol=1e-6)
    np.testing.assert_allclose(new.codebook, state.codebook, rtol=1e-5)


def test_n03_revived_code_forgets_its_sums() -> None:
    quantizer = make(revive_below=0.1, revive_limit=1)
    params, state = started(quantizer)
    # Even usage is 32 / 16 = 2: under 0.2 a code is dead. Three are; the least used is revived.
    usage = jnp.full((3, 16), 2.0).at[:, 3].set(0.1).at[:, 5].set(0.05).at[:, 7].set(0.02)
    state = state.replace(codebook=state.codebook.at[:, jnp.array([3, 5, 7])].set(50.0))  # out of reach
    state = state.replace(usage=usage, sums=state.codebook * usage[..., None])
    encoding = encodings(8)
    _, new = learn(quantizer)(params, state, encoding, 0)
    points = np.asarray(encoding).reshape(-1, 3, 4)
    for group in range(3):
        row = np.asarray(new.codebook[group, 7])
        assert (np.abs(points[:, group] - row).max(-1) == 0).any()  # an encoding of this batch
    np.testing.assert_allclose(new.usage[:, 7], 2.0)
    np.testing.assert_allclose(new.sums[:, 7], 2.0 * new.codebook[:, 7])
    np.testing.assert_allclose(new.codebook[:, jnp.array([3, 5])], 50.0, rtol=1e-5)  # one a group and update
    np.testing.assert_allclose(new.usage[:, 3], 0.09, rtol=1e-6)


def test_a_dead_code_moves_to_what_is_badly_quantised() -> None:
    # All but three of 64 encodings lie on code 0, and one of the three weighs nothing.
    quantizer = make(num_groups=1, num_codes=4, code_dim=2, revive_below=0.1, revive_limit=3)
    params, state = quantizer.init(jax.random.key(0))
    state = state.replace(codebook=jnp.array([[[0.0, 0.0], [90.0, 0.0], [0.0, 90.0], [90.0, 90.0]]]))
    state = state.replace(usage=jnp.array([[64.0, 0.0, 0.0, 0.0]]), num_updates=jnp.int32(1000))
    points = jnp.zeros((64, 1, 2)).at[7, 0, 0].set(5.0).at[20, 0, 1].set(-4.0).at[30, 0].set(3.0)
    weight = jnp.ones((64, 1, 1)).at[30].set(0.0)
    step = learn(quantizer)
    _, new = step(params, state, points, 0, weight)
    moved = {tuple(row) for row in np.asarray(new.codebook[0, 1:]).tolist()}
    assert (5.0, 0.0) in moved and (0.0, -4.0) in moved
    assert sum(max(row) == 90.0 for row in moved) == 1  # nothing left to move to
    # Where all lie alike, nothing is badly quantised: no two codes trade places.
    _, same = step(params, state, points.at[:].set(0.3), 0)
    np.testing.assert_array_equal(same.codebook[0, 1:], state.codebook[0, 1:])


def test_points_are_drawn_by_weight_and_none_twice() -> None:
    points = jnp.arange(10.0).reshape(10, 1, 1)
    weight = jnp.array([0.0] * 5 + [1.0] * 4 + [100.0])[:, None]
    drawn, has_weight = jax.vmap(lambda key: vq.draw_points(points, weight, key, num_codes=6))(
        jax.random.split(jax.random.key(0), 200)
    )
    first = np.asarray(drawn[:, 0, :, 0])
    assert all(set(row[:5]) == {5.0, 6.0, 7.0, 8.0, 9.0} for row in first)
    assert (first[:, 0] == 9.0).mean() > 0.9  # 100 of 104
    np.testing.assert_array_equal(has_weight[:, 0], np.tile([True] * 5 + [False], (200, 1)))


def test_n03_no_limit_during_warmup() -> None:
    quantizer = make(revive_below=0.1, revive_limit=1, revive_warmup=500)
    params, state = started(quantizer)
    state = state.replace(codebook=state.codebook.at[:, :6].set(50.0))
    step = learn(quantizer)
    for num_updates, revived in ((499, 6), (500, 1)):
        before = state.replace(num_updates=jnp.int32(num_updates), usage=jnp.full((3, 16), 0.01), sums=state.codebook)
        before = before.replace(usage=before.usage.at[:, 6:].set(2.0), sums=before.codebook * before.usage[..., None])
        # Ten of 32 encodings are far from every code in reach.
        _, new = step(params, before, encodings(9).at[:10].multiply(8.0), 0)
        assert (np.abs(new.codebook[:, :6]).max(-1) < 40).sum(-1).tolist() == [revived] * 3


def test_n03_two_clusters_converge_to_their_means() -> None:
    quantizer = make(num_groups=1, num_codes=2, code_dim=2, kmeans_iterations=0)
    params, state = quantizer.init(jax.random.key(0))
    centres = np.array([[3.0, 1.0], [-2.0, 4.0]])
    noise = jax.random.normal(jax.random.key(1), (64, 2))
    noise = (noise - noise.reshape(2, 32, 2).mean(1).repeat(32, 0)) * 0.3
    points = jnp.asarray(centres.repeat(32, 0), jnp.float32) + noise
    state = state.replace(codebook=jnp.array([[[1.0, 0.0], [-1.0, 1.0]]]), num_updates=jnp.int32(1))
    step = learn(quantizer)
    for index in range(150):
        _, state = step(params, state, points[:, None], index)
    np.testing.assert_allclose(state.codebook[0], centres, atol=1e-4)


def test_kmeans_starts_the_codebook_at_the_first_update_only() -> None:
    quantizer = make(num_groups=1, num_codes=4, code_dim=2, kmeans_iterations=10, distance="l2")
    params, state = quantizer.init(jax.random.key(0))
    corners = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = jnp.asarray(corners.repeat(20, 0)[:, None] + np.tile([-0.5, 0.5], 40)[:, None, None], jnp.float32)
    found = []
    step = learn(quantizer)
    for seed in range(8):  # Lloyd may merge two corners from an unlucky start
        _, new = step(params, state, points, seed)
        rows = np.asarray(new.codebook[0])
        order = rows[np.lexsort((rows[:, 0].round(), rows[:, 1].round()))]
        found += [new] if np.allclose(order, corners, atol=1e-5) else []
        np.testing.assert_allclose(new.usage.sum(), 80.0)
    new = found[0]
    _, later = step(params, new, points + 1.0, 9)
    used = np.asarray(later.usage) > 1e-3
    moved = np.asarray(later.codebook - new.codebook)[used]
    # A running mean, no new start: its decay at update 1 is (1 + 1) / (10 + 1), so 9/11 of the way.
    np.testing.assert_allclose(moved, 9 / 11, atol=0.1)


def test_kmeans_centres_are_means_however_little_their_points_weigh() -> None:
    points = jnp.asarray([[2.0, 0.0], [4.0, 0.0], [0.0, 9.0]])[:, None]
    weight = jnp.asarray([0.1, 0.3, 0.2])[:, None]
    centres = vq.kmeans(points, weight, jax.random.key(0), num_codes=2, num_iterations=4, distance="l2")
    rows = sorted(np.asarray(centres)[0].tolist())
    np.testing.assert_allclose(rows, [[0.0, 9.0], [3.5, 0.0]], rtol=1e-6)


def test_kmeans_empty_cluster_keeps_its_place() -> None:
    points = jnp.ones((5, 1, 2))
    centres = vq.kmeans(points, jnp.ones((5, 1)), jax.random.key(0), num_codes=3, num_iterations=4, distance="l2")
    np.testing.assert_array_equal(centres, np.ones((1, 3, 2)))


@pytest.mark.parametrize(("num_codes", "code_dim"), [(64, 2), (27, 3), (16, 4)])
def test_fsq_rounds_to_its_levels(num_codes: int, code_dim: int) -> None:
    quantizer = make(kind="fsq", num_codes=num_codes, code_dim=code_dim)
    params, state = quantizer.init(jax.random.key(0))
    encoding = 2.0 * encodings(10, batch=4000, dim=3 * code_dim)
    quantised = quantizer.quantise(params, state, encoding)
    vectors = np.asarray(quantizer.code_vectors(params, state))
    assert len(np.unique(vectors[0], axis=0)) == num_codes
    assert len(np.unique(np.asarray(quantised.codes)[:, 0, 0])) == num_codes  # every code can be reached
    levels = round(num_codes ** (1 / code_dim))
    assert np.abs(np.asarray(quantised.encoding - quantised.vectors)).max() <= 1 / (levels - 1) + 1e-6  # half a step
    gradient = jax.grad(lambda z: jnp.sum(quantizer.quantise(params, state, z).vectors))(encoding)
    assert float(jnp.min(gradient)) >= 0.0 and float(jnp.max(gradient)) > 0.1


def test_random_is_centred_once_and_then_frozen() -> None:
    quantizer = make(kind="random", input_dim=50)
    params, state = quantizer.init(jax.random.key(0))
    assert params == {}
    bright = 10.0 + 0.1 * encodings(11, batch=200, dim=50)  # a room in all frames hides what differs
    quantised = quantizer.quantise(params, state, bright)
    assert len(np.unique(np.asarray(quantised.codes)[..., 0])) == 1
    _, state = quantizer.update(params, state, seen(quantised), jax.random.key(1))
    quantised = quantizer.quantise(params, state, bright)
    assert len(np.unique(np.asarray(quantised.codes)[..., 0])) == 16
    moved = quantised.replace(encoding=quantised.encoding + 3.0)
    _, later = quantizer.update(params, state, seen(moved), jax.random.key(2))
    np.testing.assert_array_equal(quantizer.quantise(params, later, bright).codes, quantised.codes)
    gradient = jax.grad(lambda z: jnp.sum(quantizer.quantise(params, later, z).vectors))(bright)
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_identity_keeps_integers() -> None:
    quantizer = make(kind="identity", num_groups=5, num_codes=7, code_dim=7, input_dim=5)
    params, state = quantizer.init(jax.random.key(0))
    integers = jnp.array([[[0, 6, 3, 200, 1]]], jnp.uint8)
    quantised = quantizer.quantise(params, state, integers)
    np.testing.assert_array_equal(quantised.codes, [[[0, 6, 3, 6, 1]]])  # 200 is no code
    np.testing.assert_array_equal(quantised.vectors, np.eye(7)[np.array([[[0, 6, 3, 6, 1]]])])


@pytest.mark.parametrize("kind", ["vq_ema", "fsq"])
def test_usage_is_a_running_mean_started_by_the_first_update(kind: str) -> None:
    quantizer = make(kind=kind, kmeans_iterations=3, codebook_decay=0.1)  # under the least decay of the start
    params, state = quantizer.init(jax.random.key(0))
    totals = []
    step = learn(quantizer)
    for index, batch in enumerate((40, 40, 80)):
        params, state = step(params, state, encodings(index, batch=batch), index)
        totals.append(np.asarray(state.usage.sum(-1)))
    np.testing.assert_allclose(totals, np.array([[40.0], [40.0], [0.1 * 40 + 0.9 * 80]]) * np.ones((1, 3)), rtol=1e-5)
    assert int(state.num_updates) == 3


def test_perplexity_by_hand() -> None:
    # One code alone: 1. Two evenly: 2. Mean over the groups: 1.5.
    np.testing.assert_allclose(codes.perplexity(jnp.array([[8.0, 0.0, 0.0], [3.0, 3.0, 0.0]])), 1.5, rtol=1e-6)
    assert float(codes.perplexity(jnp.zeros((2, 4)))) == 1.0  # before the first update


def test_normalise_zero_has_a_finite_gradient() -> None:
    gradient = jax.grad(lambda x: jnp.sum(codes.normalise(x)))(jnp.zeros((2, 3)))
    assert np.isfinite(np.asarray(gradient)).all()


def test_impossible_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"num_codes=60: .*Allowed: L\*\*2.*Nearest: 64"):
        make(kind="fsq", num_codes=60, code_dim=2)
    with pytest.raises(ValueError, match=r"code_dim=4: .*Allowed: num_codes. Nearest: 16"):
        make(kind="identity")
