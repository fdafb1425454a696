"""Visit counts of hashed observations: exact, on the device, and the novelty reward they pay.

An observation is known by a key of two 32-bit words, a frozen hash of the down-sampled,
coarsely quantised frame (`keys`), so that a key means the same for as long as a run and its
replay last. A lifetime table counts every key; a small table per environment tells whether
a key is new in its episode. The reward is

    first_visit / sqrt(max(n, 1))

Both are open-addressing tables whose size is fixed: nothing is ever moved or removed, a key
probes at most `MAX_PROBES` slots, and a key that finds no slot is not stored. The lifetime
table then knows it as `COUNT_DROPPED`, pays nothing for it and counts the observation in
`num_dropped`; the episodic table takes it for visited. Either way a full table makes play
less curious, never falsely so.

The key (0, 0) is no observation: `keys` never makes it, and it is never stored or paid for.
A caller masks a row by passing it.

Counts learn nothing by gradient, so there is no `loss` here.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from learnmax_jax.exploration.kind import Kind, Paid, Parts
from learnmax_jax.types import Array, Batch, Metrics

# At load 0.9 one new key in a thousand finds no slot in 64 probes (0.9^64), at 0.8 one in a million.
MAX_PROBES = 64
COUNT_DROPPED = -1

_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio: the usual increment of a Weyl sequence


@struct.dataclass
class CountState:
    """The tables, B environments; donate it through jit, it is updated in place.

    Attributes:
      table_keys: `[table_size, 2]` uint32, (0, 0) where a slot is empty.
      table_counts: `[table_size]` int32, visits, 0 where a slot is empty.
      num_keys: `[]` int32, slots in use.
      num_dropped: `[]` int32, observations that found no slot.
      episodic_keys: `[B, episodic_table_size, 2]` uint32.
      episodic_stamps: `[B, episodic_table_size]` int32, the episode that wrote the slot; any other means empty.
      episode: `[B]` int32, from 1, so that a fresh table is empty.
      num_episodic_keys: `[B]` int32, slots in use in this episode.
      num_episodic_dropped: `[]` int32, observations taken for visited because no slot was left.
    """

    table_keys: Array
    table_counts: Array
    num_keys: Array
    num_dropped: Array
    episodic_keys: Array
    episodic_stamps: Array
    episode: Array
    num_episodic_keys: Array
    num_episodic_dropped: Array


def make(
    parts: Parts,
    *,
    table_size: int,
    episodic_table_size: int,
    grid_height: int,
    grid_width: int,
    num_levels: int,
) -> Kind:
    """The kind `counts`: arguments as of `init` and `keys`."""
    sizes = {"grid_height": grid_height, "grid_width": grid_width, "num_levels": num_levels}

    def start(rng_key: Array) -> CountState:
        del rng_key
        return init(num_envs=parts.num_envs, table_size=table_size, episodic_table_size=episodic_table_size)

    def see(state: CountState, observation: Array, first: Array, reward: Array) -> tuple[CountState, Array, Array]:
        del reward
        key = keys(observation, **sizes)
        state, first_visit = observe(state, key, first)
        return state, key, first_visit

    def pay(state: CountState, params: Any, batch: Batch, rng_key: Array) -> Paid:
        del params, rng_key
        return Paid(state, bonus(state, batch.rows.novelty_key, batch.rows.first_visit), None, {})

    return Kind(init=start, pay=pay, observe=see, rarity=rarity, metrics=metrics)


def init(*, num_envs: int, table_size: int, episodic_table_size: int) -> CountState:
    """Empty tables.

    Args:
      num_envs: B.
      table_size: slots of the lifetime table, 12 bytes each; a power of two. Keep its load under 0.8.
      episodic_table_size: slots per environment, 12 bytes each; a power of two, more than the different keys of an
        episode.
    Returns:
      CountState.
    Raises:
      ValueError: a size that is no power of two, or no environment.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs={num_envs}: nobody to count for. Allowed: >= 1. Nearest: 1")
    for name, size in (("table_size", table_size), ("episodic_table_size", episodic_table_size)):
        if size < 2 or size & (size - 1) or size > 2**30:
            nearest = 2 ** min(max(round(np.log2(max(size, 1))), 1), 30)
            raise ValueError(f"{name}={size}: slots are masked out of a hash. Allowed: 2^1..2^30. Nearest: {nearest}")
    return CountState(
        table_keys=jnp.zeros((table_size, 2), jnp.uint32),
        table_counts=jnp.zeros(table_size, jnp.int32),
        num_keys=jnp.zeros((), jnp.int32),
        num_dropped=jnp.zeros((), jnp.int32),
        episodic_keys=jnp.zeros((num_envs, episodic_table_size, 2), jnp.uint32),
        episodic_stamps=jnp.zeros((num_envs, episodic_table_size), jnp.int32),
        episode=jnp.ones(num_envs, jnp.int32),
        num_episodic_keys=jnp.zeros(num_envs, jnp.int32),
        num_episodic_dropped=jnp.zeros((), jnp.int32),
    )


def cells(observation: Array, *, grid_height: int, grid_width: int, num_levels: int) -> Array:
    """A frame's coarse picture, in whole numbers.

    The frame is averaged over a grid (pixels on a border are shared in proportion) and each cell is cut into
    `num_levels` equal steps of 0..255. All of it is exact integer arithmetic, so that the picture depends on nothing
    but the frame: not on device, batch or position in it.

    Args:
      observation: `[B, H, W, C]` uint8; channels are kept apart.
      grid_height, grid_width: cells; at most H and W. Too coarse a grid runs dry, too fine a one never repeats.
      num_levels: 2 to 256; 256 with a grid of H x W keeps the frame as it is.
    Returns:
      `[B, cells]` uint32 below `num_levels`.
    Raises:
      ValueError: a grid finer than the frame, or num_levels out of range. AssertionError (tracing): rank, dtype.
    Source: Ecoffet et al. 2021 (the down-sampled cell), https://arxiv.org/abs/2004.12919
    """
    chex.assert_rank(observation, 4)
    chex.assert_type(observation, jnp.uint8)
    _, height, width, _ = observation.shape
    if not 2 <= num_levels <= 256:
        nearest = min(max(num_levels, 2), 256)
        raise ValueError(f"num_levels={num_levels}: a pixel has 256 greys. Allowed: 2..256. Nearest: {nearest}")

    # Weights are whole numbers and every sum stays under 2^24: float32 holds it exactly, in any order.
    chex.assert_scalar_in(255 * height * width, 0, 2**24)
    sums = area_sums(observation.astype(jnp.float32), grid_height=grid_height, grid_width=grid_width)
    levels = (sums.astype(jnp.uint32) * num_levels) // (256 * height * width)
    return levels.reshape(levels.shape[0], -1)


def area_sums(frames: Array, *, grid_height: int, grid_width: int) -> Array:
    """H * W times the mean over each cell of `frames [B, H, W, C]` float32: `[B, grid_height, grid_width, C]`.

    Raises:
      ValueError: a grid finer than the frame.
    """
    _, height, width, _ = frames.shape
    for name, given, pixels in (("grid_height", grid_height, height), ("grid_width", grid_width, width)):
        if not 1 <= given <= pixels:
            nearest = min(max(given, 1), pixels)
            raise ValueError(f"{name}={given}: the frame has {pixels} pixels. Allowed: 1..{pixels}. Nearest: {nearest}")
    rows, columns = jnp.asarray(_area_weights(height, grid_height)), jnp.asarray(_area_weights(width, grid_width))
    return jnp.einsum("ih,bhwc,jw->bijc", rows, frames, columns, precision=jax.lax.Precision.HIGHEST)


def keys(observation: Array, *, grid_height: int, grid_width: int, num_levels: int) -> Array:
    """What the counts know a frame by: its `cells`, hashed by two frozen sets of odd multipliers.

    Args:
      observation, grid_height, grid_width, num_levels: as of `cells`.
    Returns:
      `[B, 2]` uint32, never (0, 0).
    """
    return hash_cells(cells(observation, grid_height=grid_height, grid_width=grid_width, num_levels=num_levels))


def hash_cells(flat: Array) -> Array:
    """Keys of rows of whole numbers: `[B, cells]` uint32 to `[B, 2]` uint32, never (0, 0)."""
    flat = flat + 1  # a black cell counts as well
    multipliers = jnp.asarray(_multipliers(flat.shape[1]))
    words = _mix(jnp.sum(flat[:, :, None] * multipliers[None], axis=1, dtype=jnp.uint32))
    return words.at[:, 1].set(jnp.where((words == 0).all(axis=-1), 1, words[:, 1]))


def observe(state: CountState, keys: Array, first: Array) -> tuple[CountState, Array]:
    """Counts one observation of every environment.

    Args:
      state: CountState; donate it.
      keys: `[B, 2]` uint32; equal keys in one batch each count.
      first: `[B]` bool, the observation is an episode's first frame: the episodic table starts anew.
    Returns:
      (state, first_visit `[B]` bool: the key was new in its episode).
    """
    num_envs = state.episode.shape[0]
    chex.assert_shape(keys, (num_envs, 2))
    chex.assert_type(keys, jnp.uint32)
    chex.assert_shape(first, (num_envs,))
    return _visit_episode(_count(state, keys), keys, first)


def counts(state: CountState, keys: Array) -> Array:
    """How often each key was observed, over all environments and the whole run.

    Args:
      state: CountState.
      keys: `[..., 2]` uint32.
    Returns:
      `[...]` int32; 0 where never observed, `COUNT_DROPPED` where the table has no slot for the key.
    """
    chex.assert_axis_dimension(keys, -1, 2)
    chex.assert_type(keys, jnp.uint32)
    flat = keys.reshape(-1, 2)
    start, stride = _probe_sequence(flat, state.table_counts.shape[0])
    mask = state.table_counts.shape[0] - 1

    def probe(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        attempt, pending, found = carry
        slot = (start + attempt * stride) & mask
        stored = state.table_keys[slot]
        match = (stored == flat).all(axis=-1)
        empty = (stored == 0).all(axis=-1)
        found = jnp.where(pending & match, state.table_counts[slot], jnp.where(pending & empty, 0, found))
        return attempt + 1, pending & ~(match | empty), found

    def searching(carry: tuple[Array, Array, Array]) -> Array:
        attempt, pending, _ = carry
        return (attempt < min(MAX_PROBES, mask + 1)) & pending.any()

    pending = (flat != 0).any(axis=-1)
    found = jnp.where(pending, COUNT_DROPPED, 0)
    _, _, found = jax.lax.while_loop(searching, probe, (jnp.zeros((), jnp.int32), pending, found))
    return found.reshape(keys.shape[:-1])


def bonus(state: CountState, keys: Array, first_visit: Array) -> Array:
    """The novelty reward of observations, by today's counts.

    Args:
      state: CountState.
      keys: `[..., 2]` uint32.
      first_visit: `[...]` bool, the key was new in its episode when it was observed.
    Returns:
      `[...]` float32 in [0, 1]: first_visit / sqrt(max(n, 1)), and 0 for a key that the table has no slot for.
    Source: Strehl and Littman 2008 (MBIE-EB); the gate per episode: Zhang et al. 2021, https://arxiv.org/abs/2012.08621
    """
    chex.assert_equal_shape_prefix([keys, first_visit], first_visit.ndim)
    visits = counts(state, keys)
    paid = first_visit & (visits != COUNT_DROPPED) & (keys != 0).any(axis=-1)
    return jnp.where(paid, jax.lax.rsqrt(jnp.maximum(visits, 1).astype(jnp.float32)), 0.0)


def rarity(state: CountState, keys: Array) -> Array:
    """How eagerly the tokenizer takes a frame: 1 / sqrt(n) of its key `[..., 2]`.

    What is not counted, for want of a key or of a slot, is as rare as the others are on average.
    """
    visits = counts(state, keys)
    counted = visits > 0
    weight = jax.lax.rsqrt(jnp.maximum(visits, 1).astype(jnp.float32))
    typical = jnp.where(counted, weight, 0.0).sum() / jnp.maximum(counted.sum(), 1)
    return jnp.where(counted, weight, jnp.where(counted.any(), typical, 1.0))


def metrics(state: CountState) -> Metrics:
    """Scalars to log; a `table_load` above 0.8 asks for a larger table."""
    return {
        "table_load": state.num_keys / state.table_counts.shape[0],
        "num_keys": state.num_keys,
        "num_dropped": state.num_dropped,
        "episodic_load_max": state.num_episodic_keys.max() / state.episodic_stamps.shape[1],
        "num_episodic_dropped": state.num_episodic_dropped,
    }


def _count(state: CountState, keys: Array) -> CountState:
    """Adds a batch of keys to the lifetime table, all keys probing in step."""
    num_slots = state.table_counts.shape[0]
    batch = keys.shape[0]
    unique_keys, visits = _unique_with_counts(keys)
    start, stride = _probe_sequence(unique_keys, num_slots)
    lane = jnp.arange(batch, dtype=jnp.int32)
    # A lane that writes nothing writes past the end, where it is dropped.
    nowhere = num_slots + lane

    def probe(carry: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array]:
        attempt, pending, table_keys, table_counts, num_keys = carry
        slot = (start + attempt * stride) & (num_slots - 1)
        stored = table_keys[slot]
        match = pending & (stored == unique_keys).all(axis=-1)
        empty = pending & (stored == 0).all(axis=-1)
        # Two keys may want one empty slot, and writing two words is not atomic. Its count, 0 so far, is the lock: the
        # lowest lane leaves its mark, the others read it and probe on. A minimum does not depend on the order.
        claim = -1 - lane
        table_counts = table_counts.at[jnp.where(empty, slot, nowhere)].min(claim, mode="drop")
        seen = table_counts[slot]
        won = empty & (seen == claim)
        done = match | won
        target = jnp.where(done, slot, nowhere)
        table_counts = table_counts.at[target].set(jnp.where(won, 0, seen) + visits, mode="drop", unique_indices=True)
        target = jnp.where(won, slot, nowhere)
        table_keys = table_keys.at[target].set(unique_keys, mode="drop", unique_indices=True)
        return attempt + 1, pending & ~done, table_keys, table_counts, num_keys + won.sum(dtype=jnp.int32)

    def searching(carry: tuple[Array, ...]) -> Array:
        return (carry[0] < min(MAX_PROBES, num_slots)) & carry[1].any()

    carry = (jnp.zeros((), jnp.int32), visits > 0, state.table_keys, state.table_counts, state.num_keys)
    _, pending, table_keys, table_counts, num_keys = jax.lax.while_loop(searching, probe, carry)
    return state.replace(
        table_keys=table_keys,
        table_counts=table_counts,
        num_keys=num_keys,
        num_dropped=state.num_dropped + jnp.where(pending, visits, 0).sum(dtype=jnp.int32),
    )


def _visit_episode(state: CountState, keys: Array, first: Array) -> tuple[CountState, Array]:
    """Marks each key in its own environment's table; no two lanes share one, so nothing is contended."""
    batch, num_slots = state.episodic_stamps.shape
    episode = state.episode + first
    start, stride = _probe_sequence(keys, num_slots)
    lane = jnp.arange(batch)

    def probe(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        attempt, pending, empty, slot = carry
        here = (start + attempt * stride) & (num_slots - 1)
        used = state.episodic_stamps[lane, here] == episode
        match = used & (state.episodic_keys[lane, here] == keys).all(axis=-1)
        slot = jnp.where(pending, here, slot)
        return attempt + 1, pending & used & ~match, jnp.where(pending, ~used, empty), slot

    def searching(carry: tuple[Array, ...]) -> Array:
        return (carry[0] < min(MAX_PROBES, num_slots)) & carry[1].any()

    carry = (jnp.zeros((), jnp.int32), (keys != 0).any(axis=-1), jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32))
    _, full, first_visit, slot = jax.lax.while_loop(searching, probe, carry)
    target = jnp.where(first_visit, slot, num_slots)
    indices = state.episodic_keys.at[lane, target], state.episodic_stamps.at[lane, target]
    state = state.replace(
        episodic_keys=indices[0].set(keys, mode="drop", unique_indices=True),
        episodic_stamps=indices[1].set(episode, mode="drop", unique_indices=True),
        episode=episode,
        num_episodic_keys=jnp.where(first, 0, state.num_episodic_keys) + first_visit,
        num_episodic_dropped=state.num_episodic_dropped + full.sum(dtype=jnp.int32),
    )
    return state, first_visit


def _unique_with_counts(keys: Array) -> tuple[Array, Array]:
    """`[B, 2]` keys -> the same, sorted, and how many of each, at its first row; 0 elsewhere and for (0, 0)."""
    batch = keys.shape[0]
    high, low = jax.lax.sort((keys[:, 0], keys[:, 1]), num_keys=2)
    ordered = jnp.stack([high, low], axis=1)
    starts = jnp.concatenate([jnp.ones(1, bool), (ordered[1:] != ordered[:-1]).any(axis=-1)])
    group = jnp.cumsum(starts) - 1
    sizes = jnp.zeros(batch, jnp.int32).at[group].add(1)
    return ordered, jnp.where(starts & (ordered != 0).any(axis=-1), sizes[group], 0)


def _probe_sequence(keys: Array, num_slots: int) -> tuple[Array, Array]:
    """First slot and stride, int32; an odd stride walks all of a power of two, and differs between keys."""
    word = _mix(keys[:, 0] ^ _mix(keys[:, 1] + _GOLDEN))
    stride = _mix(word + _GOLDEN) | 1
    mask = num_slots - 1
    return (word & mask).astype(jnp.int32), (stride & mask).astype(jnp.int32)


def _mix(x: Any) -> Any:
    """MurmurHash3's 32-bit finaliser of uint32, NumPy's or JAX's: every bit of x moves every bit of the result."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


@functools.cache
def _multipliers(num_cells: int) -> np.ndarray:
    """`[num_cells, 2]` odd uint32: the finaliser of a Weyl sequence, frozen by its definition."""
    return (_mix(np.arange(1, 2 * num_cells + 1, dtype=np.uint32) * _GOLDEN) | 1).reshape(num_cells, 2)


@functools.cache
def _area_weights(num_pixels: int, num_cells: int) -> np.ndarray:
    """`[num_cells, num_pixels]` float32 whole numbers: shared length, in units that make a cell num_pixels long."""
    pixel = np.arange(num_pixels) * num_cells
    cell = np.arange(num_cells)[:, None] * num_pixels
    shared = np.minimum(pixel + num_cells, cell + num_pixels) - np.maximum(pixel, cell)
    return np.maximum(shared, 0).astype(np.float32)
