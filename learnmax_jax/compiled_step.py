"""The step compiled: its two halves as programs of their own, the emulators inside the first, the state donated.

A program with emulators inside is found in no compile cache; learning, which is, is four fifths of the compilation.
"""

import dataclasses
import threading
from collections.abc import Callable
from concurrent import futures
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from learnmax_jax import devices
from learnmax_jax import step as steps
from learnmax_jax.agent import Agent
from learnmax_jax.step import Outputs, State


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """`act_learn_step` for donated state: state -> (state, outputs).

    Attributes:
      acting: `act_and_store`. learning: `learn_and_tell`. Each is compiled in a thread of its own; whatever fails
        there is raised by the first step.
    """

    acting: futures.Future[jax.stages.Compiled]
    learning: futures.Future[jax.stages.Compiled]

    def __call__(self, state: State) -> tuple[State, Outputs]:
        """One step."""
        return steps.one_after_the_other(self.acting.result(), self.learning.result())(state)


def compile_step(agent: Agent, state: State) -> CompiledStep:
    """Compiles the step's halves, beside whatever the caller does next.

    Acting is traced first, so that it compiles while learning is traced.

    Args:
      agent: the parts.
      state: of which the shapes count, and the emulators, which acting holds from then on.
    """
    spec = steps.spec_of(agent.mesh, state)
    acting = jax.jit(partial(steps.act_and_store, agent=agent), donate_argnums=0).lower(spec)
    learning = jax.jit(partial(steps.learn_and_tell, agent=agent), donate_argnums=0)
    rows = agent.config.env.num_envs, agent.config.actor.num_steps
    told = (
        spec.replace(actor=None),
        jax.ShapeDtypeStruct(rows[:1], jnp.float32, sharding=devices.split(agent.mesh)),
        jax.ShapeDtypeStruct(rows, jnp.bool_, sharding=devices.whole(agent.mesh)),
    )
    return CompiledStep(
        acting=_in_a_thread(acting.compile), learning=_in_a_thread(lambda: learning.lower(*told).compile())
    )


def _in_a_thread(function: Callable[[], Any]) -> futures.Future[Any]:
    """What the function gives or raises; a process that ends does not wait for it, as for an executor's threads."""
    told: futures.Future[Any] = futures.Future()

    def run() -> None:
        try:
            told.set_result(function())
        except BaseException as problem:
            told.set_exception(problem)

    threading.Thread(target=run, name="compile", daemon=True).start()
    return told
