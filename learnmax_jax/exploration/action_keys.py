"""Novelty by visits of what actions control: the skull's phase is nobody's doing, so frames that differ in it are one.

A small net learns to tell from two frames which action lay between them. Its few features, cut into steps, and the
frame's room are its key. Keys that drift count nothing, so the net learns for `learn_updates` updates, during which
nothing is new, and is frozen from then on. It sees how far each cell is off the room's median frame, as the tokenizer
knows it, in units of that cell's usual distance (Burda et al. 2018, https://arxiv.org/abs/1810.12894): else the still
room drowns the few cells that move, and in another room than those it learned in all of them are far off. The medians
go on moving, by hardly more than nothing once they have settled; until then a room's frames have no key, and are
learned from by nobody.
Source: Badia et al. 2020 (NGU; there by nearest neighbours), https://arxiv.org/abs/2002.06038
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct

from learnmax_jax.exploration import counts, moments
from learnmax_jax.exploration.kind import Kind, Paid, Parts
from learnmax_jax.exploration.moments import Moments
from learnmax_jax.models.medians import Medians, Still
from learnmax_jax.models.novelty_nets import InverseNet
from learnmax_jax.models.world_model import ModelParams
from learnmax_jax.types import Array, Batch, Metrics, Params

_LEAST_DEVIATION = 3.0  # grey levels, added to every cell's: what never changes is not blown up


@struct.dataclass
class ActionKeyState:
    """The net and the visits.

    Attributes:
      params: of InverseNet.
      moments: of how far cells are off their room's median, frozen with the net; they count the updates it learned.
      medians: the tokenizer's, of the last update.
      optimizer_state: of the parameters.
      counts: CountState.
    """

    params: Params
    moments: Moments
    medians: Medians
    optimizer_state: optax.OptState
    counts: counts.CountState


def make(
    parts: Parts,
    *,
    table_size: int,
    episodic_table_size: int,
    grid_height: int,
    grid_width: int,
    width: int,
    num_features: int,
    num_bins: int,
    learning_rate: float,
    learn_updates: int,
) -> Kind:
    """The kind `action_keys`.

    Args:
      parts: what kinds are built with.
      table_size, episodic_table_size: of the visits; see counts.init.
      grid_height, grid_width: cells that the net sees of a frame.
      width: hidden units.
      num_features: F.
      num_bins: steps that a feature is cut into.
      learning_rate: of Adam.
      learn_updates: updates after which the net is frozen.
    """
    sizes = {"grid_height": grid_height, "grid_width": grid_width}
    net = InverseNet(width=width, num_features=num_features, num_actions=parts.world_model.num_actions)
    optimizer = optax.adam(learning_rate)
    white = partial(moments.whiten, least=_LEAST_DEVIATION)

    def start(rng_key: Array) -> ActionKeyState:
        frame = jnp.zeros((1, *parts.observation_shape), jnp.uint8)
        medians = jax.eval_shape(parts.tokenizer.init, rng_key, frame).medians
        medians = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), medians)
        example = off_median(parts.tokenizer.still(medians, frame), frame, **sizes)
        params = net.init(rng_key, example, example)["params"]
        return ActionKeyState(
            params=params,
            moments=moments.init(example.shape[1]),
            medians=medians,
            optimizer_state=optimizer.init(params),
            counts=counts.init(num_envs=parts.num_envs, table_size=table_size, episodic_table_size=episodic_table_size),
        )

    def see(
        state: ActionKeyState, observation: Array, first: Array, reward: Array
    ) -> tuple[ActionKeyState, Array, Array]:
        del reward
        still = parts.tokenizer.still(state.medians, observation)
        cells = white(off_median(still, observation, **sizes), state.moments)
        key = keys(state.params, net, cells, still.room, num_bins=num_bins)
        known = still.settled & (state.moments.num_batches >= learn_updates)
        key = jnp.where(known[:, None], key, 0)  # (0, 0) is counted nowhere
        visited, first_visit = counts.observe(state.counts, key, first)
        return state.replace(counts=visited), key, first_visit

    def pay(state: ActionKeyState, params: ModelParams, batch: Batch, rng_key: Array) -> Paid:
        del rng_key
        state = state.replace(medians=params.tokenizer.medians)
        paid = counts.bonus(state.counts, batch.rows.novelty_key, batch.rows.first_visit)

        def learn(state: ActionKeyState) -> tuple[ActionKeyState, Metrics]:
            observation = batch.rows.observation
            flat = observation.reshape(-1, *observation.shape[2:])
            still = parts.tokenizer.still(state.medians, flat)
            cells = off_median(still, flat, **sizes).reshape(*observation.shape[:2], -1)
            mask = batch.mask & still.settled.reshape(batch.mask.shape)
            known = moments.add(state.moments, cells, mask)
            (value, right), gradient = jax.value_and_grad(loss, has_aux=True)(
                state.params, net, white(cells, known), batch.rows.action, batch.rows.valid, mask
            )
            changes, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
            learned = state.replace(
                params=optax.apply_updates(state.params, changes),
                moments=known,
                optimizer_state=optimizer_state,
            )
            return learned, {"inverse_loss": value, "inverse_accuracy": right}

        def leave(state: ActionKeyState) -> tuple[ActionKeyState, Metrics]:
            return state, {"inverse_loss": jnp.zeros(()), "inverse_accuracy": jnp.zeros(())}

        state, metrics = jax.lax.cond(state.moments.num_batches < learn_updates, learn, leave, state)
        return Paid(state, paid, None, metrics)

    def rarity(state: ActionKeyState, key: Array) -> Array:
        return counts.rarity(state.counts, key)

    def metrics(state: ActionKeyState) -> Metrics:
        return counts.metrics(state.counts) | {"learn_updates": state.moments.num_batches}

    return Kind(init=start, pay=pay, observe=see, rarity=rarity, metrics=metrics)


def off_median(still: Still, observation: Array, *, grid_height: int, grid_width: int) -> Array:
    """How far a frame's cells are off its room's median frame.

    Args:
      still: of the observation.
      observation: `[B, H, W, C]` uint8.
      grid_height, grid_width: cells; at most H and W.
    Returns:
      `[B, cells]` float32 grey levels.
    """
    _, height, width, _ = observation.shape
    off = observation.astype(jnp.float32) - still.frames
    cells = counts.area_sums(off, grid_height=grid_height, grid_width=grid_width) / (height * width)
    return cells.reshape(cells.shape[0], -1)


def keys(params: Params, net: InverseNet, cells: Array, room: Array, *, num_bins: int) -> Array:
    """What actions control of frames, and where: whitened `cells [B, cells]`, `room [B]` to `[B, 2]` uint32 keys.

    Never (0, 0).
    """
    features = net.apply({"params": params}, cells, method=InverseNet.embed)
    steps = jnp.clip(jnp.floor((features + 1.0) * (num_bins / 2)), 0, num_bins - 1).astype(jnp.uint32)
    return counts.hash_cells(jnp.concatenate([steps, room[:, None].astype(jnp.uint32)], axis=1))


def loss(
    params: Params, net: InverseNet, cells: Array, action: Array, valid: Array, known: Array
) -> tuple[Array, Array]:
    """Cross-entropy of the actions between frames.

    Args:
      params: of the net. net: InverseNet.
      cells: `[B, L + 1, cells]`, of a batch's observations, whitened.
      action: `[B, L + 1]` int32. valid: `[B, L + 1]` bool, the row is a transition.
      known: `[B, L + 1]` bool, of the frames, two of which are learned from if both are.
    Returns:
      (scalar, share of the actions told right).
    """
    logits = net.apply({"params": params}, cells[:, :-1], cells[:, 1:])
    action, known = action[:, :-1], (valid & known)[:, :-1] & known[:, 1:]
    number = jnp.maximum(known.sum(), 1)
    error = optax.softmax_cross_entropy_with_integer_labels(logits, action)
    right = jnp.sum(known & (jnp.argmax(logits, axis=-1) == action)) / number
    return jnp.sum(jnp.where(known, error, 0.0)) / number, right
