"""One axis of devices, `data`: environments, their rows in the replay and batches are split over it, the rest is whole.

The step's programs are the same for all devices: XLA splits them by where their arguments lie, so that gradients,
codebook and priorities come out as on one device, up to rounding. One device is an axis of one.
"""

import os
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"
_THREADS_A_DEVICE = 8

Tree = TypeVar("Tree")


def everything() -> Mesh:
    """All devices of all processes."""
    return Mesh(np.array(jax.devices()), (AXIS,))


def alone() -> Mesh:
    """This process's first device."""
    return Mesh(np.array(jax.local_devices()[:1]), (AXIS,))


def forced(count: int) -> dict[str, str]:
    """Environment variables of a process that takes the CPU for so many devices.

    A device's program waits in a thread for each collective that it has begun. XLA's pool has a thread a device: where
    devices begin independent collectives in different order, all threads wait and none is left to bring the others
    (eight devices on two cores: "Expected 8 threads to join the rendezvous, but only 6 of them arrived"). So the pool
    gets more threads.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": str(_THREADS_A_DEVICE * count)}


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


def rows_here(mesh: Mesh, num_rows: int) -> slice:
    """Which of a batch's rows lie on this process's devices."""
    here = [device.process_index == jax.process_index() for device in mesh.devices.flat]
    share = num_rows // mesh.size
    first = here.index(True)
    return slice(first * share, (first + sum(here)) * share)


def from_here(mesh: Mesh, tree: Tree) -> Tree:
    """Splits a batch of which each process holds the rows that will lie on its own devices."""
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(split(mesh), rows), tree)


def gathered(mesh: Mesh, tree: Tree) -> Tree:
    """The same, whole on every device; all processes call it."""
    return jax.jit(lambda x: x, out_shardings=whole(mesh))(tree)


def to_host(tree: Tree) -> Tree:
    """As NumPy arrays: of what is split over processes, the rows that lie here."""

    def fetch(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return jax.device_get(leaf)
        if leaf.is_fully_replicated:
            return jax.device_get(leaf.addressable_data(0))
        pieces = sorted(leaf.addressable_shards, key=lambda piece: piece.index[0].start or 0)
        return np.concatenate([jax.device_get(piece.data) for piece in pieces])

    return jax.tree.map(fetch, tree)


def on_one(tree: Tree) -> Tree:
    """What is whole on every device, on this process's first one: programs of one device take it."""

    def first(leaf: Any) -> Any:
        return leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(first, tree)
