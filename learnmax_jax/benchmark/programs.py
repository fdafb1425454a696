"""The compiled step and its parts, each as a call of its own on real transitions."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from learnmax_jax import compiled_step
from learnmax_jax import step as steps
from learnmax_jax.agent import Agent
from learnmax_jax.step import State
from learnmax_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Program:
    """A part, compiled.

    Attributes:
      call: runs it once; it feeds itself where its result is its next state.
      compiled: what XLA tells of each program that it runs.
      per_step: how often one act-learn step does it.
      compile_seconds: tracing included.
      trips: of the learner's loop in it, whose number is not in the program; see costs.cost.
    """

    call: Callable[[], Any]
    compiled: tuple[Any, ...]
    per_step: int
    compile_seconds: float
    trips: int = 1


def compile_part(
    function: Callable,
    state: Any,
    *fixed: Any,
    per_step: int = 1,
    keeps: bool = False,
    donates: bool = False,
    trips: int = 1,
) -> Program:
    """Compiles (state, rng_key, *fixed) -> result, and runs it once.

    Args:
      function: of the part.
      state: its first argument.
      *fixed: its last ones.
      per_step, trips: as in Program.
      keeps: its result is its next state.
      donates: its state is given away; `keeps` only.
    """
    begin = time.perf_counter()
    jitted = jax.jit(function, donate_argnums=0 if donates else ())
    compiled = jitted.lower(state, jax.random.key(0), *fixed).compile()
    compile_seconds = time.perf_counter() - begin
    held = {"state": state, "calls": 0}
    del state

    def call() -> Any:
        result = compiled(held["state"], jax.random.key(held["calls"]), *fixed)
        held["calls"] += 1
        if keeps:
            held["state"] = result
        return result

    jax.block_until_ready(call())
    return Program(call, (compiled,), per_step, compile_seconds, trips)


def filled(agent: Agent, state: State) -> State:
    """A state whose replay can be sampled, with real transitions: the learner's figures must not be of noise."""
    play = jax.jit(partial(steps.act_and_store, agent=agent), donate_argnums=0)
    while not agent.replay.can_sample(state.replay):
        state, _ = play(state)
        state = state.replace(step=state.step + 1)
    return state


def whole(agent: Agent, state: State, names: tuple[str, ...] = ("act", "learn", "step")) -> dict[str, Program]:
    """The step, and its two halves; each has a copy of the state."""

    def act(state: State, rng_key: Array) -> State:
        return steps.act_and_store(state.replace(rng_key=rng_key), agent=agent)[0]

    def learn(state: State, rng_key: Array) -> State:
        num_updates = jnp.asarray(agent.updates_per_step)
        learned = steps.learn(
            state.train, state.replay, state.novelty, state.actor.beta, rng_key, num_updates, agent=agent
        )
        return state.replace(train=learned.train, replay=learned.replay, novelty=learned.novelty)

    env_key = jax.random.fold_in(state.rng_key, 1)
    functions, parts = {"act": act, "learn": learn}, {}
    for name in names:
        # One pool a part: a program keeps the pool it was traced with.
        copy = jax.tree.map(jnp.copy, state).replace(actor=steps.start_actor(agent.player, state.train.model, env_key))
        copy = steps.place(agent, copy)  # as the step leaves it
        if name == "step":
            parts[name] = _as_run(agent, copy)
        else:
            parts[name] = compile_part(functions[name], copy, keeps=True, donates=True, trips=agent.updates_per_step)
    return parts


def _as_run(agent: Agent, state: State) -> Program:
    """The step as a run has it."""
    begin = time.perf_counter()
    step = compiled_step.compile_step(agent, state)
    compiled = step.acting.result(), step.learning.result()
    compile_seconds = time.perf_counter() - begin
    held = {"state": state}
    del state

    def call() -> State:
        held["state"], _ = step(held["state"])
        return held["state"]

    jax.block_until_ready(call())
    return Program(call, compiled, 1, compile_seconds, agent.updates_per_step)


def pieces(agent: Agent, state: State) -> dict[str, Program]:
    """What the two halves are made of."""
    key, actor, train = jax.random.key(1), state.actor, state.train
    model, num_steps, updates = agent.world_model, agent.config.actor.num_steps, agent.updates_per_step
    capacity = actor.memory.first.shape[1] + num_steps

    def emulators(env_state: Any, rng_key: Array) -> Any:
        def one(env_state: Any, rng_key: Array) -> tuple[Any, Array]:
            action = jax.random.randint(rng_key, (agent.environments.num_envs,), 0, agent.environments.num_actions)
            env_state, time_step = agent.environments.step(env_state, action)
            return env_state, time_step.reward

        return jax.lax.scan(one, env_state, jax.random.split(rng_key, num_steps))[0]

    def tokenise(params: Any, rng_key: Array, observation: Array) -> Array:
        return model.tokenise(params, observation)

    def context(params: Any, rng_key: Array, memory: Any) -> Any:
        return model.context(params, memory.codes, memory.action, memory.first, capacity=capacity)[0]

    def search(params: Any, rng_key: Array, *moment: Any) -> Any:
        return agent.player.plan(params, rng_key, *moment)

    def supervise(params: Any, rng_key: Array, batch: Any, bonus: Array, betas: Array, supposed: Any) -> Any:
        return agent.supervise(params, batch, bonus, rng_key, betas, supposed)

    def update_model(train: Any, rng_key: Array, supervision: Any) -> Any:
        return agent.update_model(train, supervision, rng_key)[0]

    def update_tokenizer(train: Any, rng_key: Array, frames: Array) -> Any:
        return agent.update_tokenizer(train, frames, rng_key, rng_key)[0]

    def moment(params: Any) -> Any:
        codes = model.tokenise(params, actor.observation)
        made, latent = model.extend(params, context(params, key, actor.memory), codes, actor.action, actor.first)
        return made, latent, codes, actor.beta

    batch = jax.jit(agent.replay.sample)(state.replay, key)
    paid = jax.jit(agent.novelty.pay)(state.novelty, train.target_model, batch, key)
    frames = jax.jit(partial(steps.tokenizer_frames, agent))(state.replay, paid.state, batch, key)
    told = (batch, paid.bonus, actor.beta, paid.supposed)
    env_state, _ = agent.environments.reset(jax.random.fold_in(state.rng_key, 2))
    supervised = compile_part(supervise, train.target_model, *told, per_step=updates)
    return {
        "emulators": compile_part(emulators, env_state, keeps=True),
        "tokenise": compile_part(tokenise, train.model, actor.observation, per_step=num_steps),
        "context": compile_part(context, train.model, actor.memory),
        "search": compile_part(search, train.model, *jax.jit(moment)(train.model), per_step=num_steps),
        "supervise": supervised,
        "update model": compile_part(update_model, train, supervised.call(), per_step=updates, keeps=True),
        "update tokenizer": compile_part(update_tokenizer, train, frames, per_step=updates, keeps=True),
    }
