"""The pictures of the benchmark, if the checkout has any: they are of the code, not of the run."""

import pathlib

from learnmax_jax import config, results

RESULTS = config.REPOSITORY / "docs" / "results"


def pictures() -> list[pathlib.Path]:
    """PNG files that `python -m experiments.bench --out=docs/results` wrote."""
    return results.pictures(RESULTS, "bench")
