"""The pictures of the benchmark, if the checkout has any: they are of the code, not of the run."""

import pathlib

from learnmax_jax import config
from learnmax_jax.benchmark import folder

RESULTS = config.REPOSITORY / "docs" / "results"


def pictures() -> list[pathlib.Path]:
    """PNG files, by name."""
    return folder.pictures(RESULTS)
