"""Each switch of the dynamics changes what it says and nothing else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.models.dynamics import Dynamics
from learnmax_jax.models.joystick import action_bits
from learnmax_jax.models.world_model import make_world_model
from tests.models import tiny

NAMES = tiny.ACTION_NAMES
NOOP, UPFIRE, UP, RIGHTFIRE, RIGHT, LEFT, NONE_YET = range(7)
DEFAULT_NAMES = {"learned_codes", "quantised_codes", "code_gate", "actions", "token_position", "block_0", "block_1"}
DEFAULT_NAMES |= {"final_norm"}


@pytest.mark.parametrize(
    ("num_tokens", "switches", "gone", "come"),
    [
        (1, {}, set(), set()),
        (4, {"action_input": "token"}, set(), set()),
        (4, {"action_embedding": "compositional"}, {"actions"}, {"joystick"}),
        (4, {"token_position": "none"}, {"token_position"}, set()),
        (4, {"token_position": "rows_columns"}, {"token_position"}, {"row_position", "column_position"}),
        (
            5,
            {"token_position": "rows_columns"},
            {"token_position"},
            {"row_position", "column_position", "anchor_position"},
        ),
        (1, {"code_input": "whitened"}, {"learned_codes", "code_gate"}, set()),
    ],
    ids=lambda given: "-".join(given.values()) if isinstance(given, dict) else None,
)
def test_which_parameters_a_switch_has(num_tokens: int, switches: dict, gone: set, come: set) -> None:
    _, params = tiny.make(num_tokens=num_tokens, **switches)
    assert set(params.network["dynamics"]) == DEFAULT_NAMES - gone | come
    compositional = switches.get("action_embedding") == "compositional"
    assert ("from_joystick" in params.network["transition"]) == compositional
    assert ("from_action" in params.network["transition"]) != compositional


def _dynamics(num_tokens: int, **switches: Any) -> Dynamics:
    """One that embeds only."""
    sizes = {"num_groups": 2, "num_codes": 5, "width": 8, "num_layers": 0, "num_heads": 1, "mlp_width": 8}
    kinds = {"code_input": "learned", "action_input": "sum", "action_bits": None, "token_position": "learned"}
    kinds |= {"dtype": "float32"}
    grid = (0, 0) if num_tokens == 1 else (2, num_tokens // 2)
    return Dynamics(num_tokens=num_tokens, num_actions=len(NAMES), **(sizes | kinds | {"grid": grid} | switches))


def _table(dynamics: Dynamics, method: Any) -> tuple[np.ndarray, Any]:
    variables = dynamics.init(jax.random.key(0), method=method)
    return np.asarray(dynamics.apply(variables, method=method)), variables["params"]


def test_s4_49_an_action_is_the_sum_of_its_switches() -> None:
    table, params = _table(_dynamics(1, action_bits=action_bits(NAMES)), Dynamics.action_table)
    np.testing.assert_array_equal(table[NOOP], 0)
    np.testing.assert_allclose(table[UPFIRE] - table[UP], table[RIGHTFIRE] - table[RIGHT], atol=1e-6)
    np.testing.assert_array_equal(table[UP], params["joystick"][0])
    # UP, RIGHT, LEFT, DOWN, FIRE, none yet; here no action goes DOWN, and "none yet" is like no other.
    np.testing.assert_array_equal(table[[UP, RIGHT, LEFT, NONE_YET]], params["joystick"][np.array([0, 1, 2, 5])])
    assert np.linalg.matrix_rank(table) == 5
    atomic, params = _table(_dynamics(1), Dynamics.action_table)
    np.testing.assert_array_equal(atomic, params["actions"])
    assert np.linalg.matrix_rank(atomic) == 7


def test_s4_49_the_transition_head_adds_its_switches_too() -> None:
    """The same answers as a head with a vector an action, which are the sums; NOOP's is 0."""
    bundle, params = tiny.make(num_actions=6, action_embedding="compositional")
    atomic, _ = tiny.make(num_actions=6)
    head = dict(params.network["transition"])
    up, right, left, down, fire = switches = head.pop("from_joystick")["embedding"]
    sums = jnp.stack([0 * up, up + fire, up, right + fire, right, left])
    told = params.replace(network=params.network | {"transition": head | {"from_action": {"embedding": sums}}})
    node = bundle.root(jnp.ones((6, 1, 16)), jnp.zeros((6, 1, 2), jnp.int32), max_depth=0)
    ours = bundle.outcome(params, node, jnp.arange(6), None)
    theirs = atomic.outcome(told, node, jnp.arange(6), None)
    assert switches.shape == (5, 48) and np.abs(down).max() > 0
    for name in ("reward_logits", "intrinsic_logits", "continuation_logit", "code_logits"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5)
    assert len({tuple(row) for row in np.asarray(ours.reward_logits).tolist()}) == 6


def test_s4_83_places_by_row_and_column() -> None:
    """Reading order: the step from a row to the next is the same in every column; an anchor stands apart."""
    for num_tokens in (6, 7):
        table, params = _table(_dynamics(num_tokens, token_position="rows_columns"), Dynamics.position_table)
        patches = table[-6:].reshape(2, 3, -1)
        np.testing.assert_allclose(patches[1] - patches[0], np.tile(patches[1, :1] - patches[0, :1], (3, 1)), atol=1e-6)
        np.testing.assert_allclose(patches[1, 2], params["row_position"][1] + params["column_position"][2], atol=1e-6)
        assert len({tuple(row) for row in table.tolist()}) == num_tokens
        if num_tokens == 7:
            np.testing.assert_array_equal(table[:1], params["anchor_position"])
    learned, params = _table(_dynamics(6), Dynamics.position_table)
    np.testing.assert_array_equal(learned, params["token_position"])
    np.testing.assert_array_equal(_table(_dynamics(6, token_position="none"), Dynamics.position_table)[0], 0)


@pytest.mark.parametrize("token_position", ["learned", "rows_columns", "none"])
def test_s4_83_without_places_the_tokens_order_means_nothing(token_position: str) -> None:
    bundle, params = tiny.make(num_tokens=4, token_position=token_position)
    codes = jnp.asarray(np.random.default_rng(0).integers(5, size=(1, 2, 4, 2)))
    run = jax.jit(lambda codes: bundle.context(params, codes, jnp.zeros((1, 2), int), codes[..., 0, 0] < 0, capacity=2))
    order = np.array([2, 0, 3, 1])
    gap = np.abs(run(codes)[1][:, :, order] - run(codes[:, :, order])[1]).max()
    assert gap < 1e-5 if token_position == "none" else gap > 1e-2


@pytest.mark.parametrize("num_tokens", [1, 4])
def test_s4_74_an_action_in_its_own_slot_is_seen_by_attention_only(num_tokens: int) -> None:
    """What enters a token's place is the frame's alone; the latents still know the action that led here."""
    inputs = {}
    for action_input in ("sum", "token"):
        dynamics = _dynamics(num_tokens, action_input=action_input)
        code_sum = jnp.zeros((2, num_tokens, 8))
        variables = dynamics.init(jax.random.key(0), code_sum, jnp.asarray([UP, LEFT]), method=Dynamics._embed)
        inputs[action_input] = dynamics.apply(variables, code_sum, jnp.asarray([UP, LEFT]), method=Dynamics._embed)
    assert inputs["sum"].shape == (2, num_tokens, 8) and inputs["token"].shape == (2, num_tokens + 1, 8)
    np.testing.assert_array_equal(inputs["token"][0, :num_tokens], inputs["token"][1, :num_tokens])
    assert np.abs(inputs["token"][0, num_tokens] - inputs["token"][1, num_tokens]).max() > 0.1
    summed = inputs["token"][:, :num_tokens] + inputs["token"][:, num_tokens:]
    np.testing.assert_allclose(inputs["sum"], summed, atol=1e-6)

    bundle, params = tiny.make(num_tokens=num_tokens, action_input="token")
    codes, first = jnp.zeros((2, 1, num_tokens, 2), jnp.int32), jnp.ones((2, 1), bool)
    context, latents = bundle.context(params, codes, jnp.asarray([[0], [1]]), first, capacity=1)
    assert latents.shape == (2, 1, num_tokens, 16) and context.keys[0].shape[3] == num_tokens + 1
    assert (np.abs(latents[0, 0] - latents[1, 0]).max(axis=-1) > 1e-2).all()


@pytest.mark.parametrize("code_input", ["quantised", "whitened"])
def test_s4_87_whitened_input_forgets_the_codebooks_scale_and_place(code_input: str) -> None:
    bundle, params = tiny.make(code_input=code_input)
    assert bundle.code_table(params).shape == (2, 5, 16)
    moved = params.replace(tokenizer=10.0 * params.tokenizer + 3.0)
    gap = np.abs(bundle.code_table(params) - bundle.code_table(moved)).max()
    assert gap < 1e-3 if code_input == "whitened" else gap > 1.0
    gradient = jax.grad(lambda tokenizer: bundle.code_table(params.replace(tokenizer=tokenizer)).sum())
    np.testing.assert_array_equal(gradient(params.tokenizer), 0)


def test_sizes_of_a_switch_that_has_no_names_to_read_are_refused() -> None:
    sizes = {"num_bins": 3, "width": 8, "num_layers": 1, "num_heads": 1, "mlp_width": 8, "head_width": 8}
    kinds = {"code_input": "learned", "action_input": "sum", "token_position": "learned"}
    kinds |= {"code_head": "whole", "feedback": "expected", "dtype": "float32"}
    with pytest.raises(AssertionError):
        make_world_model(
            tiny.make_tokenizer(1, 2, 5),
            num_actions=3,
            action_names=NAMES[:2],
            action_embedding="compositional",
            action_norm=1.0,
            num_outcomes=0,
            **sizes,
            **kinds,
        )
