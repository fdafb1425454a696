"""K/V caches against a plain recomputation (N05), causality by gradient (N04), rows on their own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.models import dynamics
from learnmax_jax.models.world_model import ModelParams, WorldModel
from tests.models import recompute, tiny

BATCH, TIME, STEPS, NUM_HEADS, NUM_CODES = 3, 6, 3, 2, 5
# Row 0 opens an episode at once, row 1 twice; row 2's episode began before the window, and another one ends it.
FIRST = np.zeros((BATCH, TIME), bool)
FIRST[[0, 1, 1, 2], [0, 1, 3, 5]] = True


class World:
    """A random tiny world model, its functions compiled once, and a window of real frames."""

    def __init__(self, num_tokens: int, **switches: str) -> None:
        bundle, params = tiny.make(num_tokens=num_tokens, num_codes=NUM_CODES, **switches)
        self.oracle = {
            "whitened": switches["code_input"] == "whitened",
            "action_token": switches.get("action_input") == "token",
        }
        self.slots = num_tokens + self.oracle["action_token"]
        self.bundle: WorldModel = bundle
        self.params: ModelParams = params
        rng = np.random.default_rng(num_tokens)
        self.codes = jnp.asarray(rng.integers(NUM_CODES, size=(BATCH, TIME, num_tokens, 2)))
        self.first = jnp.asarray(FIRST)
        self.action = jnp.where(self.first, 4, jnp.asarray(rng.integers(4, size=(BATCH, TIME))))
        self.actions = jnp.asarray(rng.integers(4, size=(BATCH, STEPS)))
        self.context = jax.jit(bundle.context, static_argnames="capacity")
        self.extend = jax.jit(bundle.extend)
        self.step = jax.jit(bundle.step)
        self.unroll = jax.jit(bundle.unroll)
        self.root = jax.jit(partial(bundle.root, max_depth=STEPS))

    def window(self, begin: int = 0, end: int = TIME) -> tuple:
        return self.codes[:, begin:end], self.action[:, begin:end], self.first[:, begin:end]


# All that may stand in a config beside the defaults: the action in a slot of its own behind an anchor and four patches.
ANCHOR = {
    "num_tokens": 5,
    "code_input": "whitened",
    "action_input": "token",
    "action_embedding": "compositional",
    "token_position": "rows_columns",
}


@pytest.fixture(
    scope="module",
    params=[{"num_tokens": 1, "code_input": "learned"}, {"num_tokens": 4, "code_input": "both"}, ANCHOR],
    ids=["N1", "N4", "N5-switched"],
)
def world(request: pytest.FixtureRequest) -> World:
    return World(**request.param)


def _extend_all(world: World, context: dynamics.Context, begin: int) -> tuple[dynamics.Context, list]:
    latents = []
    for t in range(begin, TIME):
        context, latent = world.extend(world.params, context, world.codes[:, t], world.action[:, t], world.first[:, t])
        latents.append(latent)
    return context, latents


def test_shapes_and_dtypes(world: World) -> None:
    num_tokens = world.codes.shape[2]
    context, latents = world.context(world.params, *world.window(), capacity=TIME + 2)
    assert latents.shape == (BATCH, TIME, num_tokens, 16) and latents.dtype == jnp.float32
    assert len(context.keys) == len(context.values) == 2
    assert context.keys[0].shape == context.values[1].shape == (BATCH, NUM_HEADS, TIME + 2, world.slots, 8)
    assert context.start.tolist() == [0, 3, 5] and context.length.tolist() == [TIME] * BATCH
    node = world.root(latents[:, -1], world.codes[:, -1])
    assert node.path_keys[0].shape == (BATCH, NUM_HEADS, STEPS, world.slots, 8)
    assert node.codes.shape == (BATCH, num_tokens, 2, NUM_CODES) and node.depth.dtype == jnp.int32
    np.testing.assert_array_equal(node.codes.argmax(-1), world.codes[:, -1])


def test_context_equals_recompute(world: World) -> None:
    _, latents = world.context(world.params, *world.window(), capacity=TIME)
    inputs = recompute.embed(world.params, jax.nn.one_hot(world.codes, NUM_CODES), world.action, **world.oracle)
    expected = jax.jit(partial(recompute.latents, num_heads=NUM_HEADS))(world.params, inputs, world.first)
    np.testing.assert_allclose(latents, expected[:, :, : latents.shape[2]], atol=1e-5)


@pytest.mark.parametrize("begin", [0, 4])
def test_n05_extend_equals_context_at_every_length(world: World, begin: int) -> None:
    whole, latents = world.context(world.params, *world.window(), capacity=TIME)
    context, _ = world.context(world.params, *world.window(end=begin), capacity=TIME)
    context, extended = _extend_all(world, context, begin)
    for t, latent in enumerate(extended, start=begin):
        np.testing.assert_allclose(latent, latents[:, t], atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(context), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_n05_a_window_that_moved_on_equals_a_fresh_one(world: World) -> None:
    """Rotary positions are relative: the same frames further on in a window give the same latents."""
    _, early = world.context(world.params, *world.window(begin=2), capacity=TIME)
    _, late = world.context(world.params, *world.window(), capacity=TIME)
    # Row 1's episode opens at 3 and row 2's at 5: nothing before position 2 is in their sight from there on.
    np.testing.assert_allclose(early[1, 1:], late[1, 3:], atol=1e-5)
    np.testing.assert_allclose(early[2, 3:], late[2, 5:], atol=1e-5)
    assert np.abs(early[0] - late[0, 2:]).max() > 1e-2


def test_n05_a_reset_leaves_the_other_rows_bit_equal(world: World) -> None:
    context, _ = world.context(world.params, *world.window(end=4), capacity=TIME)
    codes, action = world.codes[:, 4], world.action[:, 4]
    kept, calm = world.extend(world.params, context, codes, action, jnp.zeros(BATCH, bool))
    reset, broken = world.extend(world.params, context, codes, action, jnp.arange(BATCH) == 1)
    assert reset.start.tolist() == [kept.start[0], 4, kept.start[2]]
    np.testing.assert_array_equal(calm[::2], broken[::2])
    assert np.abs(calm[1] - broken[1]).max() > 1e-2
    alone, _ = world.context(world.params, codes[:, None], action[:, None], jnp.ones((BATCH, 1), bool), capacity=1)
    # Alone in sight: what the reset row's next frame sees is this one frame only.
    for after, before in zip(jax.tree.leaves(reset.keys), jax.tree.leaves(kept.keys), strict=True):
        np.testing.assert_array_equal(after[::2], before[::2])
    np.testing.assert_allclose(reset.values[0][1, :, 4], alone.values[0][1, :, 0], atol=1e-5)


def test_n05_step_equals_recompute_at_every_depth(world: World) -> None:
    context, latents = world.context(world.params, *world.window(), capacity=TIME + 2)
    node = world.root(latents[:, -1], world.codes[:, -1])
    oracle = partial(recompute.imagine, world.bundle, num_codes=NUM_CODES, num_heads=NUM_HEADS, **world.oracle)
    expected, codes = jax.jit(oracle)(world.params, *world.window(), world.actions)
    for k in range(STEPS):
        node, _ = world.step(world.params, context, node, world.actions[:, k], None)
        assert node.depth.tolist() == [k + 1] * BATCH
        np.testing.assert_allclose(node.latent, expected[:, k], atol=1e-5)
        np.testing.assert_allclose(node.codes, codes[:, k], atol=1e-5)


def test_n05_rows_of_different_depth_share_a_batch(world: World) -> None:
    """mctx steps a batch of nodes at once, each at a depth of its own."""
    context, latents = world.context(world.params, *world.window(), capacity=TIME)
    nodes = [world.root(latents[:, -1], world.codes[:, -1])]
    for k in range(STEPS - 1):
        nodes.append(world.step(world.params, context, nodes[-1], world.actions[:, k], None)[0])
    depths = [2, 0, 1]
    mixed = jax.tree.map(lambda *parts: jnp.stack([parts[depth][row] for row, depth in enumerate(depths)]), *nodes)
    child, _ = world.step(world.params, context, mixed, world.actions[:, 2], None)
    assert child.depth.tolist() == [3, 1, 2]
    for row, depth in enumerate(depths):
        lone, _ = world.step(world.params, context, nodes[depth], world.actions[:, 2], None)
        for ours, theirs in zip(jax.tree.leaves(child), jax.tree.leaves(lone), strict=True):
            np.testing.assert_allclose(ours[row], theirs[row], atol=1e-6)


def test_n05_nothing_outside_start_and_length_or_depth_is_read(world: World) -> None:
    context, latents = world.context(world.params, *world.window(), capacity=TIME + 2)
    context = context.replace(length=jnp.asarray([6, 5, 6]), start=jnp.asarray([0, 3, 2]))
    node = world.root(latents[:, -1], world.codes[:, -1])
    node, _ = world.step(world.params, context, node, world.actions[:, 0], None)
    at = np.arange(TIME + 2)[None]
    unseen = (at < np.asarray(context.start)[:, None]) | (at >= np.asarray(context.length)[:, None])

    def spoil(caches: tuple, where: np.ndarray) -> tuple:
        return tuple(jnp.where(where[:, None, :, None, None], 1e9, cache) for cache in caches)

    later = np.broadcast_to(np.arange(STEPS)[None] >= 1, (BATCH, STEPS))
    spoiled_context = context.replace(keys=spoil(context.keys, unseen), values=spoil(context.values, unseen))
    spoiled_node = node.replace(path_keys=spoil(node.path_keys, later), path_values=spoil(node.path_values, later))
    child, outcome = world.step(world.params, context, node, world.actions[:, 1], None)
    same, same_outcome = world.step(world.params, spoiled_context, spoiled_node, world.actions[:, 1], None)
    np.testing.assert_array_equal(child.latent, same.latent)
    np.testing.assert_array_equal(outcome.code_logits, same_outcome.code_logits)


def test_f40_rows_are_independent(world: World) -> None:
    """Permuted rows give permuted answers, and a row answers the same whoever its batch mates are."""

    def run(rows: list[int]) -> tuple:
        codes, action, first = (x[jnp.asarray(rows)] for x in world.window())
        context, latents = world.context(world.params, codes, action, first, capacity=TIME)
        node = world.root(latents[:, -1], codes[:, -1])
        return latents, *world.unroll(world.params, context, node, world.actions[jnp.asarray(rows)], None)

    straight = run([0, 1, 2])
    for rows in ([2, 0, 1], [1, 1, 1]):
        for ours, theirs in zip(jax.tree.leaves(run(rows)), jax.tree.leaves(straight), strict=True):
            np.testing.assert_allclose(ours, np.asarray(theirs)[rows], rtol=1e-6, atol=1e-6)


class Traced:
    """A window where every frame has codes and an action of its own: a table's row is one frame's input."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.bundle, params = tiny.make(
            num_tokens=num_tokens, num_codes=TIME * num_tokens, num_actions=TIME, code_input="learned"
        )
        self.params = params
        codes = jnp.arange(TIME * num_tokens).reshape(1, TIME, num_tokens, 1)
        self.codes = jnp.broadcast_to(codes, (1, TIME, num_tokens, 2))
        self.action = jnp.arange(TIME)[None]
        self.run = jax.jit(self._latents)
        self.jacobian = jax.jit(jax.jacrev(self._latents))

    def _latents(self, inputs: dict, first: jax.Array) -> jax.Array:
        """Latents `[T, N * D]` as a function of `learned_codes [G, T N, D]` and `actions [T + 1, D]`."""
        network = dict(self.params.network, dynamics=self.params.network["dynamics"] | inputs)
        params = self.params.replace(network=network)
        _, latents = self.bundle.context(params, self.codes, self.action, first, capacity=TIME)
        return latents.reshape(TIME, -1)

    def inputs(self) -> dict:
        return {name: self.params.network["dynamics"][name] for name in ("learned_codes", "actions")}


@pytest.fixture(scope="module", params=[1, 4], ids=["N1", "N4"])
def traced(request: pytest.FixtureRequest) -> Traced:
    return Traced(request.param)


@pytest.mark.parametrize("opens", [0, 3], ids=["one-episode", "two-episodes"])
def test_n04_gradient_of_what_may_not_be_seen_is_exactly_zero(traced: Traced, opens: int) -> None:
    first = jnp.arange(TIME)[None] == opens
    by_name = traced.jacobian(traced.inputs(), first)
    codes = np.moveaxis(np.asarray(by_name["learned_codes"]), 3, 1)  # [T, T N, N D, G, D]
    codes = np.abs(codes.reshape(TIME, TIME, -1)).max(axis=-1)
    actions = np.abs(np.asarray(by_name["actions"])[:, :, :TIME]).max(axis=(1, 3))
    for t in range(TIME):
        for s in range(TIME):
            seen = s <= t and (s >= opens) == (t >= opens)
            assert (codes[t, s] > 1e-4) if seen else (codes[t, s] == 0), (t, s)
            assert (actions[t, s] > 1e-4) if seen else (actions[t, s] == 0), (t, s)


@pytest.mark.parametrize("t", [0, 2, 4])
def test_n04_a_poisoned_future_leaves_the_past_bit_equal(traced: Traced, t: int) -> None:
    """The poison is huge, not NaN: dense attention multiplies what it does not see by a weight of exactly 0."""
    first = jnp.arange(TIME)[None] == 0
    inputs = traced.inputs()
    poisoned = {
        "learned_codes": inputs["learned_codes"].at[:, (t + 1) * traced.num_tokens :].set(1e12),
        "actions": inputs["actions"].at[t + 1 : TIME].set(-1e12),
    }
    clean, spoiled = traced.run(inputs, first), traced.run(poisoned, first)
    np.testing.assert_array_equal(clean[: t + 1], spoiled[: t + 1])
    assert np.isfinite(spoiled).all() and np.abs(clean[t + 1] - spoiled[t + 1]).max() > 1e-2


def test_n04_reward_reacts_to_its_own_action_and_latent_to_the_one_before(world: World) -> None:
    """action[t] leads to frame t + 1: reward[t] and latent[t + 1] know it, latent[t] and reward[t - 1] do not."""
    actions = jnp.asarray(np.random.default_rng(3).integers(4, size=(BATCH, TIME)))
    first = jnp.arange(TIME)[None] == jnp.zeros((BATCH, 1), jnp.int32)

    def rewards_and_latents(actions: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        led_here = jnp.concatenate([jnp.full((BATCH, 1), 4), actions[:, :-1]], axis=1)
        context, latents = world.context(world.params, world.codes, led_here, first, capacity=TIME)
        reward = [
            world.step(world.params, context, world.root(latents[:, t], world.codes[:, t]), actions[:, t], None)[
                1
            ].reward_logits
            for t in range(TIME)
        ]
        return np.stack(reward, axis=1), np.asarray(latents)

    t = 3
    reward, latents = rewards_and_latents(actions)
    other_reward, other_latents = rewards_and_latents(actions.at[:, t].set((actions[:, t] + 1) % 4))
    np.testing.assert_array_equal(reward[:, :t], other_reward[:, :t])
    np.testing.assert_array_equal(latents[:, : t + 1], other_latents[:, : t + 1])
    assert (np.abs(reward[:, t] - other_reward[:, t]).max(axis=-1) > 1e-3).all()
    assert (np.abs(latents[:, t + 1] - other_latents[:, t + 1]).max(axis=(-2, -1)) > 1e-3).all()


def test_rotation_depends_on_distance_only() -> None:
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def score(at: int, behind: int) -> float:
        rotated = dynamics.rotate(query, jnp.asarray([[at]])), dynamics.rotate(key, jnp.asarray([[at - behind]]))
        return float((rotated[0] * rotated[1]).sum())

    assert score(5, 2) == pytest.approx(score(40, 2), abs=1e-5)
    assert abs(score(5, 2) - score(5, 3)) > 1e-2
    # Position 0 turns nothing; at position 1 the fastest pair turns by one radian.
    np.testing.assert_array_equal(dynamics.rotate(query, jnp.zeros((1, 1))), query)
    turned = np.asarray(dynamics.rotate(query, jnp.ones((1, 1))))[0, 0, 0]
    x, y = np.asarray(query)[0, 0, 0, [0, 4]]
    np.testing.assert_allclose(turned[0], x * np.cos(1) - y * np.sin(1), rtol=1e-5)


@pytest.mark.parametrize("code_input", ["learned", "quantised", "whitened", "both"])
def test_code_inputs(code_input: str) -> None:
    """Which tables are read; `both` starts as the learned one and can open to the other by gradient."""
    bundle, params = tiny.make(code_input=code_input)
    names = {name for name in params.network["dynamics"] if "code" in name}
    assert (
        names
        == {
            "learned": {"learned_codes"},
            "quantised": {"quantised_codes"},
            "whitened": {"quantised_codes"},
            "both": {"learned_codes", "quantised_codes", "code_gate"},
        }[code_input]
    )
    arguments = jnp.zeros((1, 1, 1, 2), jnp.int32), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)

    @jax.jit
    def gradient(params: ModelParams) -> ModelParams:
        return jax.grad(lambda params: bundle.context(params, *arguments, capacity=1)[1][..., 0].sum())(params)

    gradients = gradient(params)
    assert not np.any(gradients.tokenizer), "the world model's losses must not move the codebook"
    assert all(np.any(gradients.network["dynamics"][name]) for name in names - {"quantised_codes"} if name in names)
    opened = gradient(params)
    for name in names:
        assert np.any(jax.tree.leaves(opened.network["dynamics"][name])[0])


def test_s4_9_rolling_in_training_and_rolling_in_search_give_the_same_logits(world: World) -> None:
    """One pass over real frames, and a tree's steps that are told the same frames' codes, at every start and depth."""
    imagine, outcome = jax.jit(world.bundle.imagine), jax.jit(world.bundle.outcome)
    codes = jax.nn.one_hot(world.codes, NUM_CODES)
    # Frame t + k is reached by the action the pass embeds with it; rows that reset on the way are told apart below.
    context, latents = world.context(world.params, *world.window(), capacity=TIME)
    compared = 0
    for start in range(TIME - STEPS):
        begins = jnp.max(jnp.where(FIRST & (np.arange(TIME)[None] <= start), np.arange(TIME)[None], 0), axis=1)
        shared = context.replace(length=jnp.full(BATCH, start + 1), start=begins)
        node = world.root(latents[:, start], world.codes[:, start])
        for depth in range(1, STEPS + 1):
            at = start + depth
            node = imagine(world.params, shared, node, codes[:, at], world.action[:, at])
            trained = world.root(latents[:, at], world.codes[:, at])
            same = ~FIRST[:, start + 1 : at + 1].any(axis=1)
            compared += same.sum()
            for name in ("code_logits", "reward_logits", "continuation_logit"):
                forced, stepped = (
                    getattr(outcome(world.params, moment, world.actions[:, 0], None), name)
                    for moment in (trained, node)
                )
                np.testing.assert_allclose(np.asarray(forced)[same], np.asarray(stepped)[same], atol=1e-5)
    # Row 0 runs through; rows 1 and 2 until their next episode opens.
    assert compared == 3 * STEPS + (0 + 1 + 0) + (3 + 3 + 2)
