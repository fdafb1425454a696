"""A config's functions, put together: `build(config)` gives what plays and what learns, on the host and once.

What is done with them, step by step, is in step.py.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from learnmax_jax import config_checks, config_schema, devices
from learnmax_jax.acting import actor, envs
from learnmax_jax.acting.actor import ActorState, ActOutput
from learnmax_jax.config import steps_per_call
from learnmax_jax.exploration import normalise, novelty
from learnmax_jax.exploration.kind import Parts
from learnmax_jax.exploration.novelty import Novelty
from learnmax_jax.learning import learner, supervision
from learnmax_jax.learning.learner import TrainState
from learnmax_jax.learning.losses import LossWeights
from learnmax_jax.learning.supervision import Supervision
from learnmax_jax.models.support import Support
from learnmax_jax.models.tokenizer import Tokenizer, make_tokenizer
from learnmax_jax.models.world_model import WorldModel, make_world_model
from learnmax_jax.replay.buffer import Replay, make_replay
from learnmax_jax.search import planner
from learnmax_jax.types import Array, Environments, Metrics, SearchOutput, Transition


@dataclasses.dataclass(frozen=True)
class Player:
    """The parts that play: all that evaluation needs.

    Attributes:
      config: the config.
      mesh: the devices; see devices.py.
      environments, tokenizer, world_model, support: the parts.
      plan: planner.plan with its tuning bound.
      act: actor.act with its parts bound, but for `observe`.
    """

    config: Any
    mesh: Mesh
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
      mesh, environments, tokenizer, world_model: the player's.
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
    mesh: Mesh
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


def build_player(config: Any, mesh: Mesh | None = None) -> Player:
    """Binds the parts that play to their sections of the config; nothing is compiled.

    Args:
      config: the config.
      mesh: the devices; this process's first one if none is given.

    Raises:
      ValueError: a part refuses its section.
    """
    mesh = mesh or devices.alone()
    groups = envs.make_groups(
        num_groups=config.actor.num_groups,
        world=config_schema.optional_section(config, "world"),
        mesh=mesh,
        **config.env,
    )
    environments = groups.environments
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
        actor.act,
        world_model=world_model,
        groups=groups,
        plan=plan,
        num_steps=config.actor.num_steps,
        **{name: config.exploration[name] for name in ("epsilon", "longest_hold", "longest_way_back")},
    )
    return Player(config, mesh, environments, tokenizer, world_model, support, plan, act)


def build(config: Any, mesh: Mesh | None = None) -> Agent:
    """Binds every part to its section of the config; nothing is compiled or allocated.

    Args:
      config: the config.
      mesh: the devices; this process's first one if none is given.

    Raises:
      ValueError: a part refuses its section.
    """
    player = build_player(config, mesh)
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
    if config.exploration.normalise:
        kinds = normalise.normalised(kinds, discount=config.returns.intrinsic_discount)
    rates = ("learning_rate", "warmup_updates", "decay_updates", "weight_decay", "clip_norm")
    optimizer = learner.make_optimizer(**{name: settings[name] for name in rates})
    if config_schema.optional_section(config, "ablation").get("frozen_dynamics"):
        optimizer = learner.of_heads_alone(optimizer)
    tokenizer_optimizer = learner.make_optimizer(**{name: config.tokenizer_learner[name] for name in rates})
    supervise = partial(
        supervision.supervise,
        world_model=player.world_model,
        support=player.support,
        plan=player.plan,
        num_reanalysed=round(settings.reanalyse_fraction * settings.batch_size),
        exploit_share=settings.reanalyse_exploit_share,
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
        mesh=player.mesh,
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
        steps_per_call=steps_per_call(config),
        updates_per_step=config_checks.updates_per_step(config),
        act=partial(player.act, observe=kinds.observe),
        supervise=supervise,
        update=partial(learner.update, supervise=supervise, **model_parts, **tokenizer_parts),
        update_model=partial(learner.update_model, **model_parts),
        update_tokenizer=partial(learner.update_tokenizer, **tokenizer_parts),
        init_train=partial(learner.init, world_model=player.world_model, optimizer=optimizer, **tokenizer_parts),
    )


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
