"""Weak scaling on forced host devices: environments and batch grow with their number, each in a process of its own.

Forced devices share the cores, so that time grows with them at best. What is told is the time over that of
one device which does all the work: 1 where splitting costs nothing.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from learnmax_jax import config, devices, lifecycle, results
from learnmax_jax.benchmark import timing

ALLOWED = (1, 2, 4, 8, 16)
TIMEOUT_SECONDS = 900
# What grows with the work.
_GROWING = (
    "env.num_envs", "exploration.num_exploit_envs", "learner.batch_size", "tokenizer_learner.batch_size",
    "replay.capacity", "replay.min_size",
)  # fmt: skip


def read_counts(text: str) -> tuple[int, ...]:
    """The numbers of devices that a flag names, rising.

    Raises:
      BadInput: what is not one of them.
    """
    counts = []
    for part in text.split(","):
        if not part.strip().isdigit() or int(part) not in ALLOWED:
            nearest = min(ALLOWED, key=lambda n: abs(n - int(part))) if part.strip().lstrip("-").isdigit() else 1
            allowed = ", ".join(map(str, ALLOWED))
            raise lifecycle.BadInput(f"--devices={part.strip()}: unknown. Allowed: {allowed}. Nearest: {nearest}")
        counts.append(int(part))
    return tuple(sorted(set(counts)))


def measure(settings: config.Settings, counts: Sequence[int], *, rounds: int) -> list[dict[str, Any]]:
    """Times the step for each number of devices, and one device with the same work.

    Raises:
      BadInput: a process failed, or the config does not divide; its own words.
    """
    runs = sorted({(number, work) for work in counts for number in {1, work}}, key=lambda run: (run[1], run[0]))
    items = [(f"{number} devices, {work} times the work", (number, work)) for number, work in runs]
    seconds = {}
    for _, (number, work) in timing.told(items, len(items)):
        seconds[number, work] = _run(settings, number, work, rounds)
    return [
        {
            "devices": count,
            "num_envs": count * settings.env.num_envs,
            "seconds": seconds[count, count],
            "one_device_seconds": seconds[1, count],
            "ratio": seconds[count, count] / seconds[1, count],
        }
        for count in counts
    ]


def times(settings: config.Settings, work: int) -> dict[str, Any]:
    """The config's values with so many times the environments, batch and replay, as nested dicts."""
    section = config.thaw(settings)
    flat = {name: section[name.split(".")[0]][name.split(".")[1]] * work for name in _GROWING}
    section.update_from_flattened_dict(flat)
    return section.to_dict()


def _run(settings: config.Settings, num_devices: int, work: int, rounds: int) -> float:
    """Seconds of a step in a process that has so many devices."""
    environment = os.environ | devices.forced(num_devices)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "scaled.py"
        values = times(settings, work)
        path.write_text(
            f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({values!r})\n"
        )
        command = [sys.executable, "-m", "experiments.bench", f"--config={path}", "--only=step", "--json"]
        try:
            ended = subprocess.run(
                [*command, f"--rounds={rounds}"],
                cwd=config.REPOSITORY,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise lifecycle.BadInput(
                f"--devices={num_devices}: {work} times the work took over {TIMEOUT_SECONDS} s. "
                "Allowed: fewer devices, a smaller config or fewer --rounds."
            ) from None
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise lifecycle.BadInput(f"--devices={num_devices}: exit code {ended.returncode}: {last}")
    return float(json.loads(ended.stdout.splitlines()[-1])["step_seconds"])


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a number of devices."""
    header = ("devices", "environments", "s a step", "s of one device with all the work", "ratio")
    cells = [
        [
            str(row["devices"]),
            f"{row['num_envs']:,}",
            f"{row['seconds']:.3g}",
            f"{row['one_device_seconds']:.3g}",
            f"{row['ratio']:.2f}",
        ]
        for row in rows
    ]
    return results.markdown(header, cells)
