"""Where the time of one step goes: a profile of it, summed by the parts of the source (`jax.named_scope`)."""

import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax

from learnmax_jax import results
from learnmax_jax.benchmark import program_text
from learnmax_jax.benchmark.program_text import ProgramText
from learnmax_jax.benchmark.programs import Program

# Named scopes of actor.act, learner.update and step.py.
SCOPES = (
    "emulators", "tokenise", "context", "search", "novelty", "store", "sample", "supervise", "update_model",
    "update_tokenizer",
)  # fmt: skip
REST = "rest"
_NOT_LEAVES = ("while", "call", "conditional")


def profile(part: Program) -> dict[str, Any]:
    """Profiles one call.

    Returns:
      `seconds`: scope -> seconds of its instructions, added up over threads; `step_seconds`: of the call, profiled.
    """
    texts = [program_text.read(compiled.as_text()) for compiled in part.compiled]
    scopes = {text.module: scope_of_instructions(text) for text in texts}
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(part.call())
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    seconds = dict.fromkeys((*SCOPES, REST), 0.0)
    begin, end = float("inf"), 0.0
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                scope = scopes.get(_module(event), {}).get(event.name)
                if scope is not None:
                    seconds[scope] += event.duration_ns / 1e9
                    begin, end = min(begin, event.start_ns), max(end, event.start_ns + event.duration_ns)
    return {"seconds": seconds, "step_seconds": max(0.0, end - begin) / 1e9}


def _module(event: Any) -> str:
    """The program that an event is of; "" of what is of none."""
    return str(dict(event.stats).get("hlo_module", ""))


def scope_of_instructions(text: ProgramText) -> dict[str, str]:
    """Instruction -> scope, of all that is run by itself; what says nothing belongs to what runs it.

    Loops, calls and branches are left out: their time is that of what is in them.
    """
    scopes: dict[str, str] = {}

    def visit(name: str, outer: str) -> None:
        for line in text.computations.get(name, ()):
            scope = scope_of(line.op_name) or outer
            if line.opcode in _NOT_LEAVES:
                for inner in (*program_text.children(line), *line.called("condition")):
                    visit(inner, scope)
            else:
                scopes[line.name] = scope

    visit(text.entry, REST)
    return scopes


def scope_of(op_name: str) -> str | None:
    """The outermost named scope of a path like `jit(step)/while/body/search/add`; None without one."""
    return next((name for name in op_name.split("/") if name in SCOPES), None)


def markdown(traced: Mapping[str, Any]) -> str:
    """Shares of the profiled time, the largest first."""
    total = sum(traced["seconds"].values()) or 1.0
    ordered = sorted(traced["seconds"].items(), key=lambda item: -item[1])
    rows = [[name.replace("_", " "), f"{1e3 * value:.1f}", f"{value / total:.1%}"] for name, value in ordered]
    return results.markdown(("part", "ms of one step", "share"), rows)
