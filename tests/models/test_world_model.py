"""The bundle: one `step` for search and training, what it feeds back, and what it refuses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.models.world_model import make_world_model
from tests.models import tiny

BATCH, TIME, STEPS, GROUPS, CODES = 2, 3, 3, 2, 5


class Rollout:
    """A tiny bundle at the end of a random window, its functions compiled once."""

    def __init__(self, num_tokens: int, feedback: str, num_outcomes: int, code_head: str) -> None:
        self.bundle, self.params = tiny.make(
            num_tokens=num_tokens,
            num_codes=CODES,
            feedback=feedback,
            num_outcomes=num_outcomes,
            code_head=code_head,
        )
        rng = np.random.default_rng(0)
        self.codes = jnp.asarray(rng.integers(CODES, size=(BATCH, TIME, num_tokens, GROUPS)))
        action = jnp.asarray(rng.integers(4, size=(BATCH, TIME)))
        self.actions = jnp.asarray(rng.integers(4, size=(BATCH, STEPS)))
        self.chance = None
        if num_outcomes:
            self.chance = jax.nn.one_hot(rng.integers(num_outcomes, size=(BATCH, STEPS)), num_outcomes)
        first = jnp.zeros((BATCH, TIME), bool)
        self.context, self.latents = jax.jit(partial(self.bundle.context, capacity=TIME))(
            self.params, self.codes, action, first
        )
        self.node = self.bundle.root(self.latents[:, -1], self.codes[:, -1], max_depth=STEPS)
        self.step = jax.jit(self.bundle.step)
        self.unroll = jax.jit(self.bundle.unroll)


@pytest.fixture(
    scope="module",
    params=[(1, "expected", 0, "whole"), (4, "argmax", 3, "whole"), (1, "expected", 0, "patches")],
    ids=["N1", "N4-argmax-chance", "N1-patches"],
)
def rollout(request: pytest.FixtureRequest) -> Rollout:
    return Rollout(*request.param)


def test_unroll_is_the_same_step_again_and_again(rollout: Rollout) -> None:
    node, latents, outcomes = rollout.unroll(
        rollout.params, rollout.context, rollout.node, rollout.actions, rollout.chance
    )
    stepped = rollout.node
    for k in range(STEPS):
        chance = None if rollout.chance is None else rollout.chance[:, k]
        stepped, outcome = rollout.step(rollout.params, rollout.context, stepped, rollout.actions[:, k], chance)
        np.testing.assert_allclose(latents[:, k], stepped.latent, atol=1e-6)
        for ours, theirs in zip(jax.tree.leaves(outcomes), jax.tree.leaves(outcome), strict=True):
            np.testing.assert_allclose(ours[:, k], theirs, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(node), jax.tree.leaves(stepped), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_outcome_of_a_real_frame_is_the_first_steps(rollout: Rollout) -> None:
    """Teacher-forced losses and the tree's first edge read the same numbers."""
    chance = None if rollout.chance is None else rollout.chance[:, 0]
    _, first = rollout.step(rollout.params, rollout.context, rollout.node, rollout.actions[:, 0], chance)
    without_path = rollout.bundle.root(rollout.latents[:, -1], rollout.codes[:, -1], max_depth=0)
    forced = jax.jit(rollout.bundle.outcome)(rollout.params, without_path, rollout.actions[:, 0], chance)
    for ours, theirs in zip(jax.tree.leaves(forced), jax.tree.leaves(first), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_what_a_predicted_frame_feeds_back(rollout: Rollout, request: pytest.FixtureRequest) -> None:
    chance = None if rollout.chance is None else rollout.chance[:, 0]
    child, outcome = rollout.step(rollout.params, rollout.context, rollout.node, rollout.actions[:, 0], chance)
    expected = jax.nn.softmax(outcome.code_logits)
    if "argmax" in request.node.name:
        hard = jax.nn.one_hot(outcome.code_logits.argmax(axis=-1), CODES)
        assert np.abs(hard - expected).max() > 0.1
        np.testing.assert_array_equal(child.codes, hard)
    else:
        np.testing.assert_allclose(child.codes, expected, atol=1e-6)


def test_argmax_passes_the_soft_gradient_straight_through() -> None:
    """d codes / d weights is softmax's in both kinds, though `argmax` shows one-hot codes."""
    gradients = []
    for feedback in ("expected", "argmax"):
        rollout = Rollout(1, feedback, 0, "whole")
        weights = jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, 1, GROUPS, CODES)), jnp.float32)

        def loss(network: dict, rollout: Rollout = rollout, weights: jax.Array = weights) -> jax.Array:
            params = rollout.params.replace(network=network)
            child, _ = rollout.bundle.step(params, rollout.context, rollout.node, rollout.actions[:, 0], None)
            return jnp.sum(child.codes * weights)

        gradients.append(jax.jit(jax.grad(loss))(rollout.params.network)["transition"])
    for soft, straight in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(soft, straight, atol=1e-6)
    assert np.abs(gradients[0]["codes"]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("rollout", [(4, "argmax", 3, "whole")], indirect=True, ids=["N4-argmax-chance"])
def test_open_loop_gradients_reach_the_first_step_through_the_path(rollout: Rollout) -> None:
    """The last step's loss teaches the first one's inputs: nothing on the imagined path stops the gradient."""

    def loss(latent: jax.Array, codes: jax.Array) -> jax.Array:
        node = rollout.node.replace(latent=latent, codes=codes)
        _, latents, _ = rollout.bundle.unroll(rollout.params, rollout.context, node, rollout.actions, rollout.chance)
        return jnp.sum(latents[:, -1, :, 0])

    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(rollout.node.latent, rollout.node.codes):
        assert (np.abs(gradient).max(axis=(1, 2) if gradient.ndim == 3 else (1, 2, 3)) > 1e-6).all()


def test_chance_is_inferred_from_the_next_codes() -> None:
    rollout = Rollout(4, "expected", 3, "whole")
    infer = jax.jit(rollout.bundle.infer_chance)
    logits = infer(rollout.params, rollout.latents[:, 0], rollout.actions[:, 0], rollout.codes[:, 1])
    other = infer(rollout.params, rollout.latents[:, 0], rollout.actions[:, 0], (rollout.codes[:, 1] + 1) % CODES)
    assert logits.shape == (BATCH, 3) and rollout.bundle.num_outcomes == 3
    assert (np.abs(logits - other).max(axis=1) > 1e-3).all()


def test_tokenise_decode_and_init() -> None:
    bundle, params = tiny.make(num_tokens=2)
    frames = jnp.asarray(np.random.default_rng(0).integers(256, size=(3, 4, 4, 1)), jnp.uint8)
    codes = bundle.tokenise(params, frames)
    np.testing.assert_array_equal(codes, frames[:, :2, :2, 0] % 5)
    assert bundle.decode(params, codes).shape == (3, 2, 2, 1)
    drawn = jax.eval_shape(bundle.init, jax.random.key(0), frames, params.tokenizer)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)


def test_predict_reads_all_tokens_alike(rollout: Rollout) -> None:
    predict = jax.jit(rollout.bundle.predict)
    latent, beta = rollout.latents[:, 0], jnp.asarray([0.0, 0.3])
    prediction = predict(rollout.params, latent, beta)
    flipped = predict(rollout.params, latent[:, ::-1], beta)
    assert prediction.value_logits.shape == (BATCH, 3, 11)
    for ours, theirs in zip(jax.tree.leaves(prediction), jax.tree.leaves(flipped), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_heads": 3}, "num_heads=3"),
        ({"num_heads": 16}, "num_heads=16"),
        ({"code_input": "all"}, "code_input=all.*learned, quantised, whitened, both"),
        ({"action_input": "concat"}, "dynamics.action_input=concat.*sum, token"),
        ({"action_embedding": "bits"}, "dynamics.action_embedding=bits.*atomic, compositional"),
        ({"token_position": "2d"}, "dynamics.token_position=2d.*learned, rows_columns, none"),
        ({"token_position": "none"}, "dynamics.token_position=none: a frame of one token .*Allowed: learned"),
        ({"token_position": "rows_columns"}, "dynamics.token_position=rows_columns: a frame of one token"),
        ({"action_embedding": "compositional"}, "dynamics.action_embedding=compositional: of 0 actions"),
        (
            {"action_embedding": "compositional", "action_names": ("NOOP", "0", "1", "2")},
            "dynamics.action_embedding=compositional: action '0' is no sum of UP, .*Allowed: atomic",
        ),
        ({"code_head": "grid"}, "code_head=grid.*whole, patches"),
        ({"feedback": "soft"}, "feedback=soft.*expected, argmax"),
        ({"dtype": "float16"}, "dynamics.dtype=float16.*float32, bfloat16"),
    ],
)
def test_wrong_sizes_and_switches_are_refused(wrong: dict, message: str) -> None:
    sizes = {
        "num_actions": 4,
        "num_bins": 11,
        "width": 16,
        "num_layers": 1,
        "num_heads": 2,
        "mlp_width": 32,
        "head_width": 16,
        "code_input": "learned",
        "action_input": "sum",
        "action_embedding": "atomic",
        "action_norm": 1.0,
        "token_position": "learned",
        "code_head": "whole",
        "feedback": "expected",
        "num_outcomes": 0,
        "dtype": "float32",
    }
    with pytest.raises(ValueError, match=message):
        make_world_model(tiny.make_tokenizer(1, 2, 5), **(sizes | wrong))
