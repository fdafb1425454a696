"""Detection by hand, and on sprites whose object is gone: noticed, given codes of its own, the rest undisturbed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.measures import novelty_detection
from learnmax_jax.models.tokenizer import Tokenizer, TokenizerState, make_tokenizer
from learnmax_jax.worlds import sprites
from tests.models import test_tokenizer


def test_detection_by_hand() -> None:
    known = np.arange(200.0)  # 2 of 200 may lie above: the threshold is the third highest, 197
    new = np.array([196.0, 197.0, 198.0, 500.0])
    found = novelty_detection.detect(known, new, false_alarm_rate=0.01)
    assert found == novelty_detection.Detection(recall=0.5, false_alarms=0.01, threshold=197.0)
    with pytest.raises(ValueError, match=r"^false_alarm_rate=0.01: 99 known frames .*at least 100"):
        novelty_detection.detect(known[:99], new, false_alarm_rate=0.01)


def test_scores_by_hand() -> None:
    # One episode, 4 frames, 2 places: the first strange for one frame, the second from frame 1 on.
    distances = np.array([[[1, 0], [9, 5], [1, 6], [2, 5]]], np.float32)
    np.testing.assert_array_equal(novelty_detection.scores(distances, num_frames=1), [[1, 9, 6, 5]])
    np.testing.assert_array_equal(novelty_detection.scores(distances, num_frames=2), [[1, 5, 5]])
    with pytest.raises(ValueError, match=r"^num_frames=5: .*Nearest: 4$"):
        novelty_detection.scores(distances, num_frames=5)
    # Two places, three codes; the second place shows what only the first has had.
    pictures = np.array([[0, 0, 0, 0], [10, 10, 10, 30], [200, 200, 200, 200]], np.float32)
    seen = novelty_detection.seen_codes(np.array([[0, 1], [2, 1]]), 3)
    np.testing.assert_array_equal(seen, [[True, False, True], [False, True, False]])
    patches = np.array([[[3, 3, 3, 3], [10, 10, 10, 10]], [[200, 200, 200, 198], [0, 0, 0, 0]]], np.uint8)
    away = novelty_detection.distances(patches, pictures, seen)
    np.testing.assert_allclose(away, [[3, 10], [1, 300**0.5]], rtol=1e-3)


def test_growth_by_hand() -> None:
    before = np.array([[0, 1], [2, 1]])[..., None]
    after = np.array([[0, 1], [3, 1]])[..., None]
    new = np.array([[0, 3], [0, 1], [4, 3]])[..., None]
    growth = novelty_detection.compare_growth(before, after, new, num_codes_before=3)
    assert growth == novelty_detection.Growth(changed_share=0.25, own_code_share=2 / 3)


# Most of the object lies in one patch: 9 x 9 of its 12 x 12 pixels.
WORLD = {"seed": 0, "size": 60, "num_rooms": 1, "player_size": 6, "skull_size": 7, "object_size": 12, "speed": 3}
NUM_ENVS, PATCH = 16, 12


def play(num_steps: int, seed: int, *, taken: bool, everywhere: bool = False) -> np.ndarray:
    """Frames `[B, T, H, W, 1]` of random play, the object always there or gone; `everywhere` moves the player."""
    environments = sprites.make(num_envs=NUM_ENVS, max_length=10_000, **WORLD)
    state, _ = environments.reset(jax.random.key(seed))
    actions = jax.random.randint(jax.random.key(seed + 1), (num_steps, NUM_ENVS), 0, environments.num_actions)

    def step(state: sprites.SpritesState, action: jax.Array) -> tuple[sprites.SpritesState, jax.Array]:
        if everywhere:
            x, y = jax.random.randint(state.rng_key, (2, NUM_ENVS), 0, 60 - 6)
            state = state.replace(x=x, y=y)
        state, answer = environments.step(state.replace(object_taken=jnp.full((NUM_ENVS,), taken)), action)
        return state, (answer.observation, state.object_taken)

    _, (frames, gone) = jax.jit(lambda state: jax.lax.scan(step, state, actions))(state)
    frames, right = np.swapaxes(np.asarray(frames), 0, 1), np.asarray(gone).T == taken
    # The player takes the object where it touches it: such a frame is of the other kind.
    return frames[right][None] if everywhere else frames[right.all(axis=1)]


def look(tokenizer: Tokenizer, state: TokenizerState, frames: np.ndarray) -> np.ndarray:
    """Codes `[B, T, N]` of episodes."""
    tokenise = jax.jit(tokenizer.tokenise)
    return np.stack([np.asarray(tokenise(state, jnp.asarray(episode)))[..., 0] for episode in frames])


@pytest.mark.slow
def test_s4_41_a_thing_that_is_gone_is_noticed_and_disturbs_nothing() -> None:
    section = {"observation_shape": (60, 60, 1), "layout": "patch", "quantizer": "growing", "num_groups": 1}
    sizes = {"num_codes": 4096, "code_dim": PATCH**2, "patch_size": PATCH, "num_blocks": 0}
    growth = {"distance": 30.0, "error": 0.0, "limit": 64}
    tokenizer = make_tokenizer(**(test_tokenizer.BASE | section | sizes), growth=growth)

    @jax.jit
    def learn(state: TokenizerState, frames: jax.Array) -> TokenizerState:
        _, (aux, _) = tokenizer.loss(state.params, state, jax.random.key(0), frames)
        return tokenizer.update(state, state.params, aux, jax.random.key(1))

    def learn_all(state: TokenizerState, frames: np.ndarray, num_updates: int) -> TokenizerState:
        flat = frames.reshape(-1, *frames.shape[2:])
        for batch in np.random.default_rng(0).integers(0, len(flat), (num_updates, 64)):
            state = learn(state, jnp.asarray(flat[batch]))
        return state

    training = play(200, 10, taken=False, everywhere=True)
    state = learn_all(jax.jit(tokenizer.init)(jax.random.key(0), jnp.asarray(training[0, :1])), training, 50)
    num_codes = int(np.sum(np.asarray(state.quantizer.codebook)[0, :, 0] >= 0))
    assert 100 < num_codes < 4096
    known, gone = play(60, 20, taken=False), play(60, 30, taken=True)
    pictures = 255.0 * np.asarray(tokenizer.code_vectors(state))[0]
    seen = novelty_detection.seen_codes(look(tokenizer, state, training)[0], 4096)

    def strangeness(frames: np.ndarray) -> np.ndarray:
        patches = novelty_detection.cut_patches(frames.reshape(-1, 60, 60, 1), PATCH)
        away = novelty_detection.distances(patches, pictures, seen)
        return novelty_detection.scores(away.reshape(*frames.shape[:2], -1), num_frames=4).ravel()

    found = novelty_detection.detect(strangeness(known), strangeness(gone), false_alarm_rate=0.01)
    assert found.recall >= 0.9, found
    grown = learn_all(state, play(20, 40, taken=True), 5)
    codes = (look(tokenizer, state, known), look(tokenizer, grown, known), look(tokenizer, grown, gone))
    flat = [each.reshape(-1, each.shape[-1], 1) for each in codes]
    changes = novelty_detection.compare_growth(*flat, num_codes_before=num_codes)
    assert changes.changed_share <= 0.01 and changes.own_code_share >= 0.9, changes
