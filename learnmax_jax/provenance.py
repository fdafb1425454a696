"""How a folder came about: each start of a command, with the versions it ran on, a line of `starts.jsonl`."""

import datetime
import importlib.metadata
import json
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

FILE = "starts.jsonl"
_PACKAGES = ("jax", "jaxlib", "flax", "mctx", "envpool", "numpy")


def versions() -> dict[str, str]:
    """What this process runs on: packages, Python, the first device."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return found | {"python": platform.python_version(), "device": jax.devices()[0].device_kind}


def commit() -> str | None:
    """The checkout's commit, with "+" where files differ from it; None outside a checkout or without git."""
    folder = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def command() -> str:
    """This process's command line, without the interpreter's own path: it says nothing on another machine."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def record(workdir: pathlib.Path) -> None:
    """Appends this process's command, start time and versions."""
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    line = {"started": started, "command": command(), "versions": versions(), "commit": commit()}
    with (workdir / FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The starts, oldest first; a line that cannot be read is left out."""
    path = workdir / FILE
    starts = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            start = json.loads(line)
        except ValueError:
            continue
        if isinstance(start, dict) and {"started", "command", "versions"} <= start.keys():
            starts.append(start)
    return starts
