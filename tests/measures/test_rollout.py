"""The roll-out's three ways to tell the next frame, against one pass for each frame."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.measures import rollout
from learnmax_jax.models.world_model import ModelParams
from tests.exploration.batches import batch_of
from tests.learning import small

BATCH, CONTEXT, STEPS, GROUPS, CODES, ACTIONS = 3, 2, 4, 2, 5, 3
TOKENIZER = small.identity_tokenizer(num_groups=GROUPS, num_codes=CODES)
MODEL = small.small_world_model(TOKENIZER, num_actions=ACTIONS)


def random_model(frames: jax.Array) -> ModelParams:
    """Zero at the start, the last layers would say the same of everything."""
    params: ModelParams = MODEL.init(jax.random.key(1), frames, TOKENIZER.init(jax.random.key(0), frames))
    noise = jax.random.split(jax.random.key(2), len(jax.tree.leaves(params.network)))
    leaves = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(jax.tree.leaves(params.network), noise)]
    return params.replace(network=jax.tree.unflatten(jax.tree.structure(params.network), leaves))


def test_s4_61_the_ratio_of_a_wrong_action_by_hand() -> None:
    # One step a window. The frame of the first changes, of the second not; the third is no transition; the fourth is
    # asked about the action that it took.
    observation = np.array([[[0, 1], [2, 1]], [[3, 3], [3, 3]], [[0, 0], [1, 1]], [[1, 2], [2, 2]]], np.uint8)
    observation = observation[:, :, None, None]
    action = jnp.asarray([[0, 0], [1, 0], [2, 0], [2, 0]], jnp.int32)
    batch = batch_of(observation, np.zeros(4), action=action, first=jnp.asarray([[True, False]] * 4))
    batch = batch.replace(rows=batch.rows.replace(valid=jnp.asarray([[True], [True], [False], [True]]) & batch.mask))
    params = random_model(jnp.asarray(observation[:, 0]))
    found = jax.jit(partial(rollout.wrong_action_ratio, world_model=MODEL))(params, batch)

    codes = jnp.asarray(observation[:1, :, 0], jnp.int32)
    unknown = jnp.full((1, 1), ACTIONS)
    _, latents = MODEL.context(params, codes[:, :1], unknown, jnp.ones((1, 1), bool), capacity=1)
    node = MODEL.root(latents[:, 0], codes[:, 0], max_depth=0)
    true, wrong = (
        rollout.nats(MODEL.outcome(params, node, jnp.asarray([asked]), None).code_logits, codes[:, 1])[0]
        for asked in (0, 2)
    )
    assert abs(float(wrong / true) - 1.0) > 0.05
    np.testing.assert_allclose(found, wrong / true, rtol=1e-5)


def test_s4_8_forced_rolling_and_open_loop_nats_against_a_pass_for_each_frame() -> None:
    rng = np.random.default_rng(0)
    length = CONTEXT + STEPS
    observation = rng.integers(0, CODES, (BATCH, length + 1, 1, 1, GROUPS)).astype(np.uint8)
    action = jnp.asarray(rng.integers(0, ACTIONS, (BATCH, length + 1)), jnp.int32)
    first = jnp.zeros((BATCH, length + 1), bool).at[:, 0].set(True)
    batch = batch_of(observation, np.zeros(BATCH), action=action, first=first)
    frames = jnp.asarray(observation[:, 0])
    params = random_model(frames)
    ahead: dict[str, Any] = {"world_model": MODEL, "context_frames": CONTEXT, "unroll_steps": STEPS}
    rolled = jax.jit(partial(rollout.roll_out, **ahead))(params, batch)
    other = (action[:, CONTEXT - 1 : CONTEXT - 1 + STEPS] + 1) % ACTIONS
    with_others = jax.jit(partial(rollout.forced_nats, **ahead))(params, batch, other)
    assert np.abs(with_others - rolled.forced_nats).min() > 1e-4

    codes = jnp.asarray(observation[:, :, 0], jnp.int32)
    led_here = jnp.concatenate([jnp.full((BATCH, 1), ACTIONS), action[:, :-1]], axis=1)
    for k in range(STEPS):
        seen = CONTEXT + k
        _, latents = MODEL.context(params, codes[:, :seen], led_here[:, :seen], first[:, :seen], capacity=seen)
        node = MODEL.root(latents[:, -1], codes[:, seen - 1], max_depth=0)
        outcome = MODEL.outcome(params, node, action[:, seen - 1], None)
        expected = rollout.nats(outcome.code_logits, codes[:, seen])
        np.testing.assert_allclose(rolled.forced_nats[:, k], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(rolled.rolling_nats[:, k], expected, rtol=1e-5, atol=1e-5)
        told = rollout.nats(MODEL.outcome(params, node, other[:, k], None).code_logits, codes[:, seen])
        np.testing.assert_allclose(with_others[:, k], told, rtol=1e-5, atol=1e-5)
        if k == 0:
            # Codes are the frame's integers, so that the mean frame is their mean.
            mean = jax.nn.softmax(outcome.code_logits) @ jnp.arange(CODES, dtype=jnp.float32)
            np.testing.assert_allclose(rolled.mean_frames[:, 0, 0, 0], mean[:, 0], rtol=1e-4)
            np.testing.assert_allclose(rolled.nats[:, 0], expected, rtol=1e-5, atol=1e-5)
        else:
            assert np.abs(rolled.nats[:, k] - expected).min() > 1e-4
