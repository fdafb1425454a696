"""The agent as one pure function: `act_learn_step(state) -> (state, outputs)`.

`build` turns a config into functions and `init_state` makes their state; both run on the
host. The step itself is compiled once, with the emulators inside, and its state donated.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax import config_checks, config_schema
from learnmax_jax.acting import actor, envs
from learnmax_jax.acting.actor import ActorState, ActOutput
from learnmax_jax.exploration import novelty
from learnmax_jax.exploration.kind import Parts
from learnmax_jax.exploration.novelty import Novelty
from learnmax_jax.learning import learner, supervision
from learnmax_jax.learning.learner import TrainState
from learnmax_jax.learning.losses import LossWeights
from learnmax_jax.learning.supervision import Supervision
from learnmax_jax.models.support import Support
from learnmax_jax.models.tokenizer import Tokenizer, make_tokenizer
from learnmax_jax.models.world_model import ModelParams, WorldModel, make_world_model
from learnmax_jax.replay.buffer import Replay, ReplayState, make_replay
from learnmax_jax.search import planner
from learnmax_jax.types import Array, Batch, Environments, Metrics, SearchOutput, TimeStep, Transition

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
      act: ActOutput `[E, T, ...]`, the new transitions among it.
      metrics: scalars of the last update; meaningless where `num_updates` is 0.
      num_updates: int32, updates done in this step.
      batch: of the first update that was not finite, else of the last.
      finite: bool, every search and every update was finite.
    """

    act: ActOutput
    metrics: Metrics
    num_updates: Array
    batch: Batch
    finite: Array


@dataclasses.dataclass(frozen=True)
class Player:
    """The parts that play: all that evaluation needs.

    Attributes:
      config: the config.
      environments, tokenizer, world_model, support: the parts.
      plan: planner.plan with its tuning bound.
      act: actor.act with its parts bound, but for `observe`.
    """

    config: Any
    environments: Environments
    tokenizer: Tokenizer
    world_model: WorldModel
    support: Support
    plan: Callable[..., SearchOutput]
    act: Callable[..., tuple[ActorState, Any, ActOutput]]


@dataclasses.dataclass(frozen=True)
class Agent:
    """A player that learns; see `build`.

    Attributes:
      config: the config.
      player: Player.
      environments, tokenizer, world_model: the player's.
      replay: Replay.
      novelty: the kinds of exploration, together.
      steps_per_call: E T, env steps of one act-learn step.
      updates_per_step: U.
      act: (ModelParams, ActorState, novelty, rng_key) -> (ActorState, novelty, ActOutput).
      supervise: supervision.supervise with its parts bound.
      update, update_model, update_tokenizer: learner's, with their parts bound.
      init_train: learner.init with its parts bound.
    """

    config: Any
    player: Player
    environments: Environments
    tokenizer: Tokenizer
    world_model: WorldModel
    replay: Replay
    novelty: Novelty
    steps_per_call: int
    updates_per_step: int
    act: Callable[..., tuple[ActorState, Any, ActOutput]]
    supervise: Callable[..., Supervision]
    update: Callable[..., tuple[TrainState, Array, Metrics]]
    update_model: Callable[..., tuple[TrainState, Array, Metrics]]
    update_tokenizer: Callable[..., tuple[TrainState, Metrics]]
    init_train: Callable[[Array, Array], TrainState]


def build_player(config: Any) -> Player:
    """Binds the parts that play to their sections of the config; nothing is compiled.

    Raises:
      ValueError: a part refuses its section.
    """
    environments = envs.make(**config.env, world=config_schema.optional_section(config, "world"))
    growth = config_schema.optional_section(config, "growth") or None
    tokenizer = make_tokenizer(observation_shape=environments.observation_shape, growth=growth, **config.tokenizer)
    support = Support(**config.support)
    world_model = make_world_model(
        tokenizer,
        num_actions=environments.num_actions,
        action_names=environments.action_names,
        num_bins=support.num_bins,
        **config.dynamics,
    )
    returns = config.returns
    plan = partial(
        planner.plan,
        world_model=world_model,
        support=support,
        discounts=(returns.extrinsic_discount, returns.intrinsic_discount),
        intrinsic_crosses_end=returns.intrinsic_crosses_end,
        **config.search,
    )
    act = partial(
        actor.act, world_model=world_model, environments=environments, plan=plan, num_steps=config.actor.num_steps
    )
    return Player(config, environments, tokenizer, world_model, support, plan, act)


def build(config: Any) -> Agent:
    """Binds every part to its section of the config; nothing is compiled or allocated.

    Raises:
      ValueError: a part refuses its section.
    """
    player = build_player(config)
    settings = config.learner
    kinds = novelty.make(
        Parts(
            num_envs=config.env.num_envs,
            observation_shape=player.environments.observation_shape,
            tokenizer=player.tokenizer,
            world_model=player.world_model,
            latent_width=config.dynamics.width,
        ),
        {name: config_schema.optional_section(config, name) for name in novelty.KINDS if name in config},
    )
    rates = ("learning_rate", "warmup_updates", "weight_decay", "clip_norm")
    optimizer = learner.make_optimizer(**{name: settings[name] for name in rates})
    tokenizer_optimizer = learner.make_optimizer(**{name: config.tokenizer_learner[name] for name in rates})
    supervise = partial(
        supervision.supervise,
        world_model=player.world_model,
        support=player.support,
        plan=player.plan,
        num_reanalysed=round(settings.reanalyse_fraction * settings.batch_size),
        **config.returns,
    )
    ring = ("kind", "capacity", "min_size", "priority_exponent", "importance_exponent")
    model_parts = {
        "world_model": player.world_model,
        "support": player.support,
        "optimizer": optimizer,
        "loss_weights": LossWeights(**config.loss_weights),
        "unroll_steps": settings.unroll_steps,
        "num_unrolls": settings.num_unrolls,
        "target_decay": settings.target_decay,
    }
    tokenizer_parts = {"tokenizer": player.tokenizer, "tokenizer_optimizer": tokenizer_optimizer}
    return Agent(
        config=config,
        player=player,
        environments=player.environments,
        tokenizer=player.tokenizer,
        world_model=player.world_model,
        replay=make_replay(
            num_envs=config.env.num_envs,
            chunk_length=config.actor.num_steps,
            batch_size=settings.batch_size,
            sequence_length=settings.sequence_length,
            **{name: config.replay[name] for name in ring},
        ),
        novelty=kinds,
        steps_per_call=config.env.num_envs * config.actor.num_steps,
        updates_per_step=config_checks.updates_per_step(config),
        act=partial(player.act, observe=kinds.observe),
        supervise=supervise,
        update=partial(learner.update, supervise=supervise, **model_parts, **tokenizer_parts),
        update_model=partial(learner.update_model, **model_parts),
        update_tokenizer=partial(learner.update_tokenizer, **tokenizer_parts),
        init_train=partial(learner.init, world_model=player.world_model, optimizer=optimizer, **tokenizer_parts),
    )


def init_state(agent: Agent) -> State:
    """A fresh run's state: parameters, an empty replay, the environments at their reset."""
    # The seed is an argument: another one finds the same program.
    learning = jax.jit(partial(init_learning, agent))(jax.random.key(agent.config.seed))
    env_key = jax.random.fold_in(learning["rng_key"], _RESET)
    return State(actor=start_actor(agent.player, learning["train"].model, env_key), **learning)


def state_spec(agent: Agent) -> State:
    """The state's shapes and dtypes, without making it; `actor` is None where it is not restorable."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    learning = jax.eval_shape(partial(init_learning, agent), key)
    actor_spec = None
    if agent.environments.restorable:
        actor_spec = jax.eval_shape(partial(start_actor, agent.player), learning["train"].model, key)
    return State(actor=actor_spec, **learning)


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
    return actor_at(player, params, *player.environments.reset(rng_key))


def actor_at(player: Player, params: ModelParams, env_state: Any, time_step: TimeStep) -> ActorState:
    """An actor with an empty memory at the environments' reset."""
    window, exploration = player.config.actor.window, player.config.exploration
    memory = actor.init_memory(player.world_model, params, time_step.observation, window=window)
    betas = actor.spread_betas(
        player.environments.num_envs, num_exploit_envs=exploration.num_exploit_envs, beta_max=exploration.beta_max
    )
    return actor.init_actor(env_state, time_step, memory, betas)


def transition_spec(agent: Agent) -> Transition:
    """Shapes and dtypes of one row of every environment, `[E, ...]`."""
    num_envs = agent.config.env.num_envs

    def spec(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((num_envs, *shape), dtype)

    return Transition(
        observation=spec(jnp.uint8, *agent.environments.observation_shape),
        action=spec(jnp.int32),
        reward=spec(jnp.float32),
        discount=spec(jnp.float32),
        first=spec(jnp.bool_),
        last=spec(jnp.bool_),
        valid=spec(jnp.bool_),
        episode_step=spec(jnp.int32),
        beta=spec(jnp.float32),
        search_policy=spec(jnp.float16, agent.environments.num_actions),
        search_value=spec(jnp.float32),
        novelty_key=spec(jnp.uint32, 2),
        first_visit=spec(jnp.bool_),
    )


def act_learn_step(state: State, *, agent: Agent) -> tuple[State, Outputs]:
    """Plays T steps in every environment, stores them, and learns from the replay.

    Args:
      state: State; donate it, or the replay is copied.
      agent: the parts.
    Returns:
      (State, Outputs).
    """
    step_key = jax.random.fold_in(state.rng_key, state.step)
    act_key, learn_key = jax.random.split(step_key)
    acted, watched, output = agent.act(state.train.model, state.actor, state.novelty, act_key)
    replay = agent.replay.add(state.replay, output.transitions)
    num_updates = jnp.where(agent.replay.can_sample(replay), agent.updates_per_step, 0)
    learned = learn(state.train, replay, watched, acted.beta, learn_key, num_updates, agent=agent)
    state = state.replace(
        actor=acted, train=learned.train, replay=learned.replay, novelty=learned.novelty, step=state.step + 1
    )
    outputs = Outputs(
        act=output,
        metrics=learned.metrics | _named(agent.novelty.metrics(learned.novelty)),
        num_updates=num_updates,
        batch=learned.batch,
        finite=learned.finite & output.finite.all(),
    )
    return state, outputs


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
        return agent.replay.sample(replay, key)

    def one(index: Array, learned: Learned) -> Learned:
        keys = jax.random.split(jax.random.fold_in(rng_key, index), 4)
        sample_key, frame_key, update_key, novelty_key = keys
        batch = sample(learned.replay, sample_key)
        paid = agent.novelty.pay(learned.novelty, learned.train.target_model, batch, novelty_key)
        frames = _tokenizer_frames(agent, learned.replay, paid.state, batch, frame_key)
        train, priorities, metrics = agent.update(
            learned.train, batch, paid.bonus, frames, betas, update_key, paid.supposed
        )
        return Learned(
            train=train,
            replay=agent.replay.update_priorities(learned.replay, batch.index, priorities),
            novelty=paid.state,
            metrics=metrics | _named(paid.metrics),
            batch=jax.tree.map(lambda new, old: jnp.where(learned.finite, new, old), batch, learned.batch),
            finite=learned.finite & (metrics["finite"] > 0),
        )

    batch = _zeros(jax.eval_shape(sample, replay, rng_key))
    nothing = Learned(train, replay, novelty, {}, batch, jnp.ones((), bool))
    metrics = _zeros(jax.eval_shape(one, num_updates, nothing).metrics)
    return jax.lax.fori_loop(0, num_updates, one, nothing.replace(metrics=metrics))


def _tokenizer_frames(agent: Agent, replay: ReplayState, novelty: Any, batch: Batch, rng_key: Array) -> Array:
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


def compile_step(agent: Agent) -> Callable[[State], tuple[State, Outputs]]:
    """`act_learn_step` compiled for donated state: state -> (state, outputs)."""
    return jax.jit(partial(act_learn_step, agent=agent), donate_argnums=0)


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
