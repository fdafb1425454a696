"""A sum tree on the device: draws leaves in proportion to their weight in O(log n).

The tree is one float32 array `[2 n]` in heap layout, n a power of two: node 1 is the
root, node i has the children 2i and 2i + 1, leaf j is node n + j. Node 0 is a bin for
writes that are to be dropped and always holds 0. Parents are recomputed from their
children, never incremented, so rounding errors do not gather however long a run is.
"""

import chex
import jax
import jax.numpy as jnp

from learnmax_jax.types import Array


def init(num_leaves: int) -> Array:
    """Makes an empty tree with room for `num_leaves` leaves, rounded up to a power of two."""
    return jnp.zeros(2 * (1 << max(num_leaves - 1, 0).bit_length()), jnp.float32)


def total(tree: Array) -> Array:
    """Sums all leaves."""
    return tree[1]


def get(tree: Array, leaf: Array) -> Array:
    """Reads the weights of `leaf` `[B]`."""
    return tree[tree.shape[0] // 2 + leaf]


def update(tree: Array, leaf: Array, weight: Array, keep: Array) -> Array:
    """Sets leaves and mends the sums above them, all of one batch at once.

    A leaf that stands twice in the batch takes the larger weight, so that the result does
    not depend on the order in which a device scatters.

    Args:
      tree: `[2 n]` float32.
      leaf: `[B]` int32 in [0, n).
      weight: `[B]` float32, finite and not negative.
      keep: `[B]` bool; where False nothing is written.
    Returns:
      `[2 n]` float32.
    """
    chex.assert_rank([tree, leaf, weight, keep], 1)
    chex.assert_equal_shape([leaf, weight, keep])
    node = jnp.where(keep, tree.shape[0] // 2 + leaf, 0)
    tree = tree.at[node].set(0.0).at[node].max(jnp.where(keep, weight, 0.0))

    def mend(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        tree, node = carry
        node = node // 2
        children = tree[2 * node] + tree[2 * node + 1]
        return tree.at[node].set(jnp.where(node > 0, children, 0.0)), node

    return jax.lax.fori_loop(0, _num_levels(tree), mend, (tree, node))[0]


def sample(tree: Array, rng_key: Array, num_samples: int) -> Array:
    """Draws leaves with replacement, each with probability weight / total.

    Every level has a uniform number of its own: one number for the whole way down would
    resolve probabilities only to 2^-23 of the total, too coarse for a million leaves. A
    leaf of weight 0 is never drawn while any other weight is positive.

    Args:
      tree: `[2 n]` float32 with a positive total.
      rng_key: consumed.
      num_samples: S.
    Returns:
      `[S]` int32 leaves.
    """
    num_levels = _num_levels(tree)
    uniform = jax.random.uniform(rng_key, (num_levels, num_samples))

    def descend(level: Array, node: Array) -> Array:
        left, right = tree[2 * node], tree[2 * node + 1]
        return 2 * node + (uniform[level] * (left + right) >= left).astype(jnp.int32)

    node = jax.lax.fori_loop(0, num_levels, descend, jnp.ones(num_samples, jnp.int32))
    return node - tree.shape[0] // 2


def _num_levels(tree: Array) -> int:
    """Counts the steps from a leaf to the root."""
    return (tree.shape[0] // 2).bit_length() - 1
