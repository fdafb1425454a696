"""Nearest code of a learned codebook: by running means (vq_ema) or by gradient (vq_grad).

Source: van den Oord et al. 2017, https://arxiv.org/abs/1711.00937 (running means: appendix A);
Yu et al. 2021, https://arxiv.org/abs/2110.04627 (small, normalised codes).
"""

import chex
import jax
import jax.numpy as jnp

from learnmax_jax.models.quantizers.codes import (
    Quantised,
    QuantizerState,
    count,
    empty_state,
    look_up,
    nearest,
    on_space,
    straight_through,
)
from learnmax_jax.types import Array, Params


def kmeans(points: Array, rng_key: Array, *, num_codes: int, num_iterations: int, distance: str) -> Array:
    """Lloyd's algorithm from random points, `[M, G, D]` -> `[G, V, D]`; an empty cluster keeps its place."""
    centres = _draw_points(points, rng_key, num_codes)

    def step(_: int, centres: Array) -> Array:
        counts, sums = count(points, nearest(points, centres), num_codes)
        means = on_space(sums / jnp.maximum(counts, 1.0)[..., None], distance)
        return jnp.where(counts[..., None] > 0.0, means, centres)

    return jax.lax.fori_loop(0, num_iterations, step, centres)


def _draw_points(points: Array, rng_key: Array, num_codes: int) -> Array:
    """V points for each group, `[M, G, D]` -> `[G, V, D]`; none twice where M >= V."""
    num_points, num_groups, _ = points.shape

    def draw(key: Array) -> Array:
        return jnp.resize(jax.random.permutation(key, num_points), (num_codes,))

    rows = jax.vmap(draw)(jax.random.split(rng_key, num_groups))
    return points[rows, jnp.arange(num_groups)[:, None]]


def init(
    rng_key: Array, *, shape: tuple[int, int, int], distance: str, by_gradient: bool
) -> tuple[Params, QuantizerState]:
    codebook = on_space(jax.random.normal(rng_key, shape, jnp.float32), distance)
    if by_gradient:
        return {"codebook": codebook}, empty_state(shape)
    return {}, empty_state(shape).replace(codebook=codebook, sums=jnp.zeros(shape, jnp.float32))


def quantise(
    params: Params, state: QuantizerState, encoding: Array, *, distance: str, commitment: float, by_gradient: bool
) -> Quantised:
    """Nearest code; loss = commitment mean((z - sg(e))^2), vq_grad adds mean((sg(z) - e)^2)."""
    codebook = on_space(params["codebook"] if by_gradient else state.codebook, distance)
    num_groups, _, code_dim = codebook.shape
    chex.assert_shape(encoding, (None, None, num_groups * code_dim))
    points = on_space(encoding.reshape(*encoding.shape[:2], num_groups, code_dim), distance)
    fixed = jax.lax.stop_gradient(points)
    codes = nearest(fixed, jax.lax.stop_gradient(codebook))
    rows = look_up(codebook, codes)
    loss = commitment * jnp.mean((points - jax.lax.stop_gradient(rows)) ** 2)
    if by_gradient:
        loss = loss + jnp.mean((fixed - rows) ** 2)
    vectors = straight_through(points, jax.lax.stop_gradient(rows))
    return Quantised(vectors=vectors, codes=codes, encoding=fixed, loss=loss)


def update(
    params: Params,
    state: QuantizerState,
    encoding: Array,
    codes: Array,
    rng_key: Array,
    *,
    distance: str,
    decay: float,
    kmeans_iterations: int,
    revive_below: float,
    revive_limit: int,
    revive_warmup: int,
    by_gradient: bool,
) -> tuple[Params, QuantizerState]:
    """Starts the codebook by k-means, afterwards decays every running mean and revives dead codes.

    The decay grows to its full value over the first updates, (1 + t) / (10 + t): a slow
    codebook loses a young encoder, which moves all its encodings at once, and they fall
    to one code; a fast one would keep codes changing for good.
    """
    grown_decay = jnp.minimum(decay, (1.0 + state.num_updates) / (10.0 + state.num_updates))
    start_key, revive_key = jax.random.split(rng_key)
    num_groups, num_codes = state.usage.shape
    points = encoding.reshape(-1, *encoding.shape[2:])
    codes = codes.reshape(-1, num_groups)
    old = params["codebook"] if by_gradient else state.codebook

    def start() -> tuple[Array, Array, Array]:
        codebook = kmeans(points, start_key, num_codes=num_codes, num_iterations=kmeans_iterations, distance=distance)
        counts, sums = count(points, nearest(points, codebook), num_codes)
        return codebook, counts, jnp.zeros_like(sums) if by_gradient else sums

    def follow() -> tuple[Array, Array, Array]:
        counts, sums = count(points, codes, num_codes)
        usage = grown_decay * state.usage + (1.0 - grown_decay) * counts
        if by_gradient:
            return old, usage, jnp.zeros_like(sums)
        sums = grown_decay * state.sums + (1.0 - grown_decay) * sums
        # A code nobody ever chose has no mean: it stays where it is.
        means = on_space(sums / jnp.maximum(usage, 1e-12)[..., None], distance)
        return jnp.where(usage[..., None] > 1e-12, means, old), usage, sums

    codebook, usage, sums = jax.lax.cond(state.num_updates == 0, start, follow)

    # Dead codes move onto encodings of this batch and forget what they were.
    even_usage = points.shape[0] / num_codes
    limit = jnp.where(state.num_updates < revive_warmup, num_codes, revive_limit)
    rank = jnp.argsort(jnp.argsort(usage, axis=-1), axis=-1)  # 0 for the least used
    dead = (usage < revive_below * even_usage) & (rank < limit)
    codebook = jnp.where(dead[..., None], _draw_points(points, revive_key, num_codes), codebook)
    usage = jnp.where(dead, even_usage, usage)
    sums = jnp.where(dead[..., None], codebook * even_usage, sums)

    state = state.replace(usage=usage, num_updates=state.num_updates + 1)
    if by_gradient:
        return {"codebook": codebook}, state
    return params, state.replace(codebook=codebook, sums=sums)
