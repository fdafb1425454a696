"""How time and memory grow, one size at a time: seconds of a batch of searches and of a learner's update.

Each size is a program of its own, and compiling takes most of the time; so sizes are measured from coarse to fine, as
many as fit the budget. Machines drift within minutes: so all sizes of a curve of searches are timed in turn at the end.
Those of updates, which each hold a replay, are timed one by one. Times are the least of a few calls; exponents are
slopes of straight lines through logarithms.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnmax_jax import agent as agents
from learnmax_jax import config, results
from learnmax_jax import step as steps
from learnmax_jax.agent import Agent
from learnmax_jax.benchmark import programs, searches, timing
from learnmax_jax.replay.buffer import ReplayState
from learnmax_jax.types import Array, Transition

ROUNDS = 3
_SIMULATIONS = "search.num_simulations"


@dataclasses.dataclass(frozen=True)
class Curve:
    """What is asked of one size.

    Attributes:
      name: of the curve. what: is timed.
      sizes: all of them, rising.
      at_most: the exponent of time that is promised.
      claim: the promise in words.
      fields: size -> fields of the config that it sets.
    """

    name: str
    what: str
    sizes: tuple[int, ...]
    at_most: float
    claim: str
    fields: Callable[[int], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Point:
    """One size measured: seconds, the program's temporary bytes, and those of the trees or of the replay."""

    size: int
    seconds: float
    temporary_bytes: int
    state_bytes: int


def curves(settings: config.Settings) -> list[Curve]:
    """All curves, round the config's own sizes; searches at 64 environments, 16 simulations, window 8 otherwise."""
    heads, learner, replay = settings.dynamics.num_heads, settings.learner, settings.replay
    chunk = config.steps_per_call(settings)
    widths = tuple(width for width in (64, 128, 256, 512) if width % (2 * heads) == 0)
    capacities = sorted(
        {max(-(-replay.min_size // chunk) * chunk, replay.capacity // n // chunk * chunk) for n in (1, 4, 16)}
    )
    longest = replay.capacity // settings.env.num_envs - 2  # an environment's rows hold a window
    lengths = tuple(learner.sequence_length * n for n in (1, 2, 4) if learner.sequence_length * n <= longest)

    def longer(length: int) -> dict[str, Any]:
        ratio = learner.replay_ratio * length / learner.sequence_length  # as many updates
        return {"learner.sequence_length": length, "learner.replay_ratio": ratio}

    return [
        Curve("simulations", "search", (1, 2, 4, 8, 16, 32, 64), 1.1, "linear", lambda n: {_SIMULATIONS: n}),
        Curve("max_depth", "search", (1, 2, 3, 4, 6, 8), 1.0, "linear at most", lambda n: {"search.max_depth": n}),
        Curve("window", "search", (4, 8, 16, 32, 64), 0.35, "nearly flat", lambda n: {}),
        Curve("environments", "search", (8, 16, 32, 64, 128, 256, 512), 1.1, "linear", lambda n: {}),
        Curve("width", "search", widths, 2.0, "quadratic at most", lambda n: {"dynamics.width": n}),
        Curve("sequence_length", "update", lengths, 1.2, "linear", longer),
        Curve("learner_width", "update", widths, 2.0, "quadratic at most", lambda n: {"dynamics.width": n}),
        Curve("replay_capacity", "update", tuple(capacities), 0.1, "flat", lambda n: {"replay.capacity": n}),
    ]  # fmt: skip


def coarse_to_fine(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(level, size): the ends first, then the middle, then what lies between."""
    levels = {sizes[0]: 0, sizes[-1]: 0}

    def halve(low: int, high: int, level: int) -> None:
        middle = (low + high) // 2
        if low < middle < high:
            levels.setdefault(sizes[middle], level)
            halve(low, middle, level + 1)
            halve(middle, high, level + 1)

    halve(0, len(sizes) - 1, 1)
    return [(level, size) for size, level in levels.items()]


def measure(settings: config.Settings, *, budget_seconds: float) -> list[dict[str, Any]]:
    """Measures all curves as finely as the budget allows.

    Returns:
      A row a curve: its name, what is timed, its points, exponents of time and memory, whether the promise holds.
    """
    wanted = [
        (level, curve.name, size, curve) for curve in curves(settings) for level, size in coarse_to_fine(curve.sizes)
    ]
    # Searches compile sooner than updates: within a level they come first.
    wanted.sort(key=lambda item: (item[0], item[3].what == "update", item[1], item[2]))
    items = [(f"{name} {size:,}", (size, curve)) for _, name, size, curve in wanted]
    points: dict[str, list[Point]] = {}
    calls: dict[str, dict[int, Callable[[], Any]]] = {}
    params: dict[int, Any] = {}  # by width: nothing else shapes them
    for _, (size, curve) in timing.told(items, len(items), budget_seconds=budget_seconds):
        if curve.what == "search":
            point, calls.setdefault(curve.name, {})[size] = _search_point(settings, curve, size, params)
        else:
            point = _update_point(settings, curve, size)
        points.setdefault(curve.name, []).append(point)
    for name, by_size in calls.items():
        seconds = timing.interleaved(by_size, rounds=ROUNDS)
        points[name] = [dataclasses.replace(point, seconds=min(seconds[point.size])) for point in points[name]]
    return [row(curve, points[curve.name]) for curve in curves(settings) if curve.name in points]


def row(curve: Curve, points: Sequence[Point]) -> dict[str, Any]:
    """A curve's points with what they say."""
    points = sorted(points, key=lambda point: point.size)
    found = exponent([(point.size, point.seconds) for point in points])
    return {
        "name": curve.name,
        "what": curve.what,
        "points": [dataclasses.asdict(point) for point in points],
        "exponent": found,
        "memory_exponent": exponent([(point.size, point.temporary_bytes) for point in points]),
        "at_most": curve.at_most,
        "claim": curve.claim,
        "holds": None if found is None else found <= curve.at_most,
    }


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """Slope of log y over log x by least squares, of the upper half of the sizes, at least three; None of less than 2.

    Below, what does not grow hides what does: seconds are a + b n.
    """
    kept = sorted((x, y) for x, y in points if x > 0 and y > 0)
    kept = kept[-max(3, -(-len(kept) // 2)) :]
    if len({x for x, _ in kept}) < 2:
        return None
    x, y = np.log(np.array(kept)).T
    return float(np.polyfit(x, y, 1)[0])


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A line a curve."""
    header = ("seconds of", "against", "sizes", "ms", "exponent", "promised", "holds", "exponent of temporary bytes")
    cells = []
    for row in rows:
        points = row["points"]
        cells.append(
            [
                "64 searches" if row["what"] == "search" and row["name"] != "environments" else row["what"],
                row["name"].replace("_", " "),
                " ".join(f"{point['size']:,}" for point in points),
                " ".join(f"{1e3 * point['seconds']:.3g}" for point in points),
                _number(row["exponent"]),
                f"{row['claim']}: at most {row['at_most']:g}",
                {True: "yes", False: "**no**", None: "-"}[row["holds"]],
                _number(row["memory_exponent"]),
            ]
        )
    return results.markdown(header, cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _search_point(
    settings: config.Settings, curve: Curve, size: int, known: dict[int, Any]
) -> tuple[Point, Callable[[], Any]]:
    """A batch of searches that has run once, and the call to time it by; parameters of a width are made once."""
    player = searches.player_with(settings, {_SIMULATIONS: searches.SIMULATIONS} | curve.fields(size))
    num_envs = size if curve.name == "environments" else searches.ENVIRONMENTS
    window = size if curve.name == "window" else searches.WINDOWS[0]
    width = player.config.dynamics.width
    params = known[width] = known[width] if width in known else searches.params_of(player)
    context, root = searches.roots(player, num_envs, window)
    told = (params, *jax.jit(context)(params), jax.random.key(0))
    compiled = jax.jit(root).lower(*told).compile()
    call = partial(compiled, *told)
    point = Point(size, timing.seconds_of(call), _temporary_bytes(compiled), searches.tree_bytes(player, num_envs))
    return point, call


def _update_point(settings: config.Settings, curve: Curve, size: int) -> Point:
    """Seconds of one update: sample, novelty, targets, both models; the replay is donated, as in the step."""
    section = config.thaw(settings)
    section.update_from_flattened_dict(curve.fields(size))
    agent = agents.build(config.Settings(section))
    made = jax.jit(partial(steps.init_learning, agent))(jax.random.key(0))
    state = made["train"], imagined(agent, made.pop("replay")), made["novelty"]
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state[1]))

    def update(state: tuple, rng_key: Array, betas: Array) -> tuple:
        train, replay, novelty = state
        learned = steps.learn(train, replay, novelty, betas, rng_key, jnp.asarray(1), agent=agent)
        return learned.train, learned.replay, learned.novelty

    part = programs.compile_part(update, state, jnp.zeros((agent.config.env.num_envs,)), keeps=True, donates=True)
    return Point(size, timing.least(part.call, rounds=ROUNDS), _temporary_bytes(*part.compiled), num_bytes)


def imagined(agent: Agent, replay: ReplayState) -> ReplayState:
    """A replay that can be sampled, filled with noise: emulators need not be compiled for the learner's time."""
    spec = agents.transition_spec(agent)
    num_steps = agent.config.actor.num_steps
    add = jax.jit(agent.replay.add, donate_argnums=0)

    def rows(first_step: Array) -> Transition:
        key = jax.random.fold_in(jax.random.key(0), first_step)

        def leaf(each: jax.ShapeDtypeStruct) -> Array:
            shape = (each.shape[0], num_steps, *each.shape[1:])
            if each.dtype == jnp.uint8:
                return jax.random.randint(key, shape, 0, 256, jnp.int32).astype(jnp.uint8)
            return jnp.zeros(shape, each.dtype)

        now = first_step + jnp.arange(num_steps, dtype=jnp.int32)[None]
        everywhere = jnp.broadcast_to(now, (agent.config.env.num_envs, num_steps))
        rows = jax.tree.map(leaf, spec)
        policy = jnp.full_like(rows.search_policy, 1.0 / rows.search_policy.shape[-1])
        return rows.replace(
            valid=jnp.ones_like(rows.valid),
            discount=jnp.ones_like(rows.discount),
            first=everywhere == 0,
            episode_step=everywhere,
            search_policy=policy,
        )

    make, step = jax.jit(rows), 0
    while not agent.replay.can_sample(replay):
        replay = add(replay, make(jnp.asarray(step, jnp.int32)))
        step += num_steps
    return replay


def _temporary_bytes(*compiled: Any) -> int:
    """What programs that run one after the other need beside their arguments and results."""
    return max(int(each.memory_analysis().temp_size_in_bytes) for each in compiled)
