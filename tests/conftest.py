"""Settings of every test; they must stand before the first import of JAX."""

import importlib.metadata
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Repeated runs, and the commands that tests start, find their compiled programs here.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# Tests compile more than they run: the older emitters compile in half the time. Later jaxlibs refuse the flag.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()

from learnmax_jax import config as settings_door

settings_door.set_xla_flags()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = pytest.mark.skip(reason="slow: runs with --slow")
    gpu = pytest.mark.skip(reason="needs an accelerator")
    # Asked only when a test wants one: the answer starts JAX's backends.
    no_accelerator = any("gpu" in item.keywords for item in items) and jax.default_backend() == "cpu"
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(slow)
        if "gpu" in item.keywords and no_accelerator:
            item.add_marker(gpu)
