"""The replay: a ring of transitions on the device, as pure functions.

Rows are `[E, C, ...]`: E environments, C rows of each. Every observation is stored once,
as uint8, about 7.1 kB a row for a 84x84x1 frame; windows share rows. `add` writes one chunk of T rows in
place when the state is donated; C is a multiple of T, so a chunk never wraps. Nothing here
copies the ring: time and memory of a call depend on the batch and, for the sum tree, on
the logarithm of the capacity.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from learnmax_jax.replay import sampling, sum_tree
from learnmax_jax.types import Array, Batch, SequenceIndex, Transition

KINDS = ("uniform", "prioritised")
# Diversity of the tokenizer's stream: one frame is kept of this many candidates.
CANDIDATES_PER_OBSERVATION = 4


@struct.dataclass
class ReplayState:
    """The stored rows and what has been said of them.

    Attributes:
      rows: Transition `[E, C, ...]`; zeros where nothing was added yet.
      num_added: int32, rows ever added for each environment; the row of absolute time t
        stands at t % C.
      tree: `[2 n]` float32 sum tree over row e * C + t % C, of priority ** priority_exponent;
        0 where a row is no transition. None for uniform sampling.
      max_weight: float32, the largest value that was ever in a leaf, at least 1.
    """

    rows: Transition
    num_added: Array
    tree: Array | None
    max_weight: Array


@dataclasses.dataclass(frozen=True)
class Replay:
    """A replay's pure functions, all to be called inside a compiled step.

    Attributes:
      num_envs: E.
      num_slots: C, rows of each environment.
      chunk_length: T.
      init: example Transition `[E, ...]` (arrays or shapes) -> state.
      add: (state, Transition `[E, T, ...]`) -> state; in place if the state is donated.
      can_sample: state -> bool `[]`; before that, what `sample` returns means nothing.
      sample: (state, rng_key) -> Batch.
      sample_observations: (state, rng_key, weight, num_observations) -> uint8 `[M, H, W, C]`.
      update_priorities: (state, SequenceIndex, priorities `[B, L]`, real `[B, L]`) -> state.
    """

    num_envs: int
    num_slots: int
    chunk_length: int
    init: Callable[[Transition], ReplayState]
    add: Callable[[ReplayState, Transition], ReplayState]
    can_sample: Callable[[ReplayState], Array]
    sample: Callable[[ReplayState, Array], Batch]
    sample_observations: Callable[[ReplayState, Array, Callable[[Array], Array], int], Array]
    update_priorities: Callable[[ReplayState, SequenceIndex, Array, Array], ReplayState]


def make_replay(
    *,
    kind: str,
    num_envs: int,
    capacity: int,
    chunk_length: int,
    min_size: int,
    batch_size: int,
    sequence_length: int,
    priority_exponent: float,
    importance_exponent: float,
) -> Replay:
    """Checks the numbers and binds the replay's functions to them.

    Args:
      kind: "uniform" | "prioritised".
      num_envs: E.
      capacity: rows in all; a multiple of num_envs * chunk_length.
      chunk_length: T, rows that one `add` brings for each environment.
      min_size: rows in all before sampling starts.
      batch_size: B.
      sequence_length: L, transitions of a window; a window has L + 1 rows.
      priority_exponent: alpha of P(i) ~ p_i^alpha; read by "prioritised" only.
      importance_exponent: beta of the weights (N P(i))^-beta; read by "prioritised" only.
    Raises:
      ValueError: a number out of its range, or a capacity that cannot hold one window.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: unknown. Allowed: {', '.join(KINDS)}. Nearest: {_nearest(kind)}")
    positive = {"num_envs": num_envs, "chunk_length": chunk_length, "batch_size": batch_size}
    for name, value in (positive | {"sequence_length": sequence_length}).items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be positive. Allowed: [1, inf). Nearest: 1")
    for name, exponent in (("priority_exponent", priority_exponent), ("importance_exponent", importance_exponent)):
        if not 0 <= exponent <= 1:
            raise ValueError(f"{name}={exponent}: out of range. Allowed: [0, 1]. Nearest: {0 if exponent < 0 else 1}")
    chunk = num_envs * chunk_length
    smallest = chunk * -(-(sequence_length + 1) // chunk_length)
    if capacity < smallest:
        raise ValueError(
            f"capacity={capacity}: {num_envs} environments cannot hold one window of sequence_length + 1 = "
            f"{sequence_length + 1} rows each. Allowed: [{smallest}, 2**31). Nearest: {smallest}"
        )
    if capacity % chunk or capacity >= 2**31:
        nearest = min(round(capacity / chunk), (2**31 - 1) // chunk) * chunk
        raise ValueError(
            f"capacity={capacity}: must be whole chunks and an int32. Allowed: multiples of "
            f"num_envs * chunk_length = {chunk} below 2**31. Nearest: {nearest}"
        )
    if not 0 <= min_size <= capacity:
        nearest = min(max(min_size, 0), capacity)
        raise ValueError(f"min_size={min_size}: must fit the capacity. Allowed: [0, {capacity}]. Nearest: {nearest}")
    num_slots = capacity // num_envs
    return Replay(
        num_envs=num_envs,
        num_slots=num_slots,
        chunk_length=chunk_length,
        init=partial(init, num_slots=num_slots, prioritised=kind == "prioritised"),
        add=partial(add, chunk_length=chunk_length),
        can_sample=partial(can_sample, min_size=min_size, sequence_length=sequence_length),
        sample=partial(
            sample,
            batch_size=batch_size,
            sequence_length=sequence_length,
            importance_exponent=importance_exponent,
        ),
        sample_observations=sample_observations,
        update_priorities=partial(update_priorities, priority_exponent=priority_exponent),
    )


def bytes_per_row(example: Transition) -> int:
    """Counts the bytes of one stored row.

    Args:
      example: Transition `[E, ...]`, arrays or `jax.ShapeDtypeStruct`.
    """
    return sum(int(np.prod(leaf.shape[1:])) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(example))


def init(example: Transition, *, num_slots: int, prioritised: bool) -> ReplayState:
    """Allocates an empty ring for rows like `example` `[E, ...]`."""
    num_envs = example.action.shape[0]
    return ReplayState(
        rows=jax.tree.map(lambda x: jnp.zeros((num_envs, num_slots, *x.shape[1:]), x.dtype), example),
        num_added=jnp.zeros((), jnp.int32),
        tree=sum_tree.init(num_envs * num_slots) if prioritised else None,
        max_weight=jnp.ones(()),
    )


def add(state: ReplayState, rows: Transition, *, chunk_length: int) -> ReplayState:
    """Writes the next T rows of every environment over the oldest ones.

    Args:
      state: ReplayState; donate it, or the ring is copied.
      rows: Transition `[E, T, ...]`, the rows that follow those added last.
      chunk_length: T.
    Returns:
      The state. New transitions have the greatest priority so far.
    Raises:
      AssertionError (tracing): shapes or dtypes other than the ring's.
    """
    num_envs, num_slots = state.rows.action.shape
    chex.assert_shape(rows.action, (num_envs, chunk_length))
    for ring, chunk in zip(jax.tree.leaves(state.rows), jax.tree.leaves(rows), strict=True):
        chex.assert_shape(chunk, (num_envs, chunk_length, *ring.shape[2:]))
        chex.assert_type(chunk, ring.dtype)
    slot = state.num_added % num_slots
    new = jax.tree.map(
        lambda ring, chunk: jax.lax.dynamic_update_slice_in_dim(ring, chunk, slot, axis=1), state.rows, rows
    )
    tree = None if state.tree is None else _add_priorities(state, state.tree, rows)
    return state.replace(rows=new, num_added=state.num_added + chunk_length, tree=tree)


def can_sample(state: ReplayState, *, min_size: int, sequence_length: int) -> Array:
    """Says whether min_size rows in all, and one window of each environment, are stored."""
    num_envs, num_slots = state.rows.action.shape
    num_stored = jnp.minimum(state.num_added, num_slots)
    return (num_stored * num_envs >= min_size) & (num_stored > sequence_length)


def sample(
    state: ReplayState, rng_key: Array, *, batch_size: int, sequence_length: int, importance_exponent: float
) -> Batch:
    """Draws B windows of L + 1 rows, each within one episode.

    Args:
      state: ReplayState for which `can_sample` holds.
      rng_key: consumed.
      batch_size: B.
      sequence_length: L.
      importance_exponent: see `make_replay`.
    Returns:
      Batch. Anchors are uniform over the stored transitions (see sampling.draw_anchors for the
      one bias) or proportional to priority; a window's place around its anchor is uniform
      where its episode leaves room. Weights are divided by the batch's largest.
    Source: Schaul et al. 2016, https://arxiv.org/abs/1511.05952
    """
    rows, num_slots = state.rows, state.rows.action.shape[1]
    anchor_key, offset_key = jax.random.split(rng_key)
    if state.tree is None:
        environment, anchor = sampling.draw_anchors(rows, state.num_added, anchor_key, batch_size)
        weights = jnp.ones(batch_size)
    else:
        leaf = sum_tree.sample(state.tree, anchor_key, batch_size)
        leaf = jnp.minimum(leaf, rows.action.size - 1)
        environment, slot = leaf // num_slots, leaf % num_slots
        # The one stored time that stands at this slot.
        anchor = state.num_added - 1 - (state.num_added - 1 - slot) % num_slots
        weights = _importance_weights(sum_tree.get(state.tree, leaf), importance_exponent)
    offset = jax.random.randint(offset_key, (batch_size,), 0, sequence_length)
    index, end = sampling.place_windows(rows, state.num_added, environment, anchor, offset, sequence_length)
    window, mask = sampling.gather_windows(rows, index, end, sequence_length)
    return Batch(rows=window, mask=mask, weights=weights, index=index)


def sample_observations(
    state: ReplayState, rng_key: Array, weight: Callable[[Array], Array], num_observations: int
) -> Array:
    """Draws single frames, the rarer the likelier: the tokenizer's own stream.

    Of 4 M candidates, uniform over all stored rows, M are kept without replacement in
    proportion to their weight (Gumbel-top-k); only these frames are gathered.

    Args:
      state: ReplayState with at least one row.
      rng_key: consumed.
      weight: novelty keys `[4 M, 2]` uint32 -> `[4 M]` float32 above 0.
      num_observations: M.
    Returns:
      uint8 `[M, H, W, C]`.
    Source: Efraimidis & Spirakis 2006; Kool et al. 2019, https://arxiv.org/abs/1903.06059
    """
    num_candidates = CANDIDATES_PER_OBSERVATION * num_observations
    draw_key, gumbel_key = jax.random.split(rng_key)
    environment, time = sampling.draw_observations(state.rows, state.num_added, draw_key, num_candidates)
    weights = weight(sampling.take(state.rows.novelty_key, environment, time))
    chex.assert_shape(weights, (num_candidates,))
    _, kept = jax.lax.top_k(jnp.log(weights) + jax.random.gumbel(gumbel_key, weights.shape), num_observations)
    return sampling.take(state.rows.observation, environment[kept], time[kept])


def update_priorities(
    state: ReplayState, index: SequenceIndex, priorities: Array, real: Array, *, priority_exponent: float
) -> ReplayState:
    """Gives every transition of the sampled windows a new priority; without effect for uniform sampling.

    All of a window's errors are known once it was learned from. Anchors alone would leave most rows at the
    priority they came with: a window has L rows, and few windows are drawn for each row that is added.

    Args:
      state: ReplayState, perhaps with rows added since the batch was drawn.
      index: SequenceIndex of a batch.
      priorities: `[B, L]` float32, not negative, of rows start .. start + L - 1. One that is not finite is left
        out, so that a single NaN cannot spoil the tree; so is one whose row was overwritten meanwhile.
      real: `[B, L]` bool, the row is a transition: `rows.valid` of the batch. Others are left out.
      priority_exponent: see `make_replay`.
    Returns:
      The state.
    """
    if state.tree is None:
        return state
    chex.assert_equal_shape([priorities, real])
    num_slots = state.rows.action.shape[1]
    oldest, newest = sampling.stored_span(state.num_added, num_slots)
    time = index.start[:, None] + jnp.arange(priorities.shape[1])[None, :]
    keep = real & (time >= oldest) & (time < newest) & jnp.isfinite(priorities)
    weight = jnp.where(keep, jnp.maximum(priorities, 0.0), 0.0) ** priority_exponent
    leaf = index.environment[:, None] * num_slots + time % num_slots
    tree = sum_tree.update(state.tree, leaf.ravel(), weight.ravel(), keep.ravel())
    return state.replace(tree=tree, max_weight=jnp.maximum(state.max_weight, jnp.max(jnp.where(keep, weight, 0.0))))


def _add_priorities(state: ReplayState, tree: Array, rows: Transition) -> Array:
    """Makes drawable every transition whose next observation the new chunk brings, and no other."""
    num_envs, num_slots = state.rows.action.shape
    chunk_length = rows.action.shape[1]
    # The row before the chunk could not be drawn until now; the chunk's own newest row still cannot.
    time = state.num_added - 1 + jnp.arange(chunk_length + 1)
    # In a ring of one chunk that row is overwritten.
    before = state.rows.valid[:, (state.num_added - 1) % num_slots]
    before = before & (state.num_added > 0) & (num_slots > chunk_length)
    valid = jnp.concatenate([before[:, None], rows.valid[:, :-1]], axis=1) & ~rows.first
    valid = jnp.concatenate([valid, jnp.zeros_like(before)[:, None]], axis=1)
    leaf = jnp.arange(num_envs)[:, None] * num_slots + (time % num_slots)[None, :]
    weight = jnp.where(valid, state.max_weight, 0.0)
    return sum_tree.update(tree, leaf.ravel(), weight.ravel(), jnp.ones(leaf.size, bool))


def _importance_weights(leaf_weight: Array, importance_exponent: float) -> Array:
    """Computes (N P(i))^-beta over the batch's largest; N and the total cancel."""
    drawable = leaf_weight > 0
    smallest = jnp.min(jnp.where(drawable, leaf_weight, jnp.inf))
    ratio = jnp.where(drawable, smallest, 0.0) / jnp.where(drawable, leaf_weight, 1.0)
    return jnp.where(drawable, ratio**importance_exponent, 0.0)


def _nearest(kind: str) -> str:
    """Names the known kind that shares most letters with `kind`."""
    return max(KINDS, key=lambda known: len(set(known) & set(kind)))
