"""The records that pass between rooms, and the one time picture they share.

    observation[t] --action[t]--> reward[t], discount[t], observation[t+1]

`discount[t]` is 0 only where step t terminated the episode; `last[t]` marks any
end (termination or truncation); `first[t]` marks an episode's first frame. The
emulators reset on the step after an end, so the row that follows `last` holds the
episode's true final observation and an action that was ignored: `valid` is False
there. It is an observation to bootstrap from, never a transition to train on.

Axes: B batch or environments, T time, H W C frame, N tokens a frame, G code groups,
V codes, D width, A actions, K unroll, S support.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Params = Any  # a pytree of arrays
Metrics = dict[str, Array]


@struct.dataclass
class Probe:
    """What the emulator's RAM tells; evaluation only, nothing learns or acts on it.

    Every field but the last is `[B]` int32; -1 where the environment has no such thing.
    """

    room: Array
    x: Array
    y: Array
    key: Array  # 1 while the player holds a key
    lives: Array
    ram: Array  # `[B, 128]` uint8, the console's memory; `[B, 0]` where there is none

    @classmethod
    def unknown(cls, num_envs: int) -> "Probe":
        """Of an environment that tells nothing."""
        none = jnp.full((num_envs,), -1, jnp.int32)
        return cls(room=none, x=none, y=none, key=none, lives=none, ram=jnp.zeros((num_envs, 0), jnp.uint8))


@struct.dataclass
class TimeStep:
    """The environments' answer to action[t]: the outcome, and observation[t+1].

    Attributes:
      observation: `[B, H, W, C]` uint8, observation[t+1].
      reward: `[B]` float32, raw game score, reward[t].
      discount: `[B]` float32, 0 where step t terminated the episode, else 1.
      first: `[B]` bool, observation[t+1] is an episode's first frame.
      last: `[B]` bool, step t ended the episode; observation[t+1] is its final frame.
      probe: of observation[t+1].
    """

    observation: Array
    reward: Array
    discount: Array
    first: Array
    last: Array
    probe: Probe


@struct.dataclass
class Transition:
    """One row of play, as acting makes it and replay stores it; `[B, ...]` or `[B, T, ...]`.

    Attributes:
      observation: `[H, W, C]` uint8, observation[t].
      action: int32, action[t]; without effect where `valid` is False.
      reward: float32, raw game score, reward[t].
      discount: float32, 0 where step t terminated the episode.
      first: bool, observation[t] is an episode's first frame.
      last: bool, step t ended the episode: row t+1 holds its final observation.
      valid: bool, action[t] was executed: the row is a transition.
      episode_step: int32, transitions since the episode's first frame.
      beta: float32, weight of the intrinsic return in this environment's search.
      search_policy: `[A]` float16, the search's improved policy at observation[t].
      search_value: float32, the search's extrinsic value of observation[t], in
        units of `reward_scale`.
      novelty_key: `[2]` uint32, what the kind that watches play knows observation[t] by.
      first_visit: bool, observation[t] was new in this episode, as that kind sees it.
    """

    observation: Array
    action: Array
    reward: Array
    discount: Array
    first: Array
    last: Array
    valid: Array
    episode_step: Array
    beta: Array
    search_policy: Array
    search_value: Array
    novelty_key: Array
    first_visit: Array


@struct.dataclass
class SequenceIndex:
    """Where a sampled sequence stands in the replay.

    Attributes:
      environment: `[B]` int32.
      start: `[B]` int32, absolute time of the window's row 0 (rows ever added, per environment).
      anchor: `[B]` int32, absolute time of the row that was drawn; tests tell draws by it.
    """

    environment: Array
    start: Array
    anchor: Array


@struct.dataclass
class Batch:
    """Sequences of one episode each, `[B, L + 1, ...]`, for the learner.

    Attributes:
      rows: Transition `[B, L + 1, ...]`. Rows past the episode's end repeat the final
        observation with `valid` False, reward 0, discount 0, last False, first_visit False.
      mask: `[B, L + 1]` bool, the row's observation belongs to the episode (the final one included).
        A transition t < L is real where `rows.valid[:, t]`.
      weights: `[B]` float32, importance weights, mean at most 1; all 1 for uniform sampling.
      index: SequenceIndex.
    """

    rows: Transition
    mask: Array
    weights: Array
    index: SequenceIndex


@struct.dataclass
class Supposed:
    """Intrinsic rewards of actions that were not taken, at the observations of a batch.

    Attributes:
      action: `[B, L]` int32, one for each row.
      reward: `[B, L]` float32.
      mask: `[B, L]` bool, where there is such a reward.
      q_too: the intrinsic Q of the action is told the same, and intrinsic values are those of the best action by Q;
        static.
    """

    action: Array
    reward: Array
    mask: Array
    q_too: bool = struct.field(pytree_node=False)


@struct.dataclass
class Prediction:
    """What the heads read off a latent, conditioned on beta.

    Attributes:
      policy_logits: `[B, A]`.
      value_logits: `[B, 3, S]`: extrinsic, intrinsic, and a short-horizon extrinsic value.
      q_logits: `[B, 2, A, S]`: extrinsic and intrinsic return of every action.
    """

    policy_logits: Array
    value_logits: Array
    q_logits: Array


@struct.dataclass
class Outcome:
    """What the transition head says of (latent[t], action[t]).

    Attributes:
      reward_logits: `[B, S]`, two-hot over the scaled reward[t].
      intrinsic_logits: `[B, S]`, two-hot over the novelty of observation[t+1].
      continuation_logit: `[B]`, of discount[t] being 1.
      code_logits: `[B, N, G, V]`, of codes[t+1].
      chance_logits: `[B, O]`, prior over which of O outcomes chance picks; O is 0 when that is off.
    """

    reward_logits: Array
    intrinsic_logits: Array
    continuation_logit: Array
    code_logits: Array
    chance_logits: Array


@struct.dataclass
class SearchOutput:
    """What the planner says of a batch of observations.

    Attributes:
      action: `[B]` int32, the action to take.
      search_policy: `[B, A]` float32, the improved policy; sums to 1.
      search_value: `[B, 2]` float32, extrinsic and intrinsic value in scaled units.
      depth_mean: `[B]` float32, mean depth of the nodes that were expanded (root 0, not counted); 0 without search.
      depth_max: `[B]` int32.
      finite: `[B]` bool, all numbers the search read were finite; the action means nothing otherwise.
    """

    action: Array
    search_policy: Array
    search_value: Array
    depth_mean: Array
    depth_max: Array
    finite: Array


@dataclasses.dataclass(frozen=True)
class Environments:
    """A batch of B environments behind one signature: emulators and worlds alike.

    After a step with `last`, the next step ignores its action, pays 0 and returns the
    reset frame with `first` (the emulators' next-step reset).

    Attributes:
      num_envs: B.
      num_actions: A; actions are int32 in [0, A).
      action_names: A names, for pictures.
      observation_shape: (H, W, C).
      observation_levels: the observation's integers are below this; 256 for frames.
      frames_per_step: emulator frames an action lasts; 1 for worlds.
      restorable: the state may be put in a checkpoint and continued exactly; otherwise
        a resumed run starts new episodes.
      reset: rng_key -> (env_state, TimeStep), every row first; called on the host, not traced.
      step: (env_state, action `[B]`) -> (env_state, TimeStep); traceable, save for the host backend.
    """

    num_envs: int
    num_actions: int
    action_names: tuple[str, ...]
    observation_shape: tuple[int, int, int]
    observation_levels: int
    frames_per_step: int
    restorable: bool
    reset: Callable[[Array], tuple[Any, TimeStep]]
    step: Callable[[Any, Array], tuple[Any, TimeStep]]
