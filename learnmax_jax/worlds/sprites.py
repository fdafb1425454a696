"""World R: sprites over still backgrounds, of which place and identity are known.

Rooms stand in a row, each with its own random texture that never changes. The player is moved by
the actions and leaves a room to its neighbour over the left and right edge; a skull rolls to and
fro along the floor by itself, in every room alike, and hurts nobody; an object lies in room 0 until the player
touches it, which pays 1, and stays away until the episode's end. The player is drawn over the
object, the object over the skull, and no two of the three share a picture.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from learnmax_jax.types import Array, Environments, Probe, TimeStep
from learnmax_jax.worlds.arguments import require_ranges

ACTION_NAMES = ("NOOP", "UP", "RIGHT", "DOWN", "LEFT")
_UP_STEP = (0, -1, 0, 1, 0)
_RIGHT_STEP = (0, 0, 1, 0, -1)

# Grey levels: every sprite is brighter than every background, and has levels of its own.
_PLAYER_LEVELS = (255, 215)  # corners and middle; the edges between
_SKULL_LEVEL = 195  # a disc
_OBJECT_LEVEL = 175  # a diamond
_DARKEST, _BRIGHTEST = 20, 120  # of a background's blocks
_GRAIN = 10  # levels a pixel lies above or below its block, at most
_BLOCKS = 12  # blocks a side


@struct.dataclass
class SpritesState:
    """Where every environment stands; places are of a sprite's upper left pixel.

    Attributes:
      room: `[B]` int32.
      x, y: `[B]` int32, the player's column and row.
      skull_phase: `[B]` int32, steps along its way to and fro.
      object_taken: `[B]` bool.
      step: `[B]` int32, transitions since the episode's first frame.
      ended: `[B]` bool, the episode is over: the next action is ignored.
      rng_key: draws the first places.
    """

    room: Array
    x: Array
    y: Array
    skull_phase: Array
    object_taken: Array
    step: Array
    ended: Array
    rng_key: Array


def backgrounds(*, seed: int, num_rooms: int, size: int) -> np.ndarray:
    """The rooms' textures, `[num_rooms, size, size]` uint8: blocks of random brightness, with a grain.

    In numpy, so that they are a constant of the program: drawn at every step they take most of its time.
    """
    random = np.random.RandomState(seed)  # the one generator whose stream numpy promises not to change
    blocks = random.randint(_DARKEST, _BRIGHTEST + 1, (num_rooms, _BLOCKS, _BLOCKS))
    block_of = np.arange(size) * _BLOCKS // size
    grain = random.randint(-_GRAIN, _GRAIN + 1, (num_rooms, size, size))
    return (blocks[:, block_of][:, :, block_of] + grain).astype(np.uint8)


def skull_column(phase: Array, *, size: int, skull_size: int, speed: int) -> Array:
    """The skull's left column after `phase` steps, `[...]` int32: from edge to edge and back, `speed` pixels a step."""
    way = size - skull_size
    travelled = (phase * speed) % (2 * way)
    return jnp.minimum(travelled, 2 * way - travelled)


def object_place(*, size: int, object_size: int) -> tuple[int, int]:
    """Left column and upper row of the object: in the right half, a quarter down."""
    return size * 3 // 4 - object_size // 2, size // 4


def draw(
    state: SpritesState, rooms: Array, *, player_size: int, skull_size: int, object_size: int, speed: int
) -> Array:
    """Frames `[B, size, size, 1]` uint8 of states, with the rooms' textures as `backgrounds` gives them."""
    size = rooms.shape[-1]
    rows, columns = jnp.arange(size)[None, :, None], jnp.arange(size)[None, None, :]

    def offsets(x: Array, y: Array, side: int) -> tuple[Array, Array, Array]:
        """Twice a pixel's distance from a sprite's middle, by row and by column; whether it is in the sprite's box."""
        down = jnp.abs(2 * (rows - y[:, None, None]) - side + 1)
        right = jnp.abs(2 * (columns - x[:, None, None]) - side + 1)
        return down, right, (down < side) & (right < side)

    frame = rooms[state.room]
    skull = skull_column(state.skull_phase, size=size, skull_size=skull_size, speed=speed)
    down, right, _ = offsets(skull, jnp.full_like(skull, size - skull_size), skull_size)
    frame = jnp.where(down**2 + right**2 <= skull_size**2, _SKULL_LEVEL, frame)

    object_x, object_y = object_place(size=size, object_size=object_size)
    down, right, _ = offsets(jnp.full((1,), object_x), jnp.full((1,), object_y), object_size)
    lies_here = (state.room == 0) & ~state.object_taken
    frame = jnp.where((down + right <= object_size) & lies_here[:, None, None], _OBJECT_LEVEL, frame)

    down, right, inside = offsets(state.x, state.y, player_size)
    checks = jnp.where((down // 4 + right // 4) % 2 == 0, *_PLAYER_LEVELS)
    return jnp.where(inside, checks, frame).astype(jnp.uint8)[..., None]


def make(
    *,
    num_envs: int,
    seed: int,
    size: int,
    num_rooms: int,
    player_size: int,
    skull_size: int,
    object_size: int,
    speed: int,
    max_length: int,
) -> Environments:
    """Makes B environments of sprites over still backgrounds.

    An episode starts in room 0 with the player somewhere in the left half and the skull somewhere on its way, and is
    truncated after `max_length` transitions; it never terminates. Touching the object, box to box, pays 1 once.

    Args:
      num_envs: B, at least 1.
      seed: of the backgrounds; the same seed is the same world.
      size: pixels a side of the frame, 16 to 256.
      num_rooms: backgrounds, 1 to 256.
      player_size, skull_size, object_size: pixels a side, 2 to size / 4.
      speed: pixels that the player and the skull go in a step, 1 to size / 4.
      max_length: transitions of an episode, at least 1.
    Returns:
      Environments; restorable. `reset` draws the first places, of this episode and the following, by its key. The
      probe's x and y are the player's middle pixel, its key is 1 where the object is taken, its room the background.
    Raises:
      ValueError: an argument outside its range.
    """
    require_ranges(
        ("num_envs", num_envs, 1, 2**31 - 1),
        ("seed", seed, 0, 2**31 - 1),
        ("size", size, 16, 256),
        ("num_rooms", num_rooms, 1, 256),
        ("player_size", player_size, 2, size // 4),
        ("skull_size", skull_size, 2, size // 4),
        ("object_size", object_size, 2, size // 4),
        ("speed", speed, 1, size // 4),
        ("max_length", max_length, 1, 2**31 - 1),
    )
    last_place = size - player_size
    skull_period = 2 * (size - skull_size)  # steps after which it is where it was, whatever its speed
    object_x, object_y = object_place(size=size, object_size=object_size)

    rooms = backgrounds(seed=seed, num_rooms=num_rooms, size=size)

    def answer(state: SpritesState, reward: Array) -> TimeStep:
        return TimeStep(
            observation=draw(
                state,
                jnp.asarray(rooms),
                player_size=player_size,
                skull_size=skull_size,
                object_size=object_size,
                speed=speed,
            ),
            reward=reward,
            discount=jnp.ones((num_envs,), jnp.float32),
            first=state.step == 0,
            last=state.ended,
            probe=Probe.unknown(num_envs).replace(
                room=state.room,
                x=state.x + player_size // 2,
                y=state.y + player_size // 2,
                key=state.object_taken.astype(jnp.int32),
            ),
        )

    def draw_start(rng_key: Array) -> tuple[Array, Array, Array, Array]:
        rng_key, x_key, y_key, skull_key = jax.random.split(rng_key, 4)
        x = jax.random.randint(x_key, (num_envs,), 0, size // 2 - player_size + 1)
        y = jax.random.randint(y_key, (num_envs,), 0, last_place + 1)
        return rng_key, x, y, jax.random.randint(skull_key, (num_envs,), 0, skull_period)

    def reset(rng_key: Array) -> tuple[SpritesState, TimeStep]:
        rng_key, x, y, skull_phase = draw_start(rng_key)
        zeros = jnp.zeros((num_envs,), jnp.int32)
        state = SpritesState(
            room=zeros,
            x=x,
            y=y,
            skull_phase=skull_phase,
            object_taken=zeros > 0,
            step=zeros,
            ended=zeros > 0,
            rng_key=rng_key,
        )
        return state, answer(state, jnp.zeros((num_envs,), jnp.float32))

    def walk(state: SpritesState, action: Array) -> tuple[Array, Array, Array]:
        """The player's (room, x, y) after an action."""
        x = state.x + speed * jnp.asarray(_RIGHT_STEP)[action]
        goes = jnp.where(x > last_place, 1, jnp.where(x < 0, -1, 0))
        room = jnp.clip(state.room + goes, 0, num_rooms - 1)
        entered_at = jnp.where(goes > 0, 0, last_place)
        x = jnp.where(room != state.room, entered_at, jnp.clip(x, 0, last_place))
        return room, x, jnp.clip(state.y + speed * jnp.asarray(_UP_STEP)[action], 0, last_place)

    def step(state: SpritesState, action: Array) -> tuple[SpritesState, TimeStep]:
        action = jnp.clip(action.astype(jnp.int32), 0, len(ACTION_NAMES) - 1)
        reset_now = state.ended
        room, x, y = walk(state, action)
        near_x = (x < object_x + object_size) & (object_x < x + player_size)
        near_y = (y < object_y + object_size) & (object_y < y + player_size)
        takes = near_x & near_y & (room == 0) & ~state.object_taken & ~reset_now
        next_step = jnp.where(reset_now, 0, state.step + 1)
        rng_key, first_x, first_y, first_phase = draw_start(state.rng_key)
        state = SpritesState(
            room=jnp.where(reset_now, 0, room),
            x=jnp.where(reset_now, first_x, x),
            y=jnp.where(reset_now, first_y, y),
            skull_phase=jnp.where(reset_now, first_phase, (state.skull_phase + 1) % skull_period),
            object_taken=(state.object_taken | takes) & ~reset_now,
            step=next_step,
            ended=next_step >= max_length,
            rng_key=rng_key,
        )
        return state, answer(state, takes.astype(jnp.float32))

    return Environments(
        num_envs=num_envs,
        num_actions=len(ACTION_NAMES),
        action_names=ACTION_NAMES,
        observation_shape=(size, size, 1),
        observation_levels=256,
        frames_per_step=1,
        restorable=True,
        reset=jax.jit(reset),
        step=step,
    )
