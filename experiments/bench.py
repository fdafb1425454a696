"""Measures what the parts of the compiled step cost, beside the whole and beside what the machine could do.

    python -m experiments.bench --config=configs/base.py --json
    python -m experiments.bench --config=configs/base.py --trace --growth --peers --devices=1,2,4,8 --out=docs/results

Growth takes as long as `--growth_seconds` says, `--devices` several minutes a number: each compiles the step anew.
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

JSON = flags.DEFINE_bool("json", False, "Print one JSON object as the last line instead of a table.")
ROUNDS = flags.DEFINE_integer("rounds", 10, "How often each part is timed; the medians count.", lower_bound=1)
ONLY = flags.DEFINE_enum("only", None, ["step"], "Times the whole step alone, on all devices that there are.")
TRACE = flags.DEFINE_bool("trace", False, "Where the time of one step goes, from a profile.")
GROWTH = flags.DEFINE_bool("growth", False, "How time and memory grow with each size.")
GROWTH_SECONDS = flags.DEFINE_integer("growth_seconds", 480, "What --growth may take, in seconds.", lower_bound=1)
PEERS = flags.DEFINE_bool("peers", False, "Searches from pixels at the sizes of published systems.")
DEVICES = flags.DEFINE_string("devices", None, "Weak scaling over numbers of forced host devices: 1,2,4,8.")
OUT = flags.DEFINE_string("out", None, "A folder for bench.jsonl, bench.md and pictures: docs/results.")


def main(settings: config.Settings, _: lifecycle.StopWatcher) -> int:
    """Measures, prints and writes."""
    import jax

    from learnmax_jax.benchmark import parts, scaling

    jax.config.update("jax_enable_compilation_cache", False)  # else a second run would time the reading of the first's
    counts = scaling.read_counts(DEVICES.value) if DEVICES.value is not None else ()
    out = _out_folder(OUT.value) if OUT.value is not None else None
    if ONLY.value:
        given = [flag for flag in (TRACE, GROWTH, PEERS, DEVICES, OUT) if flag.value]
        if given:
            raise lifecycle.BadInput(f"--{given[0].name}={given[0].value}: with --only. Allowed: without it.")
        figures = parts.measure_step(settings, rounds=ROUNDS.value)
    else:
        figures = parts.measure(settings, rounds=ROUNDS.value, traced=TRACE.value)
        figures |= _extras(settings, counts)
    if out is not None:
        from learnmax_jax import provenance, tables
        from learnmax_jax.benchmark import folder

        folder.put(out, config_name=settings.name, command=provenance.command(), figures=figures)
        tables.write_page(out)
    _print(figures)
    return lifecycle.DONE


def _extras(settings: config.Settings, counts: tuple[int, ...]) -> dict[str, Any]:
    """What is measured only where a flag asks for it."""
    from learnmax_jax.benchmark import growth, peers, scaling

    figures: dict[str, Any] = {}
    if GROWTH.value:
        figures["growth"] = growth.measure(settings, budget_seconds=GROWTH_SECONDS.value)
    if PEERS.value:
        figures["peers"] = peers.measure(settings, rounds=ROUNDS.value)
    if counts:
        figures["scaling"] = scaling.measure(settings, counts, rounds=ROUNDS.value)
    return figures


def _out_folder(text: str) -> pathlib.Path:
    """The folder, made before anything is measured."""
    out = pathlib.Path(text)
    if out.exists() and not out.is_dir():
        raise lifecycle.BadInput(f"--out={text}: is a file. Allowed: a folder. Nearest: {out.parent}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise lifecycle.StorageError(f"--out={text}: cannot be written: {problem.strerror}") from problem
    return out


def _print(figures: Mapping[str, Any]) -> None:
    """One JSON line, or a table."""
    if JSON.value:
        print(json.dumps(figures), flush=True)
        return
    from learnmax_jax.benchmark import growth, peers, roofline, scaling, trace

    tables: dict[str, Callable[[Any], str]] = {
        "roofline": roofline.markdown,
        "trace": trace.markdown,
        "growth": growth.markdown,
        "peers": lambda rows: peers.markdown(rows, figures),
        "scaling": scaling.markdown,
    }
    for name, value in figures.items():
        if name in tables:
            print(f"\n{name}\n{tables[name](value)}", flush=True)
        else:
            print(f"{name:34s} {value:,.4g}" if isinstance(value, int | float) else f"{name:34s} {value}", flush=True)


if __name__ == "__main__":
    config.run(main)
