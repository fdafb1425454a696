"""One update taken apart, one batch learned by heart, and a small world learned whole."""

import math
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnmax_jax.learning import learner, losses
from learnmax_jax.learning.learner import TrainState
from learnmax_jax.learning.supervision import supervise
from learnmax_jax.models.support import inverse_rescale
from learnmax_jax.models.world_model import ModelParams, is_head
from learnmax_jax.replay.buffer import make_replay
from learnmax_jax.types import Array, Batch, Transition
from learnmax_jax.worlds import table
from tests.learning import episodes, small
from tests.learning.small import EVERY_PART, SUPPORT

LENGTH, BATCH, NUM_FRAMES = 4, 3, 8
DECAY, RATE, WEIGHT_DECAY = 0.9, 1e-2, 0.1
RETURNS = {
    "reward_scale": 1e5,
    "extrinsic_discount": 0.9,
    "intrinsic_discount": 0.8,
    "short_discount": 0.5,
    "td_lambda": 0.9,
    "td_steps": 2,
    "bootstrap": "search",
    "intrinsic_crosses_end": False,
}


def _by_hand(
    params: dict, gradients: list[dict], *, warmup: int, decay_end: int, clip_norm: float
) -> dict[str, np.ndarray]:
    """AdamW in float64, from the paper: decoupled decay, of matrices only."""
    params = {name: np.asarray(x, np.float64) for name, x in params.items()}
    mean, square = ({name: np.zeros_like(x) for name, x in params.items()} for _ in range(2))
    for index, gradient in enumerate(gradients):
        norm = np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in gradient.values()))
        rate = RATE * min(index / warmup, 1.0) if warmup else RATE
        if decay_end and index > warmup:
            fallen = min((index - warmup) / (decay_end - warmup), 1.0)
            rate = RATE * (0.1 + 0.9 * (1.0 + math.cos(math.pi * fallen)) / 2)
        for name in params:
            g = np.asarray(gradient[name], np.float64) * min(1.0, clip_norm / norm)
            mean[name] = 0.9 * mean[name] + 0.1 * g
            square[name] = 0.999 * square[name] + 0.001 * g**2
            unbiased = mean[name] / (1 - 0.9 ** (index + 1))
            spread = np.sqrt(square[name] / (1 - 0.999 ** (index + 1)))
            decay = WEIGHT_DECAY * params[name] if params[name].ndim > 1 else 0.0
            params[name] = params[name] - rate * (unbiased / (spread + 1e-8) + decay)
    return params


@pytest.mark.parametrize(("warmup", "decay_end"), [(0, 0), (3, 0), (1, 3), (0, 8)])
def test_n15_optimizer_steps_against_numpy(warmup: int, decay_end: int) -> None:
    rng = np.random.default_rng(0)
    shapes = {"matrix": (3, 4), "table": (2, 3, 4), "vector": (5,), "scalar": ()}

    def draw(scale: float) -> dict[str, Array]:
        return {name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    params = start = draw(1.0)
    # The first gradient is within the norm, the others are clipped.
    gradients = [draw(scale) for scale in (0.01, 1.0, 30.0, 1.0)]
    optimizer = learner.make_optimizer(
        learning_rate=RATE, warmup_updates=warmup, decay_updates=decay_end, weight_decay=WEIGHT_DECAY, clip_norm=0.5
    )

    @jax.jit
    def step(gradient: Any, state: Any, params: Any) -> Any:
        changes, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, changes), state

    state = optimizer.init(params)
    for gradient in gradients:
        params, state = step(gradient, state, params)
    expected = _by_hand(start, gradients, warmup=warmup, decay_end=decay_end, clip_norm=0.5)
    for name in shapes:
        np.testing.assert_allclose(params[name], expected[name], rtol=2e-5, atol=1e-6, err_msg=name)


TOKENIZER = small.small_tokenizer()
WORLD_MODEL = small.small_world_model(TOKENIZER, num_actions=episodes.NUM_ACTIONS)
OPTIMIZERS = {
    name: learner.make_optimizer(learning_rate=RATE, warmup_updates=0, decay_updates=0, weight_decay=0.0, clip_norm=1.0)
    for name in ("optimizer", "tokenizer_optimizer")
}
SUPERVISE = partial(
    supervise, world_model=WORLD_MODEL, support=SUPPORT, plan=None, num_reanalysed=0, exploit_share=0.0, **RETURNS
)
_update = jax.jit(
    partial(
        learner.update,
        world_model=WORLD_MODEL,
        tokenizer=TOKENIZER,
        support=SUPPORT,
        supervise=SUPERVISE,
        loss_weights=EVERY_PART,
        unroll_steps=2,
        num_unrolls=2,
        target_decay=DECAY,
        **OPTIMIZERS,
    )
)


def _frames(seed: int, *shape: int) -> Array:
    return jax.random.randint(jax.random.key(seed), (*shape, 12, 12, 1), 0, 256).astype(jnp.uint8)


def _batch(seed: int) -> tuple[Batch, Array]:
    rng = np.random.default_rng(seed)
    endings = ("terminated", "truncated", "newest")
    batch, novelty = episodes.to_batch(
        [
            episodes.window(rng, length=LENGTH, transitions=2 + each, ending=endings[each], from_start=True)
            for each in range(BATCH)
        ]
    )
    return batch.replace(rows=batch.rows.replace(observation=_frames(seed, BATCH, LENGTH + 1))), novelty


def _step(state: TrainState, batch: Batch, novelty: Array, frames: Array) -> tuple[TrainState, Array, dict]:
    return _update(state, batch, novelty, frames, jnp.zeros(2), jax.random.key(7))


@pytest.fixture(scope="module")
def fresh() -> TrainState:
    init = partial(learner.init, world_model=WORLD_MODEL, tokenizer=TOKENIZER, **OPTIMIZERS)
    return jax.jit(init)(jax.random.key(0), _frames(0, 1))


@pytest.fixture(scope="module")
def state(fresh: TrainState) -> TrainState:
    """After two updates: the codebook has begun, the target network stands apart."""
    state = fresh
    for seed in (0, 1):
        state, _, _ = _step(state, *_batch(seed), _frames(10 + seed, NUM_FRAMES))
    return state


def _same(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_target_network_is_a_running_mean_and_the_counter_counts(state: TrainState) -> None:
    after, _, metrics = _step(state, *_batch(2), _frames(12, NUM_FRAMES))
    assert not _same(after.network, state.network)
    jax.tree.map(
        lambda target, old, new: np.testing.assert_allclose(
            target, DECAY * old + (1 - DECAY) * new, rtol=1e-5, atol=1e-7
        ),
        after.target_network,
        state.target_network,
        after.network,
    )
    assert int(after.num_updates) == int(state.num_updates) + 1 == 3
    assert float(metrics["finite"]) == 1
    for name, value in metrics.items():
        assert value.shape == () and np.isfinite(value), name


def test_world_model_and_tokenizer_learn_apart(state: TrainState) -> None:
    frames = _frames(12, NUM_FRAMES)
    after, _, _ = _step(state, *_batch(2), frames)
    other_batch, _, _ = _step(state, *_batch(3), frames)
    # Whatever the world model learned from, the tokenizer is the same to the bit, and the reverse.
    assert _same(after.tokenizer, other_batch.tokenizer)
    assert _same(after.tokenizer_optimizer_state, other_batch.tokenizer_optimizer_state)
    assert not _same(after.network, other_batch.network)
    other_frames, _, _ = _step(state, *_batch(2), _frames(13, NUM_FRAMES))
    assert _same(after.network, other_frames.network)
    assert _same(after.optimizer_state, other_frames.optimizer_state)
    assert not _same(after.tokenizer.params, other_frames.tokenizer.params)
    assert not _same(after.tokenizer.params, state.tokenizer.params)


def test_targets_come_from_the_target_network_and_leave_it_alone(state: TrainState) -> None:
    batch, novelty = _batch(2)

    @jax.jit
    def gradient(target_network: Any, slow: Any) -> Any:
        def loss(target_network: Any, slow: Any) -> tuple[Array, Array]:
            tokenizer = state.tokenizer.replace(slow_params=slow[0], slow_quantizer=slow[1])
            supervision = SUPERVISE(
                ModelParams(network=target_network, tokenizer=tokenizer),
                batch,
                novelty,
                jax.random.key(0),
                jnp.zeros(2),
            )
            total, _ = losses.world_model_loss(
                state.network,
                ModelParams(network=None, tokenizer=tokenizer),
                supervision,
                jax.random.key(0),
                world_model=WORLD_MODEL,
                support=SUPPORT,
                weights=EVERY_PART,
                unroll_steps=2,
                num_unrolls=2,
            )
            return total, supervision.values

        return jax.grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)(target_network, slow)

    slow = (state.tokenizer.slow_params, state.tokenizer.slow_quantizer)
    gradients, values = gradient(state.target_network, slow)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert leaf.dtype == jax.dtypes.float0 or not np.any(leaf), jax.tree_util.keystr(path)
    # Yet the targets are its word.
    _, others = gradient(state.network, slow)
    assert not np.array_equal(values, others)
    # As `update` asks for it.
    frames = _frames(12, NUM_FRAMES)
    after, _, _ = _step(state, batch, novelty, frames)
    otherwise, _, _ = _step(state.replace(target_network=state.network), batch, novelty, frames)
    assert not _same(after.network, otherwise.network)


def test_f14_a_nan_is_told_and_leaves_a_mark_where_it_is_a_transitions(state: TrainState) -> None:
    batch, novelty = _batch(2)
    frames = _frames(12, NUM_FRAMES)

    def finite(batch: Batch, novelty: Array, state: TrainState = state) -> float:
        return float(_step(state, batch, novelty, frames)[2]["finite"])

    def with_reward(row: int) -> Batch:
        return batch.replace(rows=batch.rows.replace(reward=batch.rows.reward.at[0, row].set(jnp.nan)))

    assert finite(batch, novelty) == 1
    assert finite(with_reward(1), novelty) == 0
    # Row 2 of sequence 0 is a final observation: its reward is nobody's.
    assert finite(with_reward(2), novelty) == 1
    assert finite(batch, novelty.at[0, 2].set(jnp.nan)) == 0
    poisoned = state.tokenizer.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.tokenizer.params))
    assert finite(batch, novelty, state.replace(tokenizer=poisoned)) == 0


def test_n09_priorities_are_the_errors_of_what_each_row_wants_and_never_zero(fresh: TrainState) -> None:
    batch, novelty = _batch(2)
    _, priorities, _ = _step(fresh, batch, novelty, _frames(12, NUM_FRAMES))
    made = jax.jit(SUPERVISE)(fresh.target_model, batch, novelty, jax.random.key(0), jnp.zeros(2))
    # A fresh value head says 0 of everything, so that the errors are the targets.
    valid = np.asarray(made.valid)
    wanted = np.abs(made.values[..., 0]) + np.abs(made.beta) * np.abs(made.values[..., 1])
    assert np.abs(made.beta).max() > 0
    expected = (wanted * valid)[:, :-1] + 1e-3
    np.testing.assert_allclose(priorities, expected, rtol=1e-4)
    nothing = batch.replace(
        rows=batch.rows.replace(
            reward=jnp.zeros_like(batch.rows.reward), search_value=jnp.zeros_like(batch.rows.search_value)
        )
    )
    _, priorities, _ = _step(fresh, nothing, novelty, _frames(12, NUM_FRAMES))
    assert (np.asarray(priorities) > 0).all()


def _train(
    loss: Any, network: Any, batches: Any, *, num_updates: int, learning_rate: float
) -> tuple[Any, Array, dict[str, Array]]:
    """Parameters after so many updates, with `batches(key)` as targets: (network, first loss, the last metrics)."""
    optimizer = learner.make_optimizer(
        learning_rate=learning_rate, warmup_updates=20, decay_updates=0, weight_decay=0.0, clip_norm=5.0
    )

    def one(carry: Any, key: Array) -> Any:
        network, state = carry
        batch_key, loss_key = jax.random.split(key)
        gradient, (metrics, _) = jax.grad(loss, has_aux=True)(network, batches(batch_key), loss_key)
        changes, state = optimizer.update(gradient, state, network)
        return (optax.apply_updates(network, changes), state), metrics

    @jax.jit
    def run(network: Any) -> Any:
        keys = jax.random.split(jax.random.key(1), num_updates)
        (network, _), metrics = jax.lax.scan(one, (network, optimizer.init(network)), keys)
        return network, metrics

    network, metrics = run(network)
    return network, metrics["loss"][0], jax.tree.map(lambda x: x[-1], metrics)


def test_n16_one_batch_is_learned_by_heart() -> None:
    # All targets are single bins, actions or codes: the least possible loss is 0, nothing has to be subtracted.
    tokenizer = small.identity_tokenizer(num_groups=3, num_codes=8)
    world_model = small.small_world_model(tokenizer, num_actions=3, width=32, mlp_width=64, head_width=64)
    supervision = small.random_supervision(
        np.random.default_rng(0), batch=4, length=8, num_groups=3, num_codes=8, num_actions=3
    )
    frames = jnp.zeros((1, 1, 1, 3), jnp.uint8)
    init = jax.jit(lambda key: world_model.init(key, frames, tokenizer.init(key, frames)))
    params = init(jax.random.key(0))

    def loss(network: Any, supervision: Any, rng_key: Array) -> Any:
        return losses.world_model_loss(
            network,
            params,
            supervision,
            rng_key,
            world_model=world_model,
            support=SUPPORT,
            weights=EVERY_PART,
            unroll_steps=3,
            num_unrolls=3,
        )

    _, first, last = _train(loss, params.network, lambda key: supervision, num_updates=300, learning_rate=1e-2)
    assert float(last["code_accuracy"]) == 1 and float(last["open_code_accuracy"]) == 1
    assert float(last["loss"]) < float(first) / 20


NUM_STATES, NUM_ACTIONS, DIGITS, BASE = 16, 2, 2, 4


def _walk(world: Any, num_steps: int) -> Any:
    """Rows `[E, T, ...]` of a random walk through a world, as acting would store them."""

    def one(carry: Any, key: Array) -> Any:
        env_state, now = carry
        action = jax.random.randint(key, (world.num_envs,), 0, NUM_ACTIONS)
        env_state, following = world.step(env_state, action)
        zeros = jnp.zeros(world.num_envs)
        row = Transition(
            observation=now.observation,
            action=action,
            reward=following.reward,
            discount=following.discount,
            first=now.first,
            last=following.last,
            valid=~now.last,
            episode_step=env_state.step - 1,
            beta=zeros,
            search_policy=jnp.full((world.num_envs, NUM_ACTIONS), 1 / NUM_ACTIONS, jnp.float16),
            search_value=zeros,
            novelty_key=jnp.zeros((world.num_envs, 2), jnp.uint32),
            first_visit=zeros > 0,
        )
        return (env_state, following), row

    start = world.reset(jax.random.key(5))
    _, rows = jax.jit(lambda start: jax.lax.scan(one, start, jax.random.split(jax.random.key(6), num_steps)))(start)
    rows = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), rows)
    # Transitions since the episode's first frame; the final observation counts on.
    ends = np.asarray(rows.first)
    steps = np.zeros(ends.shape, np.int32)
    for t in range(1, num_steps):
        steps[:, t] = np.where(ends[:, t], 0, steps[:, t - 1] + 1)
    return rows.replace(episode_step=jnp.asarray(steps))


def test_n16_a_deterministic_world_is_predicted_exactly() -> None:
    # One point of reward is one bin, so that a reward that is known costs nothing.
    one_bin = 1.0 / float(inverse_rescale(jnp.ones(())))
    # World T of 16 states, entering state 3 pays; episodes of 7 steps, so that ends and resets are among the rows.
    world = table.make(
        num_envs=16,
        seed=0,
        num_states=NUM_STATES,
        num_actions=NUM_ACTIONS,
        num_digits=DIGITS,
        base=BASE,
        max_length=7,
        reward_state=3,
    )
    rows = _walk(world, 128)
    replay = make_replay(
        kind="uniform",
        num_envs=16,
        capacity=16 * 128,
        chunk_length=128,
        min_size=1,
        batch_size=16,
        sequence_length=6,
        priority_exponent=0.6,
        importance_exponent=0.4,
    )
    ring = jax.jit(replay.add)(replay.init(jax.tree.map(lambda x: x[:, 0], rows)), rows)
    tokenizer = small.identity_tokenizer(num_groups=DIGITS, num_codes=BASE)
    world_model = small.small_world_model(tokenizer, num_actions=NUM_ACTIONS, width=32, mlp_width=64, head_width=64)
    params = jax.jit(
        lambda key: world_model.init(key, rows.observation[:1, 0], tokenizer.init(key, rows.observation[:1, 0]))
    )(jax.random.key(0))
    make_targets = partial(
        supervise,
        world_model=world_model,
        support=SUPPORT,
        plan=None,
        num_reanalysed=0,
        exploit_share=0.0,
        **(RETURNS | {"reward_scale": one_bin}),
    )

    def batches(key: Array) -> Any:
        batch = replay.sample(ring, key)
        return make_targets(params, batch, jnp.zeros(batch.mask.shape), key, jnp.zeros(16))

    def loss(network: Any, supervision: Any, rng_key: Array) -> Any:
        return losses.world_model_loss(
            network,
            params,
            supervision,
            rng_key,
            world_model=world_model,
            support=SUPPORT,
            weights=EVERY_PART,
            unroll_steps=4,
            num_unrolls=3,
        )

    network, _, _ = _train(loss, params.network, batches, num_updates=600, learning_rate=5e-3)
    # On other windows than the last update's: every code right, teacher-forced and four steps ahead, and every reward.
    _, (metrics, _) = jax.jit(loss)(network, jax.jit(batches)(jax.random.key(99)), jax.random.key(98))
    assert float(metrics["code_accuracy"]) == 1 and float(metrics["open_code_accuracy"]) == 1
    assert float(metrics["loss_reward"]) < 0.01 and float(metrics["loss_open_reward"]) < 0.02


def test_where_heads_alone_learn_the_model_stays_as_it_was_drawn(fresh: TrainState) -> None:
    """An ablation: decoupled weight decay must leave it alone, too, and its gradient must not count in the norm."""
    every = learner.make_optimizer(
        learning_rate=RATE, warmup_updates=0, decay_updates=0, weight_decay=0.1, clip_norm=1.0
    )
    optimizer = learner.of_heads_alone(every)
    network = fresh.network
    gradient = jax.tree.map(jnp.ones_like, network)
    huge = jax.tree.map(lambda x, of_head: x if of_head else 1e6 * x, gradient, is_head(network))
    changes, _ = optimizer.update(huge, optimizer.init(network), network)
    moved = {
        tuple(key.key for key in path): bool((change != 0).any())
        for path, change in jax.tree_util.tree_flatten_with_path(changes)[0]
    }
    heads = {"reward", "intrinsic", "continuation"}
    assert moved and {path[0] for path in moved} == {"dynamics", "prediction", "transition"}
    for path, does in moved.items():
        assert does == (path[0] == "prediction" or (path[0] == "transition" and path[1] in heads)), path
    # As if there were nothing but the heads.
    alone = {"prediction": network["prediction"]} | {name: network["transition"][name] for name in sorted(heads)}
    expected, _ = every.update(jax.tree.map(jnp.ones_like, alone), every.init(alone), alone)
    chex.assert_trees_all_close(changes["prediction"], expected["prediction"], rtol=1e-6)
