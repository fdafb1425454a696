"""The still background of every room: running median frames, a few of them, found without knowing the rooms.

What is off its room's median moves: the player, a skull. One median for all rooms would call a whole
room moving, and the player in it would count no more than its walls. The tokenizer may also take the median
away from a frame, so that its codes speak only of what moves, and name the room by a code of its own.

A frame belongs to the median from which the fewest of its pixels differ; one that differs from all in more than a
share of its pixels begins a new one, at most one an update, while there is room.
"""

import jax.numpy as jnp
from flax import struct

from learnmax_jax.types import Array

# Grey levels of a median's first step; it shrinks as 1/t, so that what moved in its first frame is soon forgotten.
_FIRST_STEP = 64.0
# Updates after which a median has settled: what moved in its first frame is forgotten.
_SETTLED = 100
# Pixels that are looked at to tell a room, in both directions.
_EVERY = 4


@struct.dataclass
class Medians:
    """Median frames.

    Attributes:
      frames: `[M, H, W, C]` float32 in 0..255.
      num_updates: `[M]` int32, updates in which a frame belonged to it; 0 where there is none yet.
    """

    frames: Array
    num_updates: Array


@struct.dataclass
class Still:
    """What does not move in frames.

    Attributes:
      room: `[B]` int32, the median that each belongs to.
      frames: `[B, H, W, C]` float32 in 0..255, that median.
      settled: `[B]` bool, it has been voted on often enough to be relied on.
    """

    room: Array
    frames: Array
    settled: Array


@struct.dataclass
class Votes:
    """What one batch says of the medians.

    Attributes:
      direction: `[M, H, W, C]` float32 in -1..1, mean over its frames of where each pixel lies from the median.
      voted: `[M]` bool, a frame belonged to it.
      strangest: `[H, W, C]` float32, the frame that is farthest from all medians.
      share: float32, of its pixels that are off; above 1 where there is no median at all.
    """

    direction: Array
    voted: Array
    strangest: Array
    share: Array


def init(observation_shape: tuple[int, int, int], num_medians: int) -> Medians:
    """No median yet."""
    return Medians(jnp.zeros((num_medians, *observation_shape), jnp.float32), jnp.zeros((num_medians,), jnp.int32))


def assign(medians: Medians, observation: Array, *, threshold: float) -> tuple[Array, Array]:
    """The median each frame belongs to.

    Args:
      medians: Medians.
      observation: `[B, H, W, C]`, 0..255.
      threshold: grey levels from which a pixel is off.
    Returns:
      index `[B]` int32, and the share `[B]` of the frame's pixels that are off; 2 where there is no median yet.
      Every fourth pixel of both directions is looked at: enough to know a room, and a frame has 32 to be compared with.
    """
    pixels = observation[:, None, ::_EVERY, ::_EVERY].astype(jnp.float32)
    off = jnp.abs(pixels - medians.frames[None, :, ::_EVERY, ::_EVERY]) > threshold
    share = jnp.where(medians.num_updates[None] > 0, jnp.mean(off, axis=(2, 3, 4)), 2.0)
    return jnp.argmin(share, axis=1).astype(jnp.int32), jnp.min(share, axis=1)


def still(medians: Medians, observation: Array, *, threshold: float) -> Still:
    """What does not move in each of `observation [B, H, W, C]`; `threshold` as of `assign`."""
    room, _ = assign(medians, observation, threshold=threshold)
    return Still(room=room, frames=medians.frames[room], settled=medians.num_updates[room] >= _SETTLED)


def vote(medians: Medians, observation: Array, index: Array, share: Array) -> Votes:
    """What a batch `[B, H, W, C]` says, with `assign`'s answer."""
    pixels = observation.astype(jnp.float32)
    belongs = (index[:, None] == jnp.arange(medians.num_updates.shape[0])[None]).astype(jnp.float32)  # [B, M]
    counts = belongs.sum(axis=0)
    direction = jnp.einsum("bm,bhwc->mhwc", belongs, jnp.sign(pixels - medians.frames[index]))
    return Votes(
        direction=direction / jnp.maximum(counts, 1.0)[:, None, None, None],
        voted=counts > 0,
        strangest=pixels[jnp.argmax(share)],
        share=jnp.max(share),
    )


def update(medians: Medians, votes: Votes, *, median_step: float, new_median_share: float) -> Medians:
    """Moves the medians that were voted for; a strange frame takes the first free place.

    Args:
      medians: Medians.
      votes: of a batch.
      median_step: grey levels a median moves at most in an update, in the long run.
      new_median_share: share of a frame's pixels that have to be off for a new median.
    """
    known = medians.num_updates > 0
    moves = votes.voted & known
    step = jnp.maximum(median_step, _FIRST_STEP / (1.0 + medians.num_updates))
    step = jnp.where(moves, step, 0.0)[:, None, None, None]
    frames = jnp.clip(medians.frames + step * votes.direction, 0.0, 255.0)
    free = jnp.argmin(known)
    begins = (jnp.arange(known.shape[0]) == free) & ~known & (votes.share > new_median_share)
    return Medians(
        frames=jnp.where(begins[:, None, None, None], votes.strangest[None], frames),
        num_updates=medians.num_updates + (moves | begins),
    )
