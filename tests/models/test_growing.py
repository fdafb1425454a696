"""The quantiser that grows: true clusters found, old codes still, full at V, and the tokenizer around it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.models.quantizers import Quantizer, QuantizerState, make_quantizer
from learnmax_jax.models.tokenizer import make_tokenizer
from tests.models import test_quantizers, test_tokenizer

DIM, NUM_CODES = 16, 24
GROWTH = {"distance": 20.0, "error": 30.0, "limit": 8}
BADLY_SHOWN = (31.0 / 255.0) ** 2


def make(num_codes: int = NUM_CODES, **growth: Any) -> Quantizer:
    changes = {"kind": "growing", "num_groups": 1, "num_codes": num_codes, "code_dim": DIM, "input_dim": DIM}
    return make_quantizer(**(test_quantizers.BASE | changes), growth=GROWTH | growth)


def learner(quantizer: Quantizer) -> Callable[..., tuple[QuantizerState, np.ndarray]]:
    """(state, points `[M, D]` in [0, 1], mean squared error) -> (state, codes `[M]` before it grew)."""

    @jax.jit
    def step(state: QuantizerState, points: jax.Array, error: float) -> tuple[QuantizerState, jax.Array]:
        quantised = quantizer.quantise({}, state, points[:, None])
        seen = test_quantizers.seen(quantised)
        _, state = quantizer.update({}, state, seen.replace(error=seen.error + error), jax.random.key(0))
        return state, quantised.codes[:, 0, 0]

    return step


def assign(quantizer: Quantizer, state: QuantizerState, points: np.ndarray) -> np.ndarray:
    return np.asarray(quantizer.quantise({}, state, jnp.asarray(points)[:, None]).codes[:, 0, 0])


def test_a_new_code_takes_no_patch_from_an_old_one_that_is_near_enough() -> None:
    quantizer = make()
    step = learner(quantizer)
    _, state = quantizer.init(jax.random.key(0))
    old, new, between = (np.full((1, DIM), level / 255.0, np.float32) for level in (100, 130, 118))
    state, _ = step(state, old, BADLY_SHOWN)
    assert assign(quantizer, state, between).tolist() == [0]
    state, _ = step(state, new, BADLY_SHOWN)  # 30 away: a code of its own
    assert assign(quantizer, state, new).tolist() == [1]
    assert assign(quantizer, state, between).tolist() == [0]  # 18 from the old one, 12 from the new one
    assert assign(quantizer, state, np.full((1, DIM), 123 / 255.0)).tolist() == [1]  # 23 and 7: only one is near enough


def blobs(num_blobs: int, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points `[M, D]` in [0, 1] within 8 grey levels of whole centres that lie 60 apart and more; their blobs `[M]`."""
    centres = np.random.default_rng(7).choice([20, 120, 220], (num_blobs, DIM))
    rng = np.random.default_rng(seed)
    blob = rng.integers(0, num_blobs, num_points)
    return ((centres[blob] + rng.integers(-8, 9, (num_points, DIM))) / 255.0).astype(np.float32), blob


def start(quantizer: Quantizer) -> QuantizerState:
    return quantizer.init(jax.random.key(0))[1]


def test_s4_25_the_true_number_of_clusters_is_found() -> None:
    quantizer = make()
    state, step = start(quantizer), learner(quantizer)
    assert float(quantizer.codes_used(state)) == 0
    for seed in range(6):
        state, _ = step(state, jnp.asarray(blobs(13, 200, seed)[0]), BADLY_SHOWN)
        assert float(quantizer.codes_used(state)) <= min(8 * (seed + 1), 13)
    assert float(quantizer.codes_used(state)) == 13
    points, blob = blobs(13, 500, 99)
    codes = assign(quantizer, state, points)
    assert len(set(zip(codes.tolist(), blob.tolist()))) == 13  # one code a blob, one blob a code
    # Codes are points that were seen, to the grey level.
    vectors = np.asarray(quantizer.code_vectors({}, state))[0, :13]
    np.testing.assert_array_equal(np.round(255 * vectors), (255 * vectors).round(4))


def test_s4_41_an_old_assignment_changes_only_towards_a_new_code() -> None:
    quantizer = make()
    state, step = start(quantizer), learner(quantizer)
    for seed in range(3):
        state, _ = step(state, jnp.asarray(blobs(13, 200, seed)[0][:, ::-1]), BADLY_SHOWN)
    points = np.random.default_rng(3).uniform(size=(2000, DIM)).astype(np.float32)
    before, old = assign(quantizer, state, points), int(quantizer.codes_used(state))
    grown, _ = step(state, jnp.asarray(points[:50]), BADLY_SHOWN)
    after, new = assign(quantizer, grown, points), int(quantizer.codes_used(grown))
    assert (old, new) == (13, 21)
    np.testing.assert_array_equal(grown.codebook[0, :old], state.codebook[0, :old])
    changed = before != after
    assert changed.any() and not changed.all()
    assert (after[changed] >= old).all()
    # Each is the nearest by brute force.
    vectors = np.asarray(quantizer.code_vectors({}, grown), np.float64)[0, :new]
    distances = ((points[:, None].astype(np.float64) - vectors[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(after, distances.argmin(axis=1))


def test_two_alike_of_one_batch_do_not_both_become_codes() -> None:
    quantizer = make()
    one, other = np.full(DIM, 0.2, np.float32), np.full(DIM, 0.8, np.float32)
    near = one + 19.0 / 255.0  # within the distance of 20 levels
    state, codes = learner(quantizer)(start(quantizer), jnp.stack([one, other, one, near, other]), BADLY_SHOWN)
    assert float(quantizer.codes_used(state)) == 2
    np.testing.assert_array_equal(codes, np.zeros(5))  # as the codebook was: empty
    # A slot without a code is no black code.
    dark = np.full(DIM, 0.02, np.float32)
    np.testing.assert_array_equal(assign(quantizer, state, np.stack([one, other, near, dark])), [0, 1, 0, 0])


@pytest.mark.parametrize(
    ("levels_off", "error_levels", "grows"), [(19.0, 99.0, 0), (21.0, 99.0, 1), (99.0, 29.0, 0), (99.0, 31.0, 1)]
)
def test_distance_and_error_must_both_be_exceeded(levels_off: float, error_levels: float, grows: int) -> None:
    quantizer = make()
    step = learner(quantizer)
    state, _ = step(start(quantizer), jnp.full((3, DIM), 0.2), BADLY_SHOWN)
    grown, _ = step(state, jnp.full((3, DIM), 0.2 + levels_off / 255.0), (error_levels / 255.0) ** 2)
    assert float(quantizer.codes_used(grown)) == 1 + grows


def test_a_full_codebook_stays_and_says_so() -> None:
    quantizer = make(num_codes=5, limit=3)
    step = learner(quantizer)
    state, used = start(quantizer), []
    for seed in range(4):
        state, _ = step(state, jnp.asarray(blobs(13, 200, seed)[0]), BADLY_SHOWN)
        used.append(float(quantizer.codes_used(state)))
    assert used == [3, 5, 5, 5]
    again, codes = step(state, jnp.asarray(blobs(13, 200, 9)[0]), BADLY_SHOWN)
    np.testing.assert_array_equal(again.codebook, state.codebook)
    # Usage is still counted: a running mean of decay 0.9 of the 200 choices.
    counts = np.bincount(codes, minlength=5)
    np.testing.assert_allclose(again.usage[0], 0.9 * np.asarray(state.usage[0]) + 0.1 * counts, rtol=1e-5)


def tokenizer_with(**changes: Any) -> Any:
    section = {"layout": "patch", "quantizer": "growing", "num_groups": 1, "code_dim": 16, "num_codes": 32}
    growth = {"distance": 10.0, "error": 5.0, "limit": 8}
    return make_tokenizer(**(test_tokenizer.BASE | section | changes), growth=growth)


def test_the_tokenizer_learns_to_show_patches_and_its_slow_copy_has_a_new_code_at_once() -> None:
    tokenizer = tokenizer_with()
    frames = test_tokenizer.sprites(32)
    state, metrics = test_tokenizer.train(tokenizer, frames, 150)
    used = float(metrics["codes_used"])
    assert 5 < used <= 32
    assert float(metrics["reconstruction_error"]) < 25  # grey levels; black frames have 100 and more
    codebook = np.asarray(state.quantizer.codebook)
    np.testing.assert_array_equal(codebook, state.slow_quantizer.codebook)
    codes = np.asarray(tokenizer.tokenise(state, frames))
    assert codes.shape == (32, 9, 1) and codes.max() < used
    # Every patch is near its code, or there was no room left.
    patches = np.asarray(frames, int).reshape(32, 3, 4, 3, 4).transpose(0, 1, 3, 2, 4).reshape(32, 9, 16)
    off = np.sqrt(((patches - codebook[0][codes[..., 0]]) ** 2).mean(axis=-1))
    assert used == 32 or off.max() <= 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code_dim": 8}, r"^code_dim=8: .*Nearest: 16$"),
        ({"num_groups": 2}, r"^code_dim=16: .*num_groups 1"),
        ({"layout": "frame"}, r"^layout=frame: .*Nearest: patch$"),
    ],
)
def test_sizes_that_are_no_patches_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer_with(**change)
    with pytest.raises(ValueError, match="growth=None"):
        make_tokenizer(**(test_tokenizer.BASE | {"layout": "patch", "quantizer": "growing", "num_groups": 1}))
