"""Ours beside published systems at their sizes: a forward pass of collecting, from a frame to a searched action."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from learnmax_jax import config, results
from learnmax_jax.agent import Player
from learnmax_jax.benchmark import searches, timing
from learnmax_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Peer:
    """A figure of somebody else's.

    Attributes:
      system: whose. per_second: as told; unit: searches or environment steps.
      num_envs, num_simulations: its sizes; 0 where they are not told.
      about: how it was measured.
    """

    system: str
    per_second: str
    unit: str
    num_envs: int
    num_simulations: int
    about: str


_UNIZERO = "collect forward, width 128, 2 layers, 6 actions, ResNet encoder on 64x64x3, 2 cores"
PEERS = (
    Peer("UniZero (LightZero, August 2026)", "36-38", "searches", 8, 8, _UNIZERO),
    Peer("UniZero (LightZero, August 2026)", "45", "searches", 16, 16, _UNIZERO),
    Peer("UniZero (LightZero, August 2026)", "71 at best", "searches", 32, 16, _UNIZERO),
    Peer("LightZero, asynchronous pipeline", "36", "environment steps", 0, 0, "Pong, with a GPU, as they report"),
)


def measure(settings: config.Settings, *, rounds: int) -> list[dict[str, Any]]:
    """Searches a second from pixels at the peers' sizes: tokenise a frame, append it to the context, search.

    Width, layers, actions and frames are this config's and said in the rows.
    """
    rows = []
    sizes = [(peer.num_envs, peer.num_simulations) for peer in PEERS if peer.num_envs]
    items = [(f"{num_envs} environments x {sims} simulations", (num_envs, sims)) for num_envs, sims in sizes]
    for _, (num_envs, num_simulations) in timing.told(items, len(items)):
        player = searches.player_with(settings, {"search.num_simulations": num_simulations})
        call = forward(player, num_envs)
        jax.block_until_ready(call())
        seconds = timing.medians(timing.interleaved({"forward": call}, rounds=rounds))["forward"]
        dynamics, shape = settings.dynamics, player.environments.observation_shape
        about = (
            f"from frame to action, width {dynamics.width}, {dynamics.num_layers} layers, "
            f"window {searches.WINDOWS[0]}, {player.environments.num_actions} actions, "
            f"frames {'x'.join(map(str, shape))}"
        )
        rows.append(
            {
                "num_envs": num_envs,
                "num_simulations": num_simulations,
                "searches_per_second": num_envs / seconds,
                "about": about,
            }
        )
    return rows


def forward(player: Player, num_envs: int) -> Callable[[], Any]:
    """A batch's forward pass, as a call without arguments."""
    params, window, model = searches.params_of(player), searches.WINDOWS[0], player.world_model
    shape = (num_envs, window - 1, player.tokenizer.num_tokens, player.tokenizer.num_groups)
    codes = jax.random.randint(jax.random.key(1), shape, 0, player.tokenizer.num_codes)
    frames = jax.random.randint(jax.random.key(2), (num_envs, *player.environments.observation_shape), 0, 256)
    action = jnp.zeros(shape[:2], jnp.int32)

    def collect(params: Any, made: Any, observation: Array, key: Array) -> Any:
        codes = model.tokenise(params, observation)
        made, latent = model.extend(params, made, codes, action[:, 0], action[:, 0] > 0)
        return player.plan(params, key, made, latent, codes, jnp.zeros((num_envs,)))

    made, _ = jax.jit(partial(model.context, capacity=window))(params, codes, action, action > 0)
    return partial(jax.jit(collect), params, made, frames.astype(jnp.uint8), jax.random.key(0))


def markdown(rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> str:
    """Theirs and ours, row by row; figures are those of parts.measure."""
    cells = []
    for peer in PEERS:
        size = f"{peer.num_envs} x {peer.num_simulations}" if peer.num_envs else "-"
        cells.append([peer.system, size, f"{peer.per_second} {peer.unit}", peer.about])
        for row in rows:
            if (row["num_envs"], row["num_simulations"]) == (peer.num_envs, peer.num_simulations):
                cells.append(["ours", size, f"{row['searches_per_second']:,.0f} searches", row["about"]])
    steps, ratio = figures["step_steps_per_second"], figures["replay_ratio"]
    whole = f"the whole step, learning at replay ratio {ratio:g}, on {figures['cores']} cores"
    cells.append(["ours", "the config's", f"{steps:,.0f} environment steps", whole])
    return results.markdown(("system", "environments x simulations", "a second", "how"), cells)
