"""What the machine could do at best: float32 matrix products and copies, measured in the same run as the parts."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from learnmax_jax import config
from learnmax_jax.benchmark import timing

_COPIED_BYTES = 2**27  # beyond the caches
_SQUARE = 1024
_MOST_CALLS = 100  # of a product in a round


@dataclasses.dataclass(frozen=True)
class Machine:
    """Rates that no part can exceed.

    Attributes:
      flops_per_second: of the fastest matrix product.
      bytes_per_second: read and written by a copy.
      products: "MxKxN" -> FLOP/s of each size.
    """

    flops_per_second: float
    bytes_per_second: float
    products: dict[str, float]

    def ideal_seconds(self, flops: float, num_bytes: float) -> float:
        """The least time: arithmetic or memory, whichever takes longer."""
        return max(flops / self.flops_per_second, num_bytes / self.bytes_per_second)

    def to_json(self) -> dict[str, Any]:
        """Attributes as json values."""
        return dataclasses.asdict(self)


def sizes(settings: config.Settings) -> list[tuple[int, int, int]]:
    """M, K, N of typical products: code logits and transformer, in a search step and in a learner's batch; a square."""
    envs, learner, dynamics = settings.env.num_envs, settings.learner, settings.dynamics
    rows = learner.batch_size * (learner.sequence_length + 1)
    logits = settings.tokenizer.num_groups * settings.tokenizer.num_codes
    found = [(m, dynamics.head_width, logits) for m in (envs, rows)]
    found += [(m, dynamics.width, dynamics.mlp_width) for m in (envs, rows)]
    return [*found, (_SQUARE, _SQUARE, _SQUARE)]


def measure(settings: config.Settings, *, rounds: int) -> Machine:
    """Times products and a copy; the best round counts."""
    products = {"x".join(map(str, size)): _product_rate(*size, rounds=rounds) for size in sizes(settings)}
    x = jnp.zeros((_COPIED_BYTES // 4,), jnp.float32)
    copy = partial(jax.jit(lambda x: x + 1.0), x)
    return Machine(max(products.values()), 2 * x.nbytes / timing.least(copy, rounds=rounds), products)


def _product_rate(m: int, k: int, n: int, *, rounds: int) -> float:
    """FLOP/s of one product, of as many calls in a round as take a few milliseconds."""
    key = jax.random.key(0)
    left, right = jax.random.normal(key, (m, k)), jax.random.normal(key, (k, n))
    product = jax.jit(jnp.matmul)
    repeats = min(_MOST_CALLS, max(1, round(1e8 / (m * k * n))))
    seconds = timing.least(lambda: [product(left, right) for _ in range(repeats)], rounds=rounds)
    return repeats * 2.0 * m * k * n / seconds
