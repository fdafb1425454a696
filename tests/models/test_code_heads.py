"""Heads of the next codes: what each logit may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.models import code_heads

GRID, GROUPS, CODES, HIDDEN = (4, 5), 2, 6, 16


def inputs(seed: int, num_groups: int = 41) -> tuple[jax.Array, jax.Array]:
    """Hidden units `[3, 1, H]` and distributions over codes `[3, 1, G, V]`; one group more than the patches have."""
    hidden, logits = jax.random.split(jax.random.key(seed))
    codes = jax.nn.softmax(3.0 * jax.random.normal(logits, (3, 1, num_groups, CODES)), axis=-1)
    return jax.random.normal(hidden, (3, 1, HIDDEN)), codes


@pytest.fixture(scope="module")
def trained() -> tuple[code_heads.PatchCodeHead, dict]:
    """A head whose every parameter is away from zero."""
    head = code_heads.PatchCodeHead(grid=GRID, groups_a_patch=GROUPS, width=8)
    variables = head.init(jax.random.key(0), *inputs(0))
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.5 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return head, jax.tree.unflatten(structure, drawn)


def test_a_patch_depends_on_its_neighbours_only(trained: tuple) -> None:
    head, variables = trained
    hidden, codes = inputs(2)
    row, column = 1, 3
    changed = codes.at[:, :, GROUPS * (row * GRID[1] + column)].set(jnp.eye(CODES)[0])
    change = jnp.abs(head.apply(variables, hidden, changed) - head.apply(variables, hidden, codes)).max(axis=(0, 1, 3))
    patches = np.asarray(change[:40]).reshape(*GRID, GROUPS).max(axis=-1)
    near = np.zeros(GRID, bool)
    near[row - 1 : row + 2, column - 1 : column + 2] = True
    assert (patches[near] > 0).all() and (patches[~near] == 0).all()
    assert change[40] == 0.0  # the group behind the patches
    of_hidden = head.apply(variables, hidden + 1.0, codes) - head.apply(variables, hidden, codes)
    assert (jnp.abs(of_hidden).max(axis=(0, 1, 3)) > 0).all()


def test_what_is_learned_in_one_place_holds_in_all(trained: tuple) -> None:
    head, variables = trained
    variables = {"params": {**variables["params"], "place": jnp.zeros((20, 8))}}
    hidden, codes = inputs(3)
    patches = codes[:, :, :40].reshape(3, *GRID, GROUPS, CODES)
    moved = codes.at[:, :, :40].set(jnp.roll(patches, (1, 1), axis=(1, 2)).reshape(3, 1, 40, CODES))
    before, after = (head.apply(variables, hidden, x)[:, 0, :40].reshape(3, *GRID, -1) for x in (codes, moved))
    np.testing.assert_allclose(before[:, 1:-2, 1:-2], after[:, 2:-1, 2:-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_groups", [40, 41, 43])
def test_both_heads_give_every_group_and_keep_its_code_at_first(num_groups: int) -> None:
    hidden, codes = inputs(4, num_groups)
    codes = jax.nn.one_hot(codes.argmax(axis=-1), CODES)
    patch_head = code_heads.PatchCodeHead(grid=GRID, groups_a_patch=GROUPS, width=8)
    for head in (code_heads.WholeCodeHead(num_groups, CODES), patch_head):
        logits = head.apply(head.init(jax.random.key(5), hidden, codes), hidden, codes)
        assert logits.shape == codes.shape
        np.testing.assert_array_equal(logits.argmax(axis=-1), codes.argmax(axis=-1))


def test_neighbourhoods_by_hand() -> None:
    patches = jnp.arange(1.0, 7.0).reshape(1, 2, 3, 1)  # 1 2 3 / 4 5 6
    got = np.asarray(code_heads.neighbourhoods(patches))
    np.testing.assert_array_equal(got[0, 0], [0, 0, 0, 0, 1, 2, 0, 4, 5])
    np.testing.assert_array_equal(got[0, 4], [1, 2, 3, 4, 5, 6, 0, 0, 0])
