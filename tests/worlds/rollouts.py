"""Playing a world: what the tests of all worlds share."""

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax.types import Environments, TimeStep


def play(environments: Environments, rng_key: jax.Array, actions: np.ndarray) -> TimeStep:
    """The reset's answer and those of the steps, `[1 + T, B, ...]`, from one compiled scan."""
    state, start = environments.reset(rng_key)
    _, steps = jax.jit(lambda state: jax.lax.scan(environments.step, state, jnp.asarray(actions)))(state)
    return jax.tree.map(lambda first, rest: np.concatenate([first[None], rest]), start, steps)


def draw_actions(num_steps: int, num_envs: int, num_actions: int) -> np.ndarray:
    """Uniform actions `[T, B]` int32, always the same."""
    return np.random.default_rng(0).integers(0, num_actions, (num_steps, num_envs)).astype(np.int32)


def assert_same(a: TimeStep, b: TimeStep) -> None:
    """Every field to the bit."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_continues_from_saved_state(environments: Environments, rng_key: jax.Array, actions: np.ndarray) -> None:
    """Half the steps, the state through numpy and back, the other half: as if nothing had been."""
    half = len(actions) // 2
    run = jax.jit(lambda state, actions: jax.lax.scan(environments.step, state, actions))
    middle, _ = run(environments.reset(rng_key)[0], jnp.asarray(actions[:half]))

    def is_key(leaf: jax.Array) -> bool:
        return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))

    keys = [is_key(leaf) for leaf in jax.tree.leaves(middle)]
    saved = [np.array(jax.random.key_data(x) if key else x) for x, key in zip(jax.tree.leaves(middle), keys)]
    back = [jax.random.wrap_key_data(jnp.asarray(x)) if key else jnp.asarray(x) for x, key in zip(saved, keys)]
    _, continued = run(jax.tree.unflatten(jax.tree.structure(middle), back), jnp.asarray(actions[half:]))
    whole = play(environments, rng_key, actions)
    assert environments.restorable
    assert_same(jax.tree.map(lambda x: x[1 + half :], whole), jax.device_get(continued))
