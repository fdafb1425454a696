"""A fresh run that begins with what another one has learned: the config's section `init`."""

import pathlib

import jax
import jax.numpy as jnp

from learnmax_jax import agent as agents
from learnmax_jax import checkpoints, config, config_schema, lifecycle
from learnmax_jax import step as steps
from learnmax_jax.agent import Agent
from learnmax_jax.learning.learner import TrainState


def begin(agent: Agent, train: TrainState) -> TrainState:
    """Puts what `init.workdir` has learned in place of a fresh state's parameters; without a section it stays fresh.

    Args:
      agent: the parts.
      train: fresh.
    Raises:
      BadInput: the folder holds no good result, or one of other shapes.
    """
    section = config_schema.optional_section(agent.config, "init")
    if not section:
        return train
    learned = restore(pathlib.Path(section["workdir"]))
    if section["parts"] == "tokenizer":
        parts = ("tokenizer", "tokenizer_optimizer_state")
        learned = train.replace(**{name: getattr(learned, name) for name in parts})
    wanted, given = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (train, learned))
    if wanted != given:
        raise lifecycle.BadInput(
            f"init.workdir={section['workdir']}: its networks have other shapes than the config's. Allowed: a run of "
            "the same tokenizer, dynamics, support and optimizer, or --config.init.parts=tokenizer"
        )
    return learned


def restore(workdir: pathlib.Path) -> TrainState:
    """The newest good TrainState of a pretraining, or of a run.

    Raises:
      BadInput: there is none. StorageError: there are checkpoints, and none is good.
    """
    settings = config.check(config.load_saved(workdir / "config.json").as_configdict())
    with lifecycle.bad_input():
        agent = agents.build(settings)
    like = {"train": spec(agent)} if "pretrain" in settings else steps.to_save(agent, steps.state_spec(agent))
    restored = checkpoints.restore(workdir / "checkpoints", like)
    if restored is None:
        raise lifecycle.BadInput(f"init.workdir={workdir}: holds no checkpoint. Allowed: a run that has saved one.")
    return restored.state["train"]


def fresh(agent: Agent) -> TrainState:
    """A new TrainState by the config's seed."""
    return jax.jit(lambda key: agent.init_train(key, _example(agent)))(jax.random.key(agent.config.seed))


def spec(agent: Agent) -> TrainState:
    """Its shapes and dtypes."""
    return jax.eval_shape(lambda key: agent.init_train(key, _example(agent)), jax.random.key(0))


def _example(agent: Agent) -> jax.Array:
    return jnp.zeros((1, *agent.environments.observation_shape), jnp.uint8)
