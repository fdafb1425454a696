"""Evidence for a patch's codes: what it may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.models import patch_evidence

GRID, GROUPS, CODES, HIDDEN = (4, 5), 2, 6, 16


def inputs(seed: int, num_groups: int = 41) -> tuple[jax.Array, jax.Array]:
    """Hidden units `[3, 1, H]` and distributions over codes `[3, 1, G, V]`; one group more than the patches have."""
    hidden, logits = jax.random.split(jax.random.key(seed))
    codes = jax.nn.softmax(3.0 * jax.random.normal(logits, (3, 1, num_groups, CODES)), axis=-1)
    return jax.random.normal(hidden, (3, 1, HIDDEN)), codes


@pytest.fixture(scope="module")
def trained() -> tuple[patch_evidence.PatchEvidence, dict]:
    """A module whose every parameter is away from zero."""
    module = patch_evidence.PatchEvidence(grid=GRID, groups_a_patch=GROUPS, width=8)
    variables = module.init(jax.random.key(0), *inputs(0))
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.5 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return module, jax.tree.unflatten(structure, drawn)


def test_a_patch_depends_on_its_neighbours_only(trained: tuple) -> None:
    module, variables = trained
    hidden, codes = inputs(2)
    row, column = 1, 3
    changed = codes.at[:, :, GROUPS * (row * GRID[1] + column)].set(jnp.eye(CODES)[0])
    change = module.apply(variables, hidden, changed) - module.apply(variables, hidden, codes)
    patches = np.abs(np.asarray(change[:, 0, :40])).max(axis=(0, 2)).reshape(*GRID, GROUPS).max(axis=-1)
    near = np.zeros(GRID, bool)
    near[row - 1 : row + 2, column - 1 : column + 2] = True
    assert (patches[near] > 0).all() and (patches[~near] == 0).all()
    of_hidden = module.apply(variables, hidden + 1.0, codes) - module.apply(variables, hidden, codes)
    assert (jnp.abs(of_hidden[:, :, :40]).max(axis=(0, 1, 3)) > 0).all()


@pytest.mark.parametrize("num_groups", [40, 41, 43])
def test_groups_behind_the_patches_get_no_evidence(trained: tuple, num_groups: int) -> None:
    module, variables = trained
    hidden, codes = inputs(4, num_groups)
    evidence = module.apply(variables, hidden, codes)
    assert evidence.shape == codes.shape
    assert (jnp.abs(evidence[:, :, :40]).min(axis=-1) > 0).all() and (evidence[:, :, 40:] == 0).all()


def test_what_is_learned_in_one_place_holds_in_all(trained: tuple) -> None:
    module, variables = trained
    variables = {"params": {**variables["params"], "place": jnp.zeros((20, 8))}}
    hidden, codes = inputs(3)
    patches = codes[:, :, :40].reshape(3, *GRID, GROUPS, CODES)
    moved = codes.at[:, :, :40].set(jnp.roll(patches, (1, 1), axis=(1, 2)).reshape(3, 1, 40, CODES))
    before, after = (module.apply(variables, hidden, x)[:, 0, :40].reshape(3, *GRID, -1) for x in (codes, moved))
    np.testing.assert_allclose(before[:, 1:-2, 1:-2], after[:, 2:-1, 2:-1], rtol=1e-5, atol=1e-5)


def test_it_starts_at_zero() -> None:
    module = patch_evidence.PatchEvidence(grid=GRID, groups_a_patch=GROUPS, width=8)
    np.testing.assert_array_equal(module.apply(module.init(jax.random.key(0), *inputs(0)), *inputs(1)), 0.0)


def test_neighbourhoods_by_hand() -> None:
    patches = jnp.arange(1.0, 7.0).reshape(1, 2, 3, 1)  # 1 2 3 / 4 5 6
    got = np.asarray(patch_evidence.neighbourhoods(patches))
    np.testing.assert_array_equal(got[0, 0], [0, 0, 0, 0, 1, 2, 0, 4, 5])
    np.testing.assert_array_equal(got[0, 4], [1, 2, 3, 4, 5, 6, 0, 0, 0])
