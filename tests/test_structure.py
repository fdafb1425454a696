"""The rules between files, read from their imports and calls."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(
    path for folder in ("learnmax_jax", "configs", "experiments") for path in (ROOT / folder).rglob("*.py")
)

# What a room may import of the package; it may always import itself.
ROOMS = {
    "types": set(),
    "models": {"types"},
    "search": {"types", "models"},
    "exploration": {"types", "models"},
    "replay": {"types"},
    "worlds": {"types"},
    "measures": {"types", "models"},
    "acting": {"types", "models", "search", "worlds", "devices"},
    "learning": {"types", "models", "search"},
}
# Files beside the rooms that know less than all of them.
FILES = {
    "lifecycle": set(),
    "config_fields": set(),
    "config_schema": {"lifecycle", "config_fields"},
    "config_checks": {"lifecycle", "config_schema", "acting", "models", "replay"},
    "config": {"lifecycle", "config_fields", "config_schema", "config_checks"},
    "checkpoints": {"lifecycle"},
    "postmortem": {"lifecycle"},
    "metrics": set(),
    "devices": set(),
    "cluster": {"lifecycle"},
}
# Libraries that only one place may know.
HOMES = {
    "flax.linen": "learnmax_jax/models/",
    "mctx": "learnmax_jax/search/",
    "envpool": "learnmax_jax/acting/envs.py",
    "orbax": ("learnmax_jax/checkpoints.py", "learnmax_jax/cluster.py"),
    "tensorboardX": "learnmax_jax/metrics.py",
}
# S1: what turns data into code.
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "yaml", "joblib", "runpy"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
# The user's own config file is the one file that is executed by its path.
DYNAMIC_IMPORTS = {"import_module", "spec_from_file_location", "exec_module"}
EXECUTES_CONFIGS = "learnmax_jax/config.py"
# Who may read what the emulator's RAM tells: it is made here, and counted here; nothing learns or acts on it.
PROBE_READERS = ("learnmax_jax/types.py", "learnmax_jax/acting/", "learnmax_jax/worlds/", "learnmax_jax/evaluation.py")
PROBE_NAMES = {"probe", "Probe", "ram", "probe_ram", "probes"}
PROBE_REPORTERS = (
    "learnmax_jax/tally.py",
    "learnmax_jax/positions.py",
    "learnmax_jax/recording.py",  # beside the data set, never in it
    "learnmax_jax/examination/",
    "experiments/",
)


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Full dotted names of all that is imported, at the top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_complaints(file: str, source: str) -> list[str]:
    """What a file imports and may not; `file` is relative to the repository."""
    parts = pathlib.PurePath(file).with_suffix("").parts
    complaints = []
    for name in imports_of(ast.parse(source)):
        if parts[0] == "learnmax_jax" and name.split(".")[0] in ("experiments", "configs", "tests"):
            complaints.append(f"{file} imports {name}")
        if parts[0] == "learnmax_jax" and len(parts) > 1 and name.startswith("learnmax_jax."):
            room, target = parts[1], name.split(".")[1]
            allowed = ROOMS.get(room, FILES.get(room))
            if allowed is not None and target not in allowed | {room}:
                complaints.append(f"{file} imports {name}")
        for library, home in HOMES.items():
            if f"{name}.".startswith(f"{library}.") and not file.startswith(home):
                complaints.append(f"{file} imports {name}")
    return complaints


def security_complaints(file: str, source: str) -> list[str]:
    """What a file calls or imports that turns data into code."""
    tree = ast.parse(source)
    complaints = [f"{file} imports {name}" for name in imports_of(tree) if name.split(".")[0] in FORBIDDEN_MODULES]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            complaints.append(f"{file}:{node.lineno} calls {node.func.id}")
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in DYNAMIC_IMPORTS and file != EXECUTES_CONFIGS:
            complaints.append(f"{file}:{node.lineno} calls {called}")
        complaints += [f"{file}:{node.lineno} allows pickle" for word in node.keywords if word.arg == "allow_pickle"]
    return complaints


def probe_complaints(file: str, source: str) -> list[str]:
    """Where a file that learns or acts reads the emulator's RAM."""
    if file.startswith(PROBE_READERS + PROBE_REPORTERS):
        return []
    tree = ast.parse(source)
    names = [name.rpartition(".")[2] for name in imports_of(tree)]
    names += [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [f"{file} reads {name}" for name in names if name in PROBE_NAMES]


RULES = (import_complaints, security_complaints, probe_complaints)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rules(rule) -> None:
    assert len(SOURCES) > 20
    assert [line for path in SOURCES for line in rule(str(path.relative_to(ROOT)), path.read_text())] == []


@pytest.mark.parametrize(
    ("rule", "file", "source"),
    [
        (import_complaints, "learnmax_jax/acting/actor.py", "from learnmax_jax.learning import targets"),
        (import_complaints, "learnmax_jax/learning/losses.py", "from learnmax_jax.acting import actor"),
        (import_complaints, "learnmax_jax/learning/losses.py", "from learnmax_jax import train"),
        (import_complaints, "learnmax_jax/models/heads.py", "from learnmax_jax.search.planner import plan"),
        (import_complaints, "learnmax_jax/replay/buffer.py", "def f():\n    import learnmax_jax.models.support"),
        (import_complaints, "learnmax_jax/types.py", "from learnmax_jax.models import support"),
        (import_complaints, "learnmax_jax/lifecycle.py", "from learnmax_jax import config"),
        (import_complaints, "learnmax_jax/train.py", "from configs import base"),
        (import_complaints, "learnmax_jax/learning/learner.py", "from flax import linen as nn"),
        (import_complaints, "learnmax_jax/acting/backends.py", "def f():\n    import envpool.atari"),
        (import_complaints, "learnmax_jax/acting/actor.py", "import mctx"),
        (security_complaints, "learnmax_jax/train.py", "import pickle"),
        (security_complaints, "learnmax_jax/train.py", "from yaml import load"),
        (security_complaints, "learnmax_jax/train.py", "eval('1')"),
        (security_complaints, "learnmax_jax/train.py", "np.load(path, allow_pickle=True)"),
        (security_complaints, "learnmax_jax/train.py", "importlib.import_module(name)"),
        (probe_complaints, "learnmax_jax/exploration/novelty.py", "key = time_step.probe.room"),
        (probe_complaints, "learnmax_jax/learning/losses.py", "from learnmax_jax.types import Probe"),
    ],
)
def test_the_rules_catch_what_breaks_them(rule, file: str, source: str) -> None:
    assert rule(file, source)


def test_the_rules_let_pass_what_keeps_them() -> None:
    fine = "import re\nfrom flax import struct\nfrom learnmax_jax.models import support\nre.compile('x')"
    assert not [line for rule in RULES for line in rule("learnmax_jax/search/planner.py", fine)]


def test_no_drawers_for_everything() -> None:
    names = {path.stem for path in SOURCES if path.parts[-2] != "configs"}
    assert not names & {"utils", "helpers", "common", "misc", "registry", "factory", "base"}
