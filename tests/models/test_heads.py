"""What the heads say before any training, what they are conditioned on, and the chance codes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.models.heads import PredictionHead, TransitionHead
from learnmax_jax.models.support import Support, inverse_rescale

BATCH, TOKENS, WIDTH, ACTIONS, GROUPS, CODES, BINS = 3, 2, 8, 4, 2, 5, 11
SUPPORT = Support(-5.0, 5.0, BINS)


def _latent(seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(BATCH, TOKENS, WIDTH)), jnp.float32)


def _codes() -> tuple[jax.Array, jax.Array]:
    codes = jnp.asarray(np.random.default_rng(1).integers(CODES, size=(BATCH, TOKENS, GROUPS)))
    return codes, jax.nn.one_hot(codes, CODES)


def _transition(num_outcomes: int, action_norm: float = 1.0) -> TransitionHead:
    return TransitionHead(
        num_actions=ACTIONS,
        num_groups=GROUPS,
        num_codes=CODES,
        num_bins=BINS,
        num_outcomes=num_outcomes,
        head_width=16,
        action_bits=None,
        action_norm=action_norm,
        code_head="whole",
        dtype="float32",
        patches=(0, 0),
    )


def _both(head: TransitionHead, latent: jax.Array, action: jax.Array, codes: jax.Array) -> tuple:
    """Every parameter of the head, chance's too."""
    posterior = head.infer_chance(latent, action, latent[:, 0]) if head.num_outcomes else None
    return head(latent, action, codes, None), posterior


@pytest.fixture(scope="module")
def predict() -> tuple:
    head = PredictionHead(num_actions=ACTIONS, num_bins=BINS, head_width=16, dtype="float32")
    latent = _latent().mean(axis=1)
    params = jax.jit(head.init)(jax.random.key(0), latent, jnp.zeros(BATCH))
    return jax.jit(head.apply), params, latent


@pytest.fixture(scope="module", params=[0, 8], ids=["no-chance", "chance"])
def transition(request: pytest.FixtureRequest) -> tuple:
    head = _transition(request.param)
    action, (_, codes) = jnp.asarray([0, 1, 3]), _codes()
    params = jax.jit(lambda key: head.init(key, _latent(), action, codes, method=_both))(jax.random.key(0))
    return head, params, action, codes


def test_actions_begin_as_long_as_they_are_told_to() -> None:
    action, (_, codes) = jnp.asarray([0, 1, 3]), _codes()
    for norm in (1.0, 5.0):
        params = _transition(0, norm).init(jax.random.key(0), _latent(), action, codes, None)["params"]
        lengths = jnp.linalg.norm(params["from_action"]["embedding"], axis=1)
        np.testing.assert_allclose(lengths.mean(), norm, rtol=0.2)


def test_an_untrained_prediction_prefers_nothing(predict: tuple) -> None:
    apply, params, latent = predict
    prediction = apply(params, latent, jnp.asarray([0.0, 0.3, 1.0]))
    assert prediction.policy_logits.shape == (BATCH, ACTIONS)
    assert prediction.value_logits.shape == (BATCH, 3, BINS)
    assert prediction.q_logits.shape == (BATCH, 2, ACTIONS, BINS)
    np.testing.assert_allclose(jax.nn.softmax(prediction.policy_logits), 1 / ACTIONS)
    for logits in (prediction.value_logits, prediction.q_logits):
        np.testing.assert_allclose(inverse_rescale(SUPPORT.expectation(logits)), 0, atol=1e-5)


def test_prediction_is_conditioned_on_beta(predict: tuple) -> None:
    """Betas a large step apart tell different things, and so does either side of 0."""
    apply, params, latent = predict
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    at = [apply(params, latent, jnp.full(BATCH, beta)) for beta in (-1e-4, 0.0, 0.3, 1.0)]
    for name in ("policy_logits", "value_logits", "q_logits"):
        for ours, theirs in itertools.pairwise(at):
            assert np.abs(getattr(ours, name) - getattr(theirs, name)).max() > 0.1


def test_what_a_small_beta_is_told_beta_0_is_told_too(predict: tuple) -> None:
    """Explorers next to 0 and the exploiter at 0 read nearly the same numbers: what one learns the other knows."""
    apply, params, latent = predict
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    at_0, next_to_it = (apply(params, latent, jnp.full(BATCH, beta)) for beta in (0.0, 1e-10))
    for name in ("policy_logits", "value_logits", "q_logits"):
        np.testing.assert_allclose(getattr(next_to_it, name), getattr(at_0, name), atol=1e-2)


def test_an_untrained_transition_repeats_the_codes_and_lives_on(transition: tuple) -> None:
    head, params, action, codes = transition
    outcome = jax.jit(head.apply)(params, _latent(), action, codes, None)
    assert outcome.reward_logits.shape == outcome.intrinsic_logits.shape == (BATCH, BINS)
    assert outcome.code_logits.shape == (BATCH, TOKENS, GROUPS, CODES)
    assert outcome.chance_logits.shape == (BATCH, head.num_outcomes)
    for logits in (outcome.reward_logits, outcome.intrinsic_logits):
        np.testing.assert_allclose(inverse_rescale(SUPPORT.expectation(logits)), 0, atol=1e-5)
    np.testing.assert_allclose(jax.nn.sigmoid(outcome.continuation_logit), 0.982, atol=1e-3)
    # softmax of (4, 0, 0, 0, 0) gives the present code e^4 / (e^4 + 4) = 0.93.
    likely = jnp.sum(jax.nn.softmax(outcome.code_logits) * codes, axis=-1)
    np.testing.assert_allclose(likely, 0.93, atol=0.03)


def test_keep_pushes_to_the_present_distribution(transition: tuple) -> None:
    """code_logits = evidence + keep x codes: linear in the codes, half as much for half a code."""
    head, params, action, codes = transition
    apply = jax.jit(head.apply)
    none, half, whole = (apply(params, _latent(), action, codes * share, None).code_logits for share in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(whole - none, 4 * codes, atol=1e-5)
    np.testing.assert_allclose(half - none, 2 * codes, atol=1e-5)


def test_transition_reads_action_and_token(transition: tuple) -> None:
    head, params, action, codes = transition
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    apply = jax.jit(head.apply)
    chance = jax.nn.one_hot(action, head.num_outcomes) if head.num_outcomes else None
    before = apply(params, _latent(), action, codes, chance)
    other = apply(params, _latent(), (action + 1) % ACTIONS, codes, chance)
    for name in ("reward_logits", "intrinsic_logits", "continuation_logit", "code_logits"):
        assert (np.abs(getattr(before, name) - getattr(other, name)).reshape(BATCH, -1).max(axis=1) > 1e-2).all()
    # Codes of a token come from that token's latent; scalars from all tokens'.
    moved = apply(params, _latent().at[:, 1].add(1.0), action, codes, chance)
    np.testing.assert_array_equal(before.code_logits[:, 0], moved.code_logits[:, 0])
    assert np.abs(before.code_logits[:, 1] - moved.code_logits[:, 1]).max() > 1e-2
    assert np.abs(before.reward_logits - moved.reward_logits).max() > 1e-2


@pytest.fixture(scope="module")
def chance() -> tuple:
    head = _transition(8)
    action, (_, codes) = jnp.asarray([0, 1, 3]), _codes()
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), _latent(), action, codes, method=_both))
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    return head, params, action, codes


def test_without_an_outcome_the_priors_likeliest_is_taken(chance: tuple) -> None:
    head, params, action, codes = chance
    apply = jax.jit(head.apply)
    unknown = apply(params, _latent(), action, codes, None)
    best = jnp.argmax(unknown.chance_logits, axis=-1)
    assert len(set(best.tolist())) > 1
    told = apply(params, _latent(), action, codes, jax.nn.one_hot(best, 8))
    other = apply(params, _latent(), action, codes, jax.nn.one_hot((best + 1) % 8, 8))
    for ours, theirs in zip(jax.tree.leaves(unknown), jax.tree.leaves(told), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_array_equal(told.chance_logits, other.chance_logits)
    assert (np.abs(told.reward_logits - other.reward_logits).max(axis=1) > 1e-2).all()
    assert (np.abs(told.code_logits - other.code_logits).max(axis=(1, 2, 3)) > 1e-2).all()


def test_the_posterior_learns_from_what_its_outcome_predicts(chance: tuple) -> None:
    head, params, action, codes = chance
    following = jnp.asarray(np.random.default_rng(5).normal(size=(BATCH, WIDTH)), jnp.float32)

    @jax.jit
    def gradient(params: dict) -> dict:
        def loss(params: dict) -> jax.Array:
            posterior = head.apply(params, _latent(), action, following, method=TransitionHead.infer_chance)
            outcome = head.apply(params, _latent(), action, codes, jax.nn.softmax(posterior))
            return jnp.sum(outcome.code_logits[..., 0] ** 2)

        return jax.grad(loss)(params)

    gradients = gradient(params)["params"]
    assert np.abs(gradients["posterior"]["kernel"]).max() > 0
    assert np.abs(gradients["from_chance"]["embedding"]).max() > 0
    # The next frame is read: the hidden layer's last WIDTH inputs are its embedding.
    assert np.abs(gradients["posterior_hidden"]["kernel"][-WIDTH:]).max() > 0
    assert not np.any(gradients["prior"]["kernel"]), "the prior learns from the posterior only"


def test_chance_off_has_no_parameters_for_it() -> None:
    action, (_, codes) = jnp.asarray([0, 1, 3]), _codes()
    shapes = jax.eval_shape(lambda: _transition(0).init(jax.random.key(0), _latent(), action, codes, None))
    assert set(shapes["params"]) == {
        "from_latent",
        "from_action",
        "reward",
        "intrinsic",
        "continuation",
        "codes",
        "keep",
    }
