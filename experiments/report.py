"""Writes one page of HTML about a run, or a pretraining: curves, pictures, codes, positions, film, config.

    python -m experiments.report --workdir=runs/mine

The page holds its images and needs no network. A run that is still going may be reported too.
"""

from learnmax_jax import config, lifecycle  # first: signals are blocked before other threads start

# isort: split

import pathlib

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
OUT = flags.DEFINE_string("out", None, "The page; report.html in the run's folder if none is given.")


def main(_: config.Settings, __: lifecycle.StopWatcher) -> int:
    """Reads the folder, writes the page."""
    from learnmax_jax.report import folder

    found = folder.read(pathlib.Path(WORKDIR.value))
    # After the folder is read: they import JAX and matplotlib.
    from learnmax_jax import provenance
    from learnmax_jax.report import page

    out = pathlib.Path(OUT.value) if OUT.value else found.path / "report.html"
    damage = page.write(found, out, command=provenance.command())
    print(f"report: {out}", flush=True)
    if damage:
        raise lifecycle.BadInput(f"workdir={found.path}: damaged ({'; '.join(damage)}). The page has the rest.")
    return lifecycle.DONE


if __name__ == "__main__":
    config.run(main, config_path=None)
