"""The whole agent as one pure function: `act_learn_step(state) -> (state, outputs)`.

`init_state` makes a run's state on the host. How the step is compiled stands in compiled_step.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from learnmax_jax import devices
from learnmax_jax.acting import actor, betas
from learnmax_jax.acting.actor import ActorState, ActOutput
from learnmax_jax.agent import Agent, Player, transition_spec
from learnmax_jax.learning.learner import TrainState
from learnmax_jax.models.world_model import ModelParams
from learnmax_jax.replay.buffer import ReplayState
from learnmax_jax.types import Array, Batch, Metrics, TimeStep

# Folded into the run's key where the environments are reset for the first time; no int32 step is this number.
_RESET = 2**31


@struct.dataclass
class State:
    """All that a run is.

    Attributes:
      actor: ActorState; its env_state is not restorable for emulators. None in a `state_spec` of such.
      train: TrainState.
      replay: ReplayState; its rows are on disk too, as shards.
      novelty: what the kinds of exploration keep, by their names.
      rng_key: of the run; each step folds its number in, so that a resumed run draws the same numbers.
      step: int32, act-learn steps done.
    """

    actor: Any
    train: TrainState
    replay: ReplayState
    novelty: Any
    rng_key: Array
    step: Array


@struct.dataclass
class Outputs:
    """What one step tells the host.

    Attributes:
      act: ActOutput `[E, T, ...]`, the new transitions among it; None in what the learner alone tells.
      metrics: scalars of the last update; meaningless where `num_updates` is 0.
      num_updates: int32, updates done in this step.
      batch: of the first update that was not finite, else of the last.
      finite: bool, every search and every update was finite.
    """

    act: Any
    metrics: Metrics
    num_updates: Array
    batch: Batch
    finite: Array


def init_state(agent: Agent) -> State:
    """A fresh run's state: parameters, an empty replay, the environments at their reset."""
    # The seed is an argument: another one finds the same program.
    learning = jax.jit(partial(_init_placed, agent))(jax.random.key(agent.config.seed))
    env_key = jax.random.fold_in(learning["rng_key"], _RESET)
    return State(actor=start_actor(agent.player, learning["train"].model, env_key), **learning)


def _init_placed(agent: Agent, rng_key: Array) -> dict[str, Any]:
    """`init_learning`, its replay made where it will lie."""
    state = State(actor=None, **init_learning(agent, rng_key))
    placed = vars(jax.lax.with_sharding_constraint(state, state_shardings(agent.mesh, state)))
    return {name: value for name, value in placed.items() if name != "actor"}


def empty_replay(agent: Agent) -> ReplayState:
    """A replay without rows, made where it lies."""

    def start() -> ReplayState:
        state = agent.replay.init(transition_spec(agent))
        rows = jax.lax.with_sharding_constraint(state.rows, devices.by_rows(agent.mesh, state.rows))
        return state.replace(rows=rows)

    return jax.jit(start)()


def state_shardings(mesh: Mesh, state: State) -> State:
    """Where a State's leaves lie: environments and their rows split over the devices, the rest whole on each."""
    whole = jax.tree.map(lambda leaf: devices.whole(mesh), state)
    replay = whole.replay.replace(rows=devices.by_rows(mesh, state.replay.rows))
    return whole.replace(actor=devices.by_rows(mesh, state.actor), replay=replay)


def act_shardings(mesh: Mesh, act: ActOutput) -> ActOutput:
    """Where an act phase's outputs lie: frames split over the devices, the rest, which every host reads, whole."""
    whole = jax.tree.map(lambda leaf: devices.whole(mesh), act)
    return whole.replace(transitions=whole.transitions.replace(observation=devices.split(mesh)))


def outputs_shardings(mesh: Mesh, outputs: Outputs) -> Outputs:
    """Where the learner's Outputs lie: batches split over the devices, the rest, which every host reads, whole."""
    whole = jax.tree.map(lambda leaf: devices.whole(mesh), outputs)
    return whole.replace(batch=devices.by_rows(mesh, outputs.batch))


def place(agent: Agent, state: State) -> State:
    """A state that any devices held, on the agent's."""
    return jax.device_put(state, state_shardings(agent.mesh, state))


def state_spec(agent: Agent) -> State:
    """The state's shapes, dtypes and places, without making it; `actor` is None where it is not restorable."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    learning = jax.eval_shape(partial(init_learning, agent), key)
    actor_spec = None
    if agent.environments.restorable:
        actor_spec = jax.eval_shape(partial(start_actor, agent.player), learning["train"].model, key)
    spec = State(actor=actor_spec, **learning)
    return spec_of(agent.mesh, spec)


def spec_of(mesh: Mesh, state: State) -> State:
    """Shapes, dtypes and places of a State, or of one's shapes."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        state_shardings(mesh, state),
    )


def init_learning(agent: Agent, rng_key: Array) -> dict[str, Any]:
    """All of a fresh State that needs no environment."""
    config = agent.config
    init_key, run_key, novelty_key = jax.random.split(rng_key, 3)
    example = jnp.zeros((config.env.num_envs, *agent.environments.observation_shape), jnp.uint8)
    return {
        "train": agent.init_train(init_key, example),
        "replay": agent.replay.init(transition_spec(agent)),
        "novelty": agent.novelty.init(novelty_key),
        "rng_key": run_key,
        "step": jnp.zeros((), jnp.int32),
    }


def start_actor(player: Player, params: ModelParams, rng_key: Array) -> ActorState:
    """Resets the environments: at the start of a run, and of a resumed one whose emulators are gone."""

    def start(*reset: Any) -> ActorState:
        state = actor_at(player, *reset)
        return jax.lax.with_sharding_constraint(state, devices.by_rows(player.mesh, state))

    return jax.jit(start)(params, *player.environments.reset(rng_key))


def actor_at(player: Player, params: ModelParams, env_state: Any, time_step: TimeStep) -> ActorState:
    """An actor with an empty memory at the environments' reset."""
    window, exploration = player.config.actor.window, player.config.exploration
    memory = actor.init_memory(player.world_model, params, time_step.observation, window=window)
    spread = betas.spread_betas(
        player.environments.num_envs, num_exploit_envs=exploration.num_exploit_envs, beta_max=exploration.beta_max
    )
    return actor.init_actor(env_state, time_step, memory, spread)


def act_learn_step(state: State, *, agent: Agent) -> tuple[State, Outputs]:
    """Plays T steps in every environment, stores them, and learns from the replay.

    Args:
      state: State; donate it, or the replay is copied.
      agent: the parts.
    Returns:
      (State, Outputs).
    """
    return one_after_the_other(partial(act_and_store, agent=agent), partial(learn_and_tell, agent=agent))(state)


def one_after_the_other(acting: Callable, learning: Callable) -> Callable[[State], tuple[State, Outputs]]:
    """The step of its two halves; the second is told no more of the first than it needs."""

    def step(state: State) -> tuple[State, Outputs]:
        state, act = acting(state)
        actor = state.actor
        state, outputs = learning(state.replace(actor=None), actor.beta, act.finite)
        return state.replace(actor=actor), outputs.replace(act=act)

    return step


def act_and_store(state: State, *, agent: Agent) -> tuple[State, ActOutput]:
    """The step's first half: plays T steps in every environment and stores them."""
    act_key, _ = _keys(state)
    actor, novelty, output = agent.act(state.train.model, state.actor, state.novelty, act_key)
    with jax.named_scope("store"):
        replay = agent.replay.add(state.replay, output.transitions)
    state = state.replace(actor=actor, novelty=novelty, replay=replay)
    shardings = state_shardings(agent.mesh, state), act_shardings(agent.mesh, output)
    return jax.lax.with_sharding_constraint((state, output), shardings)


def learn_and_tell(state: State, betas: Array, acted_finite: Array, *, agent: Agent) -> tuple[State, Outputs]:
    """The step's second half: as many updates as the replay ratio says, or none while the replay cannot be sampled.

    Args:
      state: State, its `actor` left out.
      betas: `[E]`, the betas in play.
      acted_finite: `[E, T]` bool, of the searches of the first half.
      agent: the parts.
    Returns:
      (State, Outputs), their `act` left out.
    """
    _, learn_key = _keys(state)
    num_updates = jnp.where(agent.replay.can_sample(state.replay), agent.updates_per_step, 0)
    learned = learn(state.train, state.replay, state.novelty, betas, learn_key, num_updates, agent=agent)
    state = state.replace(train=learned.train, replay=learned.replay, novelty=learned.novelty, step=state.step + 1)
    outputs = Outputs(
        act=None,
        metrics=learned.metrics | _named(agent.novelty.metrics(learned.novelty)),
        num_updates=num_updates,
        batch=learned.batch,
        finite=learned.finite & acted_finite.all(),
    )
    shardings = state_shardings(agent.mesh, state), outputs_shardings(agent.mesh, outputs)
    return jax.lax.with_sharding_constraint((state, outputs), shardings)


def _keys(state: State) -> tuple[Array, Array]:
    """A step's keys: of acting, of learning."""
    act_key, learn_key = jax.random.split(jax.random.fold_in(state.rng_key, state.step))
    return act_key, learn_key


@struct.dataclass
class Learned:
    """What a round of updates changes and tells.

    Attributes:
      train: TrainState.
      replay: ReplayState, with new priorities.
      novelty: what the kinds of exploration keep.
      metrics: of the last update.
      batch: of the first update that was not finite, else of the last.
      finite: bool, every update was.
    """

    train: TrainState
    replay: ReplayState
    novelty: Any
    metrics: Metrics
    batch: Batch
    finite: Array


def learn(
    train: TrainState,
    replay: ReplayState,
    novelty: Any,
    betas: Array,
    rng_key: Array,
    num_updates: Array,
    *,
    agent: Agent,
) -> Learned:
    """Does `num_updates` updates from the replay.

    Their number is traced, and may be 0 while the replay cannot be sampled: so the replay is
    never an output of a conditional.

    Args:
      train: TrainState.
      replay: ReplayState.
      novelty: what the kinds of exploration keep; bonuses are looked up afresh.
      betas: `[E]`, the betas in play.
      rng_key: consumed.
      num_updates: int32.
      agent: the parts.
    Returns:
      Learned; metrics and batch are zeros where nothing was done.
    """

    def sample(replay: ReplayState, key: Array) -> Batch:
        return devices.spread(agent.mesh, agent.replay.sample(replay, key))

    # Compiled once more within the program: so what it gives and what it does are traced together.
    @jax.jit
    def one(index: Array, learned: Learned) -> Learned:
        keys = jax.random.split(jax.random.fold_in(rng_key, index), 4)
        sample_key, frame_key, update_key, novelty_key = keys
        with jax.named_scope("sample"):
            batch = sample(learned.replay, sample_key)
        with jax.named_scope("novelty"):
            paid = agent.novelty.pay(learned.novelty, learned.train.target_model, batch, novelty_key)
        with jax.named_scope("sample"):
            frames = devices.spread(agent.mesh, tokenizer_frames(agent, learned.replay, paid.state, batch, frame_key))
        train, priorities, metrics = agent.update(
            learned.train, batch, paid.bonus, frames, betas, update_key, paid.supposed
        )
        return Learned(
            train=train,
            replay=agent.replay.update_priorities(learned.replay, batch.index, priorities, batch.rows.valid[:, :-1]),
            novelty=paid.state,
            metrics=metrics | _named(paid.metrics),
            batch=jax.tree.map(lambda new, old: jnp.where(learned.finite, new, old), batch, learned.batch),
            finite=learned.finite & (metrics["finite"] > 0),
        )

    batch = _zeros(jax.eval_shape(sample, replay, rng_key))
    nothing = Learned(train, replay, novelty, {}, batch, jnp.ones((), bool))
    start = jnp.zeros((), jnp.int32)
    metrics = _zeros(jax.eval_shape(one, start, nothing).metrics)

    def next_one(index: Array, learned: Learned) -> Learned:
        return one(index, learned.replace(metrics={}))

    return jax.lax.fori_loop(start, num_updates, next_one, nothing.replace(metrics=metrics))


def tokenizer_frames(agent: Agent, replay: ReplayState, novelty: Any, batch: Batch, rng_key: Array) -> Array:
    """The frames `[M, H, W, C]` that the tokenizer learns from: its own stream, or the batch's."""
    section = agent.config.tokenizer_learner
    if section.stream == "diverse":
        return agent.replay.sample_observations(
            replay, rng_key, partial(agent.novelty.rarity, novelty), section.batch_size
        )
    return batch.rows.observation.reshape(-1, *agent.environments.observation_shape)


def _zeros(spec: Any) -> Any:
    """Zeros of the shapes and dtypes of a tree."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), spec)


def _named(metrics: Metrics) -> Metrics:
    """Exploration's scalars, told apart from the others."""
    return {f"novelty_{name}": value for name, value in metrics.items()}


def to_save(agent: Agent, state: State) -> dict[str, Any]:
    """What a checkpoint holds: all but the replay's rows, which are in the shards, and emulators, which cannot."""
    saved = {
        "train": state.train,
        "novelty": state.novelty,
        "rng_key": state.rng_key,
        "step": state.step,
        "tree": state.replay.tree,
        "max_weight": state.replay.max_weight,
    }
    return saved | {"actor": state.actor} if agent.environments.restorable else saved


def parameter_count(state: State) -> int:
    """How many numbers the world model and the tokenizer learn."""
    leaves = jax.tree.leaves((state.train.network, state.train.tokenizer.params))
    return sum(leaf.size for leaf in leaves)
