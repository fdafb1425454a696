"""Which rows a sampled window holds: index arithmetic on the ring, no scan over it.

Times are absolute: the number of rows that were ever added before a row, the same for
all environments. The row of time t stands at `t % C`. A window is drawn by an anchor,
the row that has to be in it:

    start = anchor - offset, offset uniform in [0, L)
    start is moved so that [start, start + L] lies in the anchor's episode and in the ring
    where the episode has fewer than L + 1 stored rows, its final observation is repeated

The row after an episode's last transition holds its final observation and belongs to it;
the row after that is the next episode's `first`. That flag alone decides where an episode
ends, so it also ends where a resumed run broke it off and began a new one.
"""

import jax
import jax.numpy as jnp

from learnmax_jax.types import Array, SequenceIndex, Transition


def stored_span(num_added: Array, num_slots: int) -> tuple[Array, Array]:
    """Returns the absolute times of the oldest and of the newest stored row."""
    return jnp.maximum(num_added - num_slots, 0), num_added - 1


def draw_anchors(rows: Transition, num_added: Array, rng_key: Array, batch_size: int) -> tuple[Array, Array]:
    """Draws environments and times of real transitions, uniformly but for one correction.

    A draw that is no transition (an episode's final observation) is replaced by the row before
    it, the episode's last transition, which is therefore drawn twice as often as any other row.
    Where that row is already overwritten, the row after it is taken instead.

    Returns:
      environment `[B]` int32, anchor `[B]` int32, at least one row before the newest.
    """
    num_envs, num_slots = rows.valid.shape
    oldest, newest = stored_span(num_added, num_slots)
    environment_key, time_key = jax.random.split(rng_key)
    environment = jax.random.randint(environment_key, (batch_size,), 0, num_envs)
    time = jax.random.randint(time_key, (batch_size,), oldest, jnp.maximum(newest, oldest + 1))
    is_transition = take(rows.valid, environment, time) & ~take(rows.first, environment, time + 1)
    neighbour = jnp.where(time > oldest, time - 1, jnp.minimum(time + 1, newest - 1))
    return environment, jnp.where(is_transition, time, neighbour)


def place_windows(
    rows: Transition, num_added: Array, environment: Array, anchor: Array, offset: Array, sequence_length: int
) -> tuple[SequenceIndex, Array]:
    """Moves the windows that start `offset` before their anchors into episode and ring.

    Args:
      rows: Transition `[E, C, ...]`.
      num_added: int32, rows ever added for each environment.
      environment: `[B]` int32.
      anchor: `[B]` int32, a stored time before the newest.
      offset: `[B]` int32 in [0, L).
      sequence_length: L.
    Returns:
      The index, and `end` `[B]` int32: the time of the last stored row of the anchor's
      episode, exact where it is less than anchor + L.
    """
    oldest, newest = stored_span(num_added, rows.valid.shape[1])
    after = anchor[:, None] + 1 + jnp.arange(sequence_length)[None, :]
    is_next_episode = take(rows.first, environment[:, None], after)
    # A time that is not stored yet reads an old row; it cannot bring `end` below the newest.
    end = jnp.min(jnp.where(is_next_episode, jnp.minimum(after - 1, newest), newest), axis=1)
    episode_start = anchor - take(rows.episode_step, environment, anchor)
    start = jnp.minimum(anchor - offset, end - sequence_length)
    start = jnp.maximum(start, jnp.maximum(episode_start, oldest))
    return SequenceIndex(environment=environment, start=start, anchor=anchor), end


def gather_windows(
    rows: Transition, index: SequenceIndex, end: Array, sequence_length: int
) -> tuple[Transition, Array]:
    """Gathers rows start .. start + L and pads what lies behind `end`.

    Returns:
      Transition `[B, L + 1, ...]` and mask `[B, L + 1]` bool, as types.Batch says.
    """
    time = index.start[:, None] + jnp.arange(sequence_length + 1)[None, :]
    taken = jnp.minimum(time, end[:, None])
    window = jax.tree.map(lambda ring: take(ring, index.environment[:, None], taken), rows)
    is_padding = time > end[:, None]
    return pad(window, is_padding), ~is_padding


def pad(window: Transition, is_padding: Array) -> Transition:
    """Makes a window's repeated rows padding, and the row before them a final observation.

    A row at the stored end that is followed by padding cannot be trained on, since the observation after
    it is not stored (a running episode's newest row, or one that a resume broke off): it is
    given out as a final observation, with `valid` False, `last` False, reward 0, discount 1.

    Args:
      window: Transition `[B, L + 1, ...]`, the last stored row repeated.
      is_padding: `[B, L + 1]` bool, the row is such a repetition.
    """
    has_no_next = jnp.concatenate([is_padding[:, 1:], is_padding[:, -1:]], axis=1)
    return window.replace(
        reward=jnp.where(has_no_next, 0.0, window.reward),
        discount=jnp.where(is_padding, 0.0, jnp.where(has_no_next, 1.0, window.discount)),
        first=window.first & ~is_padding,
        last=window.last & ~has_no_next,
        valid=window.valid & ~has_no_next,
        first_visit=window.first_visit & ~is_padding,
    )


def draw_observations(rows: Transition, num_added: Array, rng_key: Array, num_candidates: int) -> tuple[Array, Array]:
    """Draws environments and times uniformly over all stored rows, final observations too."""
    num_envs, num_slots = rows.valid.shape
    oldest, newest = stored_span(num_added, num_slots)
    environment_key, time_key = jax.random.split(rng_key)
    environment = jax.random.randint(environment_key, (num_candidates,), 0, num_envs)
    time = jax.random.randint(time_key, (num_candidates,), oldest, jnp.maximum(newest, oldest) + 1)
    return environment, time


def take(ring: Array, environment: Array, time: Array) -> Array:
    """Reads the rows of some environments at absolute times; broadcasts the two indices."""
    return ring.at[environment, time % ring.shape[1]].get(mode="promise_in_bounds")
