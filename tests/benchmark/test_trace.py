"""A profile summed by parts."""

import re
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax import agent as agents
from learnmax_jax import step as steps
from learnmax_jax.benchmark import program_text, programs, trace
from tests import runs


def test_the_outermost_scope_counts() -> None:
    assert trace.scope_of("jit(step)/while/body/supervise/search/dot_general") == "supervise"
    assert trace.scope_of("jit(step)/while/body/transpose(jvp(Network.step))/add") is None


def test_what_says_nothing_belongs_to_the_loop_that_runs_it() -> None:
    text = program_text.read(
        """
%body (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %silent = f32[4]{0} copy(%x)
  ROOT %told = f32[4]{0} negate(%silent), metadata={op_name="jit(f)/search/while/body/tokenise/neg"}
}

%condition (y: f32[4]) -> pred[] {
  %y = f32[4]{0} parameter(0)
  ROOT %less = pred[] compare(%y, %y), direction=LT
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %first = f32[4]{0} copy(%a)
  ROOT %loop = f32[4]{0} while(%first), condition=%condition, body=%body, metadata={op_name="jit(f)/context/while"}
}
"""
    )
    scopes = trace.scope_of_instructions(text)
    assert (scopes["silent"], scopes["told"], scopes["less"]) == ("context", "search", "context")
    assert scopes["first"] == trace.REST and "loop" not in scopes


def _waits(scope: str) -> Callable:
    """A part that spends 0.2 s in a scope, and hardly any time in `store`."""

    def wait(x: np.ndarray) -> np.ndarray:
        time.sleep(0.2)
        return x

    def part(x: jax.Array, rng_key: jax.Array) -> jax.Array:
        with jax.named_scope(scope):
            x = jax.pure_callback(wait, x, x)
        with jax.named_scope("store"):
            return jnp.sin(x)

    part.__name__ = f"in_{scope}"  # a program is known by its function's name
    return part


def test_a_slow_part_has_most_of_the_time() -> None:
    traced = trace.profile(programs.compile_part(_waits("emulators"), jnp.zeros((8,))))
    assert 0.15 < traced["seconds"]["emulators"] <= traced["step_seconds"]
    assert traced["seconds"]["store"] < 0.1
    first, *others = [line for line in trace.markdown(traced).splitlines() if line.startswith("| ")][2:]
    assert first.startswith("| emulators |") and len(others) == len(trace.SCOPES)


def test_programs_that_name_their_instructions_alike_are_told_apart() -> None:
    parts = [programs.compile_part(_waits(scope), jnp.zeros((8,))) for scope in ("emulators", "search")]
    names = [set(trace.scope_of_instructions(program_text.read(part.compiled[0].as_text()))) for part in parts]
    assert names[0] == names[1]
    both = programs.Program(lambda: [part.call() for part in parts], parts[0].compiled + parts[1].compiled, 1, 0.0)
    seconds = trace.profile(both)["seconds"]
    assert seconds["emulators"] > 0.15 and seconds["search"] > 0.15


def test_the_step_names_all_scopes() -> None:
    agent = agents.build(runs.tiny())
    spec = steps.state_spec(agent)
    text = jax.jit(partial(steps.act_learn_step, agent=agent)).lower(spec).as_text(debug_info=True)
    found = {name for name in trace.SCOPES if re.search(rf'[/"]{name}[/"]', text)}
    assert found == set(trace.SCOPES)
