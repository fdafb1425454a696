"""The published agents' curves on Montezuma's Revenge, as data/README.md describes them."""

import csv
import importlib.resources

GAME = "MontezumaRevenge-v5"

Curve = list[tuple[int, float]]


def curves() -> dict[tuple[str, str], Curve]:
    """(agent, seed) -> (emulator frames, mean score), by frames."""
    text = importlib.resources.files("learnmax_jax.data").joinpath("montezuma_published.csv").read_text("utf-8")
    known: dict[tuple[str, str], Curve] = {}
    for row in csv.DictReader(text.splitlines()):
        known.setdefault((row["agent"], row["seed"]), []).append((int(row["frames"]), float(row["mean_score"])))
    return {name: sorted(curve) for name, curve in known.items()}
