"""The tokenizer on small frames: shapes, the slow copy, the running median, and one batch learned by heart."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnmax_jax.models import autoencoder, medians
from learnmax_jax.models.tokenizer import Tokenizer, TokenizerState, make_tokenizer, motion_weights

BASE = {
    "observation_shape": (12, 12, 1),
    "layout": "frame",
    "quantizer": "vq_ema",
    "distance": "cosine",
    "num_groups": 4,
    "num_codes": 16,
    "code_dim": 4,
    "patch_size": 4,
    "width": 16,
    "num_blocks": 1,
    "token_hidden": 8,
    "channel_hidden": 16,
    "motion_weight": 30.0,
    "motion_threshold": 20.0,
    "background": "none",
    "num_medians": 4,
    "new_median_share": 0.3,
    "median_step": 1.0,
    "commitment": 0.02,
    "codebook_decay": 0.9,
    "kmeans_iterations": 5,
    "revive_below": 0.05,
    "revive_limit": 2,
    "revive_warmup": 100,
    "slow_decay": 0.9,
}


def make(**changes: object) -> Tokenizer:
    """The tokenizer with every function compiled: op by op they are slow."""
    tokenizer = make_tokenizer(**(BASE | changes))
    names = ("init", "tokenise", "decode", "decode_mean", "code_vectors", "loss", "update")
    return dataclasses.replace(tokenizer, **{name: jax.jit(getattr(tokenizer, name)) for name in names})


def sprites(num_frames: int, seed: int = 0) -> jax.Array:
    """A still room of bright columns and one 3x3 sprite, `[B, 12, 12, 1]` uint8."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((num_frames, 12, 12, 1), np.uint8)
    frames[:, :, ::3] = 180
    for frame, (row, column) in zip(frames, rng.integers(0, 10, (num_frames, 2)), strict=True):
        frame[row : row + 3, column : column + 3] = 90
    return jnp.asarray(frames)


def train(tokenizer: Tokenizer, frames: jax.Array, num_updates: int, rate: float = 3e-3) -> tuple:
    """(state, metrics) after updates on one batch, by one compiled step whose state is donated."""
    optimizer = optax.adam(rate)
    traces = []

    def step(state: TokenizerState, optimizer_state: Any, seed: int) -> tuple:
        traces.append(seed)
        loss_key, update_key = jax.random.split(jax.random.key(seed))
        gradient, (aux, metrics) = jax.grad(tokenizer.loss, has_aux=True)(state.params, state, loss_key, frames)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, state.params)
        new_params = optax.apply_updates(state.params, updates)
        return tokenizer.update(state, new_params, aux, update_key), optimizer_state, metrics

    step = jax.jit(step, donate_argnums=(0, 1))
    state = tokenizer.init(jax.random.key(0), frames)
    optimizer_state = optimizer.init(state.params)
    for index in range(num_updates):
        state, optimizer_state, metrics = step(state, optimizer_state, index)
    assert len(traces) == 1
    return state, metrics


@pytest.fixture(scope="module")
def trained() -> tuple[Tokenizer, TokenizerState, jax.Array]:
    """The base tokenizer after 30 updates on eight frames, and those frames."""
    tokenizer, frames = make(), sprites(8)
    return tokenizer, train(tokenizer, frames, 30)[0], frames


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 1),
        ({"quantizer": "vq_grad", "distance": "l2"}, 1),
        ({"quantizer": "fsq"}, 1),
        ({"quantizer": "random"}, 1),
        ({"layout": "grid", "num_groups": 18}, 1),
        ({"layout": "patch", "num_groups": 1}, 9),
        ({"layout": "patch", "num_groups": 1, "quantizer": "random"}, 9),
        ({"layout": "anchor", "num_groups": 1}, 10),
        ({"quantizer": "identity", "num_groups": 144, "num_codes": 5, "code_dim": 5}, 1),
    ],
)
def test_shapes_and_types_of_every_layout_and_quantizer(changes: dict, tokens: int) -> None:
    tokenizer = make(**changes)
    frames = sprites(6) % tokenizer.num_codes if changes.get("quantizer") == "identity" else sprites(6)
    state = tokenizer.init(jax.random.key(0), frames)
    for index in range(2):
        _, (aux, metrics) = tokenizer.loss(state.params, state, jax.random.key(index), frames)
        state = tokenizer.update(state, state.params, aux, jax.random.key(index))
    codes = tokenizer.tokenise(state, frames)
    assert tokenizer.num_tokens == tokens
    chex.assert_shape(codes, (6, tokens, tokenizer.num_groups))
    assert codes.dtype == jnp.int32
    assert int(codes.min()) >= 0 and int(codes.max()) < tokenizer.num_codes
    pictures = tokenizer.decode(state, codes)
    chex.assert_shape(pictures, frames.shape)
    assert float(pictures.min()) >= 0.0 and float(pictures.max()) <= 255.0
    certain = jax.nn.one_hot(codes, tokenizer.num_codes)
    np.testing.assert_allclose(tokenizer.decode_mean(state, certain), pictures, atol=1e-2)
    chex.assert_shape(tokenizer.code_vectors(state), (tokenizer.num_groups, tokenizer.num_codes, tokenizer.code_dim))
    chex.assert_tree_all_finite((state, metrics))
    chex.assert_rank(list(metrics.values()), 0)
    assert int(state.num_updates) == 2
    chex.assert_trees_all_equal_structs(state, tokenizer.init(jax.random.key(1), frames))


def test_a_code_of_the_grid_changes_with_its_own_patch_only() -> None:
    tokenizer = make(layout="grid", num_groups=18)
    frames = sprites(8)
    state, _ = train(tokenizer, frames, 30)
    changed = frames.at[:, 4:8, 8:12].set(255 - frames[:, 4:8, 8:12])  # row 1, column 2 of the 3x3 patches
    different = np.asarray(tokenizer.tokenise(state, frames) != tokenizer.tokenise(state, changed))[:, 0]
    assert different[:, 10:12].any() and not np.delete(different, [10, 11], axis=1).any()


def test_a_code_of_the_grid_means_the_same_everywhere() -> None:
    tokenizer = make(layout="grid", num_groups=18)
    state, _ = train(tokenizer, sprites(8), 30)
    # Parameters of any size: what a place adds is small at first.
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(size=x.shape), x.dtype), state.slow_params)
    state = state.replace(slow_params=noisy)
    patch = rng.integers(0, 256, (4, 4, 1)).astype(np.uint8)
    codes = np.asarray(tokenizer.tokenise(state, jnp.asarray(np.tile(patch, (3, 3, 1)))[None]))[0, 0]
    np.testing.assert_array_equal(codes.reshape(9, 2), np.tile(codes[:2], (9, 1)))
    vectors = np.asarray(tokenizer.code_vectors(state))
    np.testing.assert_array_equal(vectors[::2], np.tile(vectors[:1], (9, 1, 1)))
    assert not np.array_equal(vectors[0], vectors[1])
    assert tokenizer.patches == (3, 3)
    assert "position" not in state.params["encoder"]["params"]  # 16 codes may hide what a place adds


def test_groups_of_the_grid_are_shared_out_evenly() -> None:
    with pytest.raises(ValueError, match=r"num_groups=20: .*multiples of 9\. Nearest: 18"):
        make_tokenizer(**(BASE | {"layout": "grid", "num_groups": 20}))


def test_identity_is_exact() -> None:
    tokenizer = make(quantizer="identity", num_groups=144, num_codes=7, code_dim=7)
    frames = sprites(5) % 7
    state = tokenizer.init(jax.random.key(0), frames)
    codes = tokenizer.tokenise(state, frames)
    np.testing.assert_array_equal(codes, frames.reshape(5, 1, 144))
    np.testing.assert_allclose(tokenizer.decode(state, codes), frames, atol=1e-4)


def test_patches_in_reading_order_and_back() -> None:
    frames = jnp.arange(2 * 4 * 6 * 2.0).reshape(2, 4, 6, 2)
    patches = autoencoder.to_patches(frames, 2)
    chex.assert_shape(patches, (6, 2, 8))
    np.testing.assert_array_equal(patches[4, 1], frames[1, 2:4, 2:4].reshape(-1))  # second row, second column
    np.testing.assert_array_equal(autoencoder.from_patches(patches, (4, 6, 2), 2), frames)


def test_motion_weights_by_hand() -> None:
    off = jnp.array([[False, True], [False, False]]).reshape(2, 1, 2, 1)
    # First frame: one pixel off the median weighs 1 + 3, the other 1; over their mean 2.5.
    got = motion_weights(off, motion_weight=3.0)
    np.testing.assert_allclose(got.reshape(2, 2), [[0.4, 1.6], [1.0, 1.0]], rtol=1e-6)


def test_loss_is_the_weighted_error_of_the_online_copy(trained: tuple[Tokenizer, TokenizerState, jax.Array]) -> None:
    tokenizer, state, frames = trained
    loss, (_, metrics) = tokenizer.loss(state.params, state, jax.random.key(0), frames)
    online = state.replace(slow_params=state.params, slow_quantizer=state.quantizer)
    pictures = tokenizer.decode(online, tokenizer.tokenise(online, frames))
    room, _ = medians.assign(state.medians, frames, threshold=20.0)
    off = jnp.abs(frames.astype(jnp.float32) - state.medians.frames[room]) > 20.0
    weights = motion_weights(off, motion_weight=30.0)
    want = float(jnp.mean(weights * (pictures - frames) ** 2)) / 255**2
    # decode clips to 0..255, the loss does not: it may be a little more.
    assert want - 1e-7 <= float(metrics["reconstruction"]) < 1.1 * want
    np.testing.assert_allclose(loss, metrics["reconstruction"] + metrics["commitment"], rtol=1e-6)


def test_rows_of_a_batch_do_not_know_each_other(trained: tuple[Tokenizer, TokenizerState, jax.Array]) -> None:
    tokenizer, state, frames = trained
    codes = tokenizer.tokenise(state, frames)
    np.testing.assert_array_equal(tokenizer.tokenise(state, frames[::-1]), codes[::-1])
    other = jnp.full_like(frames, 7).at[0].set(frames[0])
    np.testing.assert_array_equal(tokenizer.tokenise(state, other)[0], codes[0])


def test_readers_see_the_slow_copy_only(trained: tuple[Tokenizer, TokenizerState, jax.Array]) -> None:
    tokenizer, state, frames = trained
    noise = lambda tree: jax.tree.map(lambda x: x + 1 if x.dtype == jnp.float32 else x, tree)  # noqa: E731
    online = state.replace(params=noise(state.params), quantizer=noise(state.quantizer))
    slow = state.replace(slow_params=noise(state.slow_params), slow_quantizer=noise(state.slow_quantizer))
    read = lambda s: (tokenizer.tokenise(s, frames), tokenizer.code_vectors(s), tokenizer.decode(s, codes))  # noqa: E731
    codes = tokenizer.tokenise(state, frames)
    chex.assert_trees_all_equal(read(online), read(state))
    assert not np.array_equal(tokenizer.decode(slow, codes), tokenizer.decode(state, codes))
    assert not np.array_equal(tokenizer.code_vectors(slow), tokenizer.code_vectors(state))
    # The loss sees the online copy; the slow one only in the drift.
    loss = lambda s: tokenizer.loss(s.params, s, jax.random.key(0), frames)[0]  # noqa: E731
    assert float(loss(slow)) == float(loss(state))
    assert float(loss(online)) != float(loss(state))


def test_decode_stays_within_grey_levels(trained: tuple[Tokenizer, TokenizerState, jax.Array]) -> None:
    tokenizer, state, frames = trained
    loud = jax.tree.map(lambda x: 10.0 * x, state.slow_params["decoder"])
    pictures = tokenizer.decode(
        state.replace(slow_params={**state.slow_params, "decoder": loud}), tokenizer.tokenise(state, frames)
    )
    assert float(pictures.min()) == 0.0 and float(pictures.max()) == 255.0


@pytest.mark.parametrize("quantizer", ["vq_ema", "vq_grad", "fsq", "random"])
def test_no_buffer_stands_twice_in_a_new_state(quantizer: str) -> None:
    # Uncompiled, as a caller may use it: a state that shares a buffer cannot be donated.
    state = make_tokenizer(**(BASE | {"quantizer": quantizer, "num_blocks": 0})).init(jax.random.key(0), sprites(1))
    leaves = jax.tree.leaves(state)
    assert len({id(leaf) for leaf in leaves}) == len(leaves)


def test_n03_codes_are_those_before_the_update(trained: tuple[Tokenizer, TokenizerState, jax.Array]) -> None:
    tokenizer, state, frames = trained
    _, (aux, _) = tokenizer.loss(state.params, state, jax.random.key(0), frames)
    online = state.replace(slow_params=state.params, slow_quantizer=state.quantizer)
    np.testing.assert_array_equal(aux["seen"].codes, tokenizer.tokenise(online, frames))
    new = tokenizer.update(state, state.params, aux, jax.random.key(1))
    assert not np.array_equal(new.quantizer.codebook, state.quantizer.codebook)
    # Usage moved by this batch's codes alone, save for revived ones.
    counts = np.stack([np.bincount(group, minlength=16) for group in np.asarray(aux["seen"].codes)[:, 0].T])
    decay = (1 + 30) / (10 + 30)  # after 30 updates not yet the full 0.9
    usage = decay * np.asarray(state.quantizer.usage) + (1 - decay) * counts
    alive = usage > 0.05 * 8 / 16
    np.testing.assert_allclose(np.asarray(new.quantizer.usage)[alive], usage[alive], rtol=1e-5)


def test_n02_no_gradient_reaches_the_running_codebook(trained: tuple[Tokenizer, TokenizerState, jax.Array]) -> None:
    tokenizer, state, frames = trained

    def cost(codebook: jax.Array) -> jax.Array:
        changed = state.replace(quantizer=state.quantizer.replace(codebook=codebook))
        return tokenizer.loss(state.params, changed, jax.random.key(0), frames)[0]

    gradient = jax.grad(cost)(state.quantizer.codebook)
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
    to_params = jax.grad(tokenizer.loss, has_aux=True)(state.params, state, jax.random.key(0), frames)[0]
    for part in ("encoder", "decoder"):
        norms = jax.tree.leaves(jax.tree.map(lambda x: float(jnp.abs(x).max()), to_params[part]))
        assert min(norms) > 0.0, part


def test_slow_copy_starts_equal_and_follows() -> None:
    tokenizer = make(slow_decay=0.5)
    frames = sprites(8)
    state = tokenizer.init(jax.random.key(0), frames)
    _, (aux, _) = tokenizer.loss(state.params, state, jax.random.key(0), frames)
    first = tokenizer.update(state, jax.tree.map(lambda x: x + 1.0, state.params), aux, jax.random.key(1))
    chex.assert_trees_all_equal(first.slow_params, first.params)
    chex.assert_trees_all_equal(first.slow_quantizer, first.quantizer)
    # Second update: keep = min(0.5, 1 / (10 + 1)); hundredth: 0.5.
    for num_updates, keep in ((1, 1 / 11), (100, 0.5)):
        before = first.replace(num_updates=jnp.int32(num_updates))
        new = tokenizer.update(before, jax.tree.map(lambda x: x + 1.0, before.params), aux, jax.random.key(2))
        want = jax.tree.map(lambda slow, x, keep=keep: keep * slow + (1 - keep) * x, before.slow_params, new.params)
        chex.assert_trees_all_close(new.slow_params, want, rtol=1e-5, atol=1e-6)


def test_code_drift_is_the_share_of_codes_that_differ(trained: tuple[Tokenizer, TokenizerState, jax.Array]) -> None:
    tokenizer, state, frames = trained
    drift = lambda s: float(tokenizer.loss(s.params, s, jax.random.key(0), frames)[1][1]["code_drift"])  # noqa: E731
    same = state.replace(slow_params=state.params, slow_quantizer=state.quantizer)
    assert drift(same) == 0.0
    rolled = same.quantizer.replace(codebook=same.quantizer.codebook.at[:2].set(same.quantizer.codebook[:2, ::-1]))
    assert drift(same.replace(slow_quantizer=rolled)) == 0.5  # every code of two groups of four


def test_median_frame_forgets_what_moves() -> None:
    tokenizer = make()
    rng = np.random.default_rng(0)
    state = tokenizer.init(jax.random.key(0), sprites(1))
    votes = jax.jit(lambda s, x: tokenizer.loss(s.params, s, jax.random.key(0), x)[1][0])
    update = jax.jit(lambda s, aux: tokenizer.update(s, s.params, aux, jax.random.key(1)))
    for _ in range(120):
        state = update(state, votes(state, sprites(16, seed=int(rng.integers(1 << 30)))))
    room = np.zeros((12, 12, 1))
    room[:, ::3] = 180
    assert (np.asarray(state.medians.num_updates) > 0).sum() == 1
    # A mean would be off by up to a tenth of 90.
    assert np.abs(np.asarray(state.medians.frames[0]) - room).max() < 3.0


def test_n16_overfits_one_batch() -> None:
    tokenizer = make(width=32)
    frames = sprites(8)
    state, metrics = train(tokenizer, frames, 300)
    pictures = tokenizer.decode(state, tokenizer.tokenise(state, frames))
    slow_error = float(jnp.sqrt(jnp.mean((pictures - frames) ** 2)))  # the slow copy, through codes alone
    assert float(metrics["reconstruction_error"]) < 12.0  # from 100 and more
    assert float(metrics["foreground_error"]) < 4.0
    assert slow_error < 12.0


def rooms(num_frames: int) -> jax.Array:
    """Two still rooms, bright columns and bright rows, each with a sprite somewhere."""
    frames = np.asarray(sprites(num_frames)).copy()
    frames[::2] = np.swapaxes(frames[::2], 1, 2)
    return jnp.asarray(frames)


@pytest.mark.parametrize(("layout", "groups"), [("frame", 4), ("grid", 9)])
def test_the_background_is_named_by_a_code_and_comes_back_with_it(layout: str, groups: int) -> None:
    frames = rooms(64)
    tokenizer = make(layout=layout, num_groups=groups, background="median", num_medians=3)
    state, _ = train(tokenizer, frames, 40)
    assert tokenizer.num_groups == groups + 1
    assert tokenizer.code_vectors(state).shape == (groups + 1, 16, 4)
    codes = np.asarray(tokenizer.tokenise(state, frames))
    assert codes.shape == (64, 1, groups + 1)
    assert len(set(codes[::2, 0, -1])) == len(set(codes[1::2, 0, -1])) == 1  # one code a room
    assert codes[0, 0, -1] != codes[1, 0, -1]
    # The same codes in the other room: what moves is drawn over the other background.
    swapped = codes.copy()
    swapped[0, 0, -1], swapped[1, 0, -1] = codes[1, 0, -1], codes[0, 0, -1]
    before, after = (np.asarray(tokenizer.decode(state, jnp.asarray(x)))[0] for x in (codes, swapped))
    one, other = (np.asarray(state.medians.frames)[codes[frame, 0, -1]] for frame in (0, 1))
    inside = (np.minimum(before, after) > 1) & (np.maximum(before, after) < 254)  # not cut off at black or white
    assert inside.mean() > 0.2
    np.testing.assert_allclose((after - before)[inside], (other - one)[inside], atol=0.01)
    # The mean of what may be there is of the likelier room.
    chances = 0.7 * jax.nn.one_hot(codes[:2], 16) + 0.3 * jax.nn.one_hot(codes[1::-1], 16)
    vectors = jnp.einsum("bgv,gvd->bgd", chances[:, 0, :-1], tokenizer.code_vectors(state)[:-1])
    network = autoencoder.Decoder(layout, (12, 12, 1), 4, width=16, num_blocks=1, token_hidden=8, channel_hidden=16)
    drawn = network.apply(state.slow_params["decoder"], vectors.reshape(2, 9 if layout == "grid" else 1, -1))
    expected = jnp.clip(255.0 * drawn + jnp.stack([one, other]), 0.0, 255.0)
    np.testing.assert_allclose(tokenizer.decode_mean(state, chances), expected, atol=1e-2)
    # A decoder that has learned nothing adds nothing.
    untaught = tokenizer.init(jax.random.key(0), frames).replace(medians=state.medians)
    np.testing.assert_allclose(tokenizer.decode(untaught, jnp.asarray(codes))[:2], np.stack([one, other]), atol=0.01)


def test_patches_may_reach_over_the_edge() -> None:
    tokenizer = make(layout="patch", num_groups=1, patch_size=5)
    frames = sprites(6)
    assert (tokenizer.num_tokens, tokenizer.grid) == (9, (3, 3))
    patches = autoencoder.to_patches(frames.astype(jnp.float32), 5)
    assert patches.shape == (9, 6, 25)
    np.testing.assert_array_equal(autoencoder.from_patches(patches, (12, 12, 1), 5), frames)
    np.testing.assert_array_equal(patches[2].reshape(6, 5, 5)[:, :, 2:], 0.0)
    state, _ = train(tokenizer, frames, 5)
    assert tokenizer.decode(state, tokenizer.tokenise(state, frames)).shape == (6, 12, 12, 1)


def test_motion_weight_keeps_the_sprite() -> None:
    frames = sprites(48)
    without, weighted = (train(make(motion_weight=weight), frames, 60)[1] for weight in (0.0, 30.0))
    assert float(weighted["foreground_error"]) < 0.8 * float(without["foreground_error"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "patches"}, "layout=patches: .*Allowed: frame, grid, patch, anchor. Nearest: patch"),
        ({"quantizer": "vq_emma"}, "quantizer=vq_emma: .*Nearest: vq_ema"),
        ({"distance": "cos"}, "distance=cos: .*Nearest: cosine"),
        ({"background": "medians"}, "background=medians: .*Nearest: median"),
        ({"background": "median", "layout": "patch"}, "background=median: .*Nearest: none"),
        ({"background": "median", "num_medians": 17}, r"num_medians=17: .*Allowed: \[1, 16\]. Nearest: 16"),
        ({"num_groups": 0}, "num_groups=0: .*Allowed: >= 1"),
        ({"revive_limit": -1}, "revive_limit=-1: .*Allowed: >= 0"),
        ({"num_blocks": -1}, "num_blocks=-1: .*Allowed: >= 0"),
        ({"codebook_decay": 1.5}, "codebook_decay=1.5: .*Allowed: >= 0 and <= 1. Nearest: 1"),
        ({"slow_decay": float("nan")}, "slow_decay=nan"),
        ({"quantizer": "identity", "num_codes": 5, "code_dim": 5}, "num_groups=4: .*Nearest: 144"),
        ({"quantizer": "random", "layout": "anchor"}, "layout=anchor: .*Nearest: patch"),
        ({"quantizer": "fsq", "num_codes": 60, "code_dim": 2}, "num_codes=60: .*Nearest: 64"),
    ],
)
def test_wrong_arguments_are_named_with_what_is_allowed(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_wrong_frames_fail_while_tracing() -> None:
    tokenizer = make()
    state = tokenizer.init(jax.random.key(0), sprites(1))
    with pytest.raises(AssertionError):
        tokenizer.tokenise(state, jnp.zeros((1, 12, 12, 3), jnp.uint8))
    with pytest.raises(AssertionError):
        tokenizer.tokenise(state, jnp.zeros((1, 12, 12, 1), jnp.float32))
