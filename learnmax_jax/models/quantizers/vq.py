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
    Seen,
    count,
    empty_state,
    look_up,
    nearest,
    on_space,
    straight_through,
)
from learnmax_jax.types import Array, Params

# A dead code moves onto encodings this many times farther from their code than is typical (squared). Nearer ones have
# theirs: two would trade places, and every copy of the tokenizer would speak of other codes.
_FAR = 2.0


def kmeans(
    points: Array, weight: Array, rng_key: Array, *, num_codes: int, num_iterations: int, distance: str
) -> Array:
    """Lloyd's algorithm, points `[M, G, D]` of weight `[M, G]` -> `[G, V, D]`; an empty cluster keeps its place."""
    centres, _ = draw_points(points, weight, rng_key, num_codes=num_codes)

    def step(_: int, centres: Array) -> Array:
        counts, sums = count(points, nearest(points, centres), weight, num_codes)
        means = on_space(sums / jnp.where(counts > 0.0, counts, 1.0)[..., None], distance)
        return jnp.where(counts[..., None] > 0.0, means, centres)

    return jax.lax.fori_loop(0, num_iterations, step, centres)


def draw_points(points: Array, weight: Array, rng_key: Array, *, num_codes: int) -> tuple[Array, Array]:
    """Draws V points for each group, likelier where the weight is larger; none twice where there are V of them.

    Args:
      points: `[M, G, D]`. weight: `[M, G]`, 0 or more.
      rng_key: key.
      num_codes: V.
    Returns:
      points `[G, V, D]`, and whether each had any weight, `[G, V]` bool; those that had come first.
    """
    # Gumbel's trick: the largest of log weight + noise are a draw without replacement.
    scores = jnp.log(weight) + jax.random.gumbel(rng_key, weight.shape)
    scores, rows = jax.lax.top_k(scores.T, min(num_codes, points.shape[0]))
    rows = jnp.resize(rows.T, (num_codes, rows.shape[0])).T
    scores = jnp.resize(scores.T, (num_codes, scores.shape[0])).T
    return points[rows, jnp.arange(points.shape[1])[:, None]], scores > -jnp.inf


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
    seen: Seen,
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

    Every encoding counts as the pixels it speaks of do in the reconstruction: else the still
    background, in nearly all frames, leaves a moving thing too few codes.
    A dead code moves onto an encoding drawn by its squared distance from its code, as k-means++ does
    (Arthur & Vassilvitskii 2007): one drawn evenly would mostly be background again, and dead again.

    The decay grows to its full value over the first updates, (1 + t) / (10 + t): a slow
    codebook loses a young encoder, which moves all its encodings at once, and they fall
    to one code; a fast one would keep codes changing for good.
    """
    grown_decay = jnp.minimum(decay, (1.0 + state.num_updates) / (10.0 + state.num_updates))
    start_key, revive_key = jax.random.split(rng_key)
    num_groups, num_codes = state.usage.shape
    points = seen.encoding.reshape(-1, *seen.encoding.shape[2:])
    codes, weight = (x.reshape(-1, num_groups) for x in (seen.codes, seen.weight))
    old = params["codebook"] if by_gradient else state.codebook

    def start() -> tuple[Array, Array, Array, Array]:
        codebook = kmeans(
            points, weight, start_key, num_codes=num_codes, num_iterations=kmeans_iterations, distance=distance
        )
        chosen = nearest(points, codebook)
        counts, sums = count(points, chosen, weight, num_codes)
        return codebook, chosen, counts, jnp.zeros_like(sums) if by_gradient else sums

    def follow() -> tuple[Array, Array, Array, Array]:
        counts, sums = count(points, codes, weight, num_codes)
        usage = grown_decay * state.usage + (1.0 - grown_decay) * counts
        if by_gradient:
            return old, codes, usage, jnp.zeros_like(sums)
        sums = grown_decay * state.sums + (1.0 - grown_decay) * sums
        # A code nobody ever chose has no mean: it stays where it is.
        means = on_space(sums / jnp.maximum(usage, 1e-12)[..., None], distance)
        return jnp.where(usage[..., None] > 1e-12, means, old), codes, usage, sums

    codebook, chosen, usage, sums = jax.lax.cond(state.num_updates == 0, start, follow)

    # Dead codes forget what they were.
    even_usage = jnp.sum(weight, axis=0)[:, None] / num_codes
    limit = jnp.where(state.num_updates < revive_warmup, num_codes, revive_limit)
    rank = jnp.argsort(jnp.argsort(usage, axis=-1), axis=-1)  # 0 for the least used
    dead = (usage < revive_below * even_usage) & (rank < limit)
    off = jnp.sum((points - look_up(codebook, chosen)) ** 2, axis=-1)
    typical = jnp.sum(weight * off, axis=0) / jnp.maximum(jnp.sum(weight, axis=0), 1e-12)
    off = jnp.where(off > _FAR * typical[None], off, 0.0)
    drawn, is_off = draw_points(points, weight * off, revive_key, num_codes=num_codes)
    drawn, is_off = jnp.take_along_axis(drawn, rank[..., None], axis=1), jnp.take_along_axis(is_off, rank, axis=1)
    dead &= is_off
    codebook = jnp.where(dead[..., None], drawn, codebook)
    usage = jnp.where(dead, even_usage, usage)
    sums = jnp.where(dead[..., None], codebook * even_usage[..., None], sums)

    state = state.replace(usage=usage, num_updates=state.num_updates + 1)
    if by_gradient:
        return {"codebook": codebook}, state
    return params, state.replace(codebook=codebook, sums=sums)
