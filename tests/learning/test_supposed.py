"""Rewards of actions that were not taken: what they teach, and what they leave alone."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.learning import losses
from learnmax_jax.learning.supervision import Supervision
from learnmax_jax.models.support import inverse_rescale
from learnmax_jax.models.world_model import ModelParams
from learnmax_jax.types import Supposed
from tests.learning import episodes, small
from tests.learning.small import EVERY_PART, SUPPORT
from tests.learning.test_supervision import BETAS, make_supervise

BATCH, LENGTH, ACTIONS = 3, 4, 3


@pytest.fixture(scope="module")
def loss() -> Any:
    """(Supervision with `supposed`) -> the losses by part, of a real world model."""
    tokenizer = small.identity_tokenizer(num_groups=2, num_codes=4)
    model = small.small_world_model(tokenizer, num_actions=ACTIONS)
    frames = jnp.zeros((1, 1, 1, 2), jnp.uint8)
    params = model.init(jax.random.key(0), frames, tokenizer.init(jax.random.key(0), frames))
    rng = np.random.default_rng(0)
    network = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, x.dtype), params.network)
    bound = partial(
        losses.world_model_loss,
        world_model=model,
        support=SUPPORT,
        weights=EVERY_PART,
        unroll_steps=2,
        num_unrolls=1,
    )

    def run(supervision: Supervision) -> dict[str, float]:
        state = ModelParams(network=None, tokenizer=params.tokenizer)
        _, (metrics, _) = jax.jit(bound)(network, state, supervision, jax.random.key(0))
        return {name: float(value) for name, value in metrics.items() if name.startswith("loss_")}

    return run


def _supervision() -> Supervision:
    return small.random_supervision(
        np.random.default_rng(1), batch=BATCH, length=LENGTH, num_groups=2, num_codes=4, num_actions=ACTIONS
    )


def _supposed(mask: Any, reward: float = 0.5, *, q_too: bool = False) -> Supposed:
    shape = (BATCH, LENGTH)
    return Supposed(
        action=jnp.ones(shape, jnp.int32),
        reward=jnp.full(shape, reward),
        mask=jnp.broadcast_to(mask, shape),
        q_too=q_too,
    )


@pytest.mark.parametrize("q_too", [False, True])
def test_only_novelty_and_q_hear_of_it(loss: Any, q_too: bool) -> None:
    without = loss(_supervision())
    told = loss(_supervision().replace(supposed=_supposed(jnp.array(True), q_too=q_too)))
    changed = {name for name in without if told[name] != pytest.approx(without[name], rel=1e-5)}
    assert changed == ({"loss_intrinsic", "loss_q"} if q_too else {"loss_intrinsic"})
    assert all(told[name] > without[name] for name in changed)


def test_few_made_up_rows_count_as_few(loss: Any) -> None:
    without = loss(_supervision())["loss_intrinsic"]

    def more(mask: Any) -> float:
        return loss(_supervision().replace(supposed=_supposed(mask)))["loss_intrinsic"] - without

    rows = jnp.zeros((BATCH, LENGTH), bool)
    parts = [more(rows.at[i, j].set(True)) for i in range(BATCH) for j in range(LENGTH)]
    assert more(rows) == pytest.approx(0, abs=1e-6)
    # Twelve transitions: each is a twelfth of the whole.
    assert sum(parts) == pytest.approx(more(~rows), rel=1e-4)


def test_where_q_hopes_values_bootstrap_from_it() -> None:
    rng = np.random.default_rng(3)
    rows = episodes.window(rng, length=6, transitions=7, ending="newest", from_start=False)
    batch, novelty = episodes.to_batch([rows])
    shape = (1, 6)
    hope = Supposed(jnp.zeros(shape, jnp.int32), jnp.ones(shape), jnp.ones(shape, bool), True)
    rest = (jnp.ones(()), batch, novelty, jax.random.key(0), jnp.asarray(BETAS))
    plain, hoping, modest = (make_supervise()(*rest, supposed) for supposed in (None, hope, hope.replace(q_too=False)))
    np.testing.assert_array_equal(plain.values, modest.values)
    np.testing.assert_array_equal(plain.values[..., [0, 2]], hoping.values[..., [0, 2]])
    latent = batch.rows.observation[0, -1:, :, :, 0].astype(jnp.float32)
    prediction = episodes.paper_model.predict(jnp.ones(()), latent, batch.rows.beta[0, -1:])
    q = inverse_rescale(episodes.SUPPORT.expectation(prediction.q_logits))[0]
    best = int(jnp.argmax(q[0] + batch.rows.beta[0, -1] * q[1]))
    np.testing.assert_allclose(hoping.values[0, -1, 1], q[1, best], rtol=1e-4)
    assert abs(float(plain.values[0, -1, 1]) - float(q[1, best])) > 0.1
