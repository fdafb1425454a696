"""A fresh run that begins with what another one has learned: the config's section `init`."""

import pathlib
import re

import jax
import jax.numpy as jnp

from learnmax_jax import agent as agents
from learnmax_jax import checkpoints, config, config_schema, lifecycle
from learnmax_jax import step as steps
from learnmax_jax.agent import Agent
from learnmax_jax.learning.learner import TrainState

# What of a config shapes a TrainState.
_SHAPING = re.compile(
    r"(tokenizer|dynamics|support|ablation)\..*|env\.(backend|game|action_set)"
    r"|(tokenizer_)?learner\.(learning_rate|warmup_updates|decay_updates|weight_decay|clip_norm)"
)

_OPTIONAL = ("growth", "world", "ablation")


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
    workdir = pathlib.Path(section["workdir"])
    if section["parts"] == "tokenizer":
        return _with_tokenizer_of(workdir, train)
    learned = restore(workdir, agent.config)
    wanted, given = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (train, learned))
    if wanted != given:
        raise lifecycle.BadInput(
            f"init.workdir={section['workdir']}: its networks have other shapes than the config's. Allowed: a run of "
            "the same tokenizer, dynamics, support and optimizer, or --config.init.parts=tokenizer"
        )
    return learned


def _with_tokenizer_of(workdir: pathlib.Path, train: TrainState) -> TrainState:
    """The state with another result's tokenizer; of its dynamics, which may be of other code, nothing is asked."""
    learned = {}
    for name in ("tokenizer", "tokenizer_optimizer_state"):
        try:
            restored = checkpoints.restore(workdir / "checkpoints", getattr(train, name), part=f"['train'].{name}")
        except lifecycle.BadInput as complaint:
            raise lifecycle.BadInput(
                f"init.workdir={workdir}: its tokenizer has other shapes: {complaint}"
            ) from complaint
        if restored is None:
            raise _nothing_in(workdir)
        learned[name] = restored.state
    return train.replace(**learned)


def _nothing_in(workdir: pathlib.Path) -> lifecycle.BadInput:
    return lifecycle.BadInput(f"init.workdir={workdir}: holds no checkpoint. Allowed: a run that has saved one.")


def restore(workdir: pathlib.Path, present: config.Settings) -> TrainState:
    """The newest good TrainState of a pretraining, or of a run.

    Args:
      workdir: its folder.
      present: the config of the run that starts from it. It speaks for fields that a pretraining's config does not
        know, so that those of earlier versions can be used as long as the networks are the same.
    Raises:
      BadInput: there is none. StorageError: there are checkpoints, and none is good.
    """
    saved = config.load_saved(workdir / "config.json")
    # A run's checkpoint holds more than its TrainState, and all of its config says what.
    try:
        settings = _as_saved(saved, present) if "pretrain" in saved else config.check(config.thaw(saved))
    except lifecycle.BadInput as complaint:
        raise lifecycle.BadInput(f"init.workdir={workdir}: its config.json: {complaint}") from complaint
    with lifecycle.bad_input():
        agent = agents.build(settings)
    like = {"train": spec(agent)} if "pretrain" in saved else steps.to_save(agent, steps.state_spec(agent))
    restored = checkpoints.restore(workdir / "checkpoints", like)
    if restored is None:
        raise _nothing_in(workdir)
    return restored.state["train"]


def _as_saved(saved: config.Settings, present: config.Settings) -> config.Settings:
    """The present config with all that shapes a TrainState as in the saved one."""
    merged, known = config.thaw(present), config_schema.flatten(present).keys()
    with merged.unlocked():
        for section in (*_OPTIONAL, "curriculum"):
            if section in merged:
                del merged[section]
        for section in _OPTIONAL:
            if section in saved:
                merged[section] = config.thaw(saved)[section]
        for name, value in config_schema.flatten(saved).items():
            if name in known and _SHAPING.fullmatch(name):
                section, _, field = name.rpartition(".")
                merged[section][field] = value
        search = merged.search  # of the present run, for whose actions there may be no room
        search.max_num_considered_actions = min(search.max_num_considered_actions, merged.env.action_set)
    return config.check(merged)


def fresh(agent: Agent) -> TrainState:
    """A new TrainState by the config's seed."""
    return jax.jit(lambda key: agent.init_train(key, _example(agent)))(jax.random.key(agent.config.seed))


def spec(agent: Agent) -> TrainState:
    """Its shapes and dtypes."""
    return jax.eval_shape(lambda key: agent.init_train(key, _example(agent)), jax.random.key(0))


def _example(agent: Agent) -> jax.Array:
    return jnp.zeros((1, *agent.environments.observation_shape), jnp.uint8)
