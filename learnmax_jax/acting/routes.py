"""Known routes through Montezuma's Revenge: the truth that emulators, pictures and planners are checked against."""

import dataclasses
import importlib.resources
import json


@dataclasses.dataclass(frozen=True)
class Route:
    """One action sequence of the `deterministic` protocol and what it pays.

    Attributes:
      actions: T actions of the 18, in ALE's order.
      rewards: reward by step index; every other step pays 0.
      score: their sum.
    """

    actions: tuple[int, ...]
    rewards: dict[int, float]
    score: float


def load_routes() -> dict[str, Route]:
    """The routes by name: `key` (8-action set), `key_18` and `door_18` (all 18 actions)."""
    text = importlib.resources.files("learnmax_jax.data").joinpath("montezuma_routes.json").read_text("utf-8")
    return {
        name: Route(
            actions=tuple(route["actions"]),
            rewards={int(step): float(reward) for step, reward in route["rewards"]},
            score=float(route["score"]),
        )
        for name, route in json.loads(text)["routes"].items()
    }
