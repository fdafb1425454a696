"""One axis of devices, `data`: environments, their rows in the replay and batches are split over it, the rest is whole.

The step is one program for all devices: XLA splits it by where its arguments lie, so that gradients, codebook and
priorities come out as on one device, up to rounding. One device is an axis of one.
"""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"

Tree = TypeVar("Tree")


def everything() -> Mesh:
    """All devices of all processes."""
    return Mesh(np.array(jax.devices()), (AXIS,))


def alone() -> Mesh:
    """This process's first device."""
    return Mesh(np.array(jax.local_devices()[:1]), (AXIS,))


def split(mesh: Mesh) -> NamedSharding:
    """Of what is split by its leading axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def whole(mesh: Mesh) -> NamedSharding:
    """Of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh, tree: Tree) -> Tree:
    """For every leaf of a batch: split, or whole where it is a scalar that all rows share."""
    return jax.tree.map(lambda leaf: split(mesh) if leaf.ndim else whole(mesh), tree)


def spread(mesh: Mesh, tree: Tree) -> Tree:
    """Within a program: splits every leaf by its leading axis."""
    return jax.lax.with_sharding_constraint(tree, by_rows(mesh, tree))


def place(mesh: Mesh, tree: Tree) -> Tree:
    """Splits what every process holds alike, by the leading axis."""
    return jax.device_put(tree, by_rows(mesh, tree))


def on_one(tree: Tree) -> Tree:
    """What is whole on every device, on this process's first one: programs of one device take it."""

    def first(leaf: Any) -> Any:
        return leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(first, tree)
