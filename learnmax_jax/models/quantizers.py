"""Encodings to integer codes: five quantisers behind one signature.

    vq_ema    nearest code; the codebook is a running mean of what it was chosen for
    vq_grad   nearest code; the codebook is a parameter and learns by gradient
    fsq       no codebook: each of D bounded scalars is rounded to L levels, V = L^D
    random    frozen random projection and codebook: codes that never drift
    identity  integers stay what they are

Every function is pure. `quantise` never changes the state; `update` takes what
`quantise` saw, so codes are always those of the codebook before the update.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
from flax import struct

from learnmax_jax.types import Array, Params

KINDS = ("vq_ema", "vq_grad", "fsq", "random", "identity")
DISTANCES = ("cosine", "l2")


@struct.dataclass
class QuantizerState:
    """What a quantiser keeps besides its parameters; fields a kind has no use for have size 0.

    Attributes:
      codebook: `[G, V, D]` float32 (vq_ema, random).
      projection: `[G, K, D]` float32, frozen (random).
      usage: `[G, V]` float32, running mean of the times a code is chosen in one update.
      sums: `[G, V, D]` float32, running mean of the sum of encodings a code is chosen for (vq_ema).
      num_updates: int32.
    """

    codebook: Array
    projection: Array
    usage: Array
    sums: Array
    num_updates: Array


@struct.dataclass
class Quantised:
    """The answer to `[B, N, K]` encodings.

    Attributes:
      vectors: `[B, N, G, D]` float32, exactly rows of `code_vectors`; the gradient passes
        straight through to the encoding, none reaches the codebook.
      codes: `[B, N, G]` int32.
      encoding: `[B, N, G, D]` float32, the point each code is nearest to; no gradient.
      loss: float32, the quantiser's own loss.
    """

    vectors: Array
    codes: Array
    encoding: Array
    loss: Array


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """A quantiser as pure functions.

    Attributes:
      init: rng_key -> (params, QuantizerState).
      quantise: (params, state, encoding `[B, N, K]`) -> Quantised; K = G D save for random and identity.
      update: (params, state, encoding `[B, N, G, D]`, codes `[B, N, G]`, rng_key) -> (params, state).
      code_vectors: (params, state) -> `[G, V, D]` float32.
    """

    init: Callable[[Array], tuple[Params, QuantizerState]]
    quantise: Callable[[Params, QuantizerState, Array], Quantised]
    update: Callable[[Params, QuantizerState, Array, Array, Array], tuple[Params, QuantizerState]]
    code_vectors: Callable[[Params, QuantizerState], Array]


def make_quantizer(
    *,
    kind: str,
    distance: str,
    num_groups: int,
    num_codes: int,
    code_dim: int,
    input_dim: int,
    commitment: float,
    codebook_decay: float,
    kmeans_iterations: int,
    revive_below: float,
    revive_limit: int,
    revive_warmup: int,
) -> Quantizer:
    """Builds one kind of quantiser.

    Args:
      kind: vq_ema, vq_grad, fsq, random or identity.
      distance: cosine (encodings and codes on the unit sphere) or l2; of vq_ema, vq_grad and random.
      num_groups: G, codes a token.
      num_codes: V, codes a group; fsq: L^D for a whole L >= 2.
      code_dim: D; identity: equal to V (one-hot).
      input_dim: K, width of an encoding; G D for vq_ema, vq_grad and fsq, G for identity.
      commitment: weight of the pull of encodings towards their codes (vq_ema, vq_grad).
      codebook_decay: of the running means, an update.
      kmeans_iterations: Lloyd steps on the first update's encodings, which start the codebook.
      revive_below: a code is dead where its usage is under this share of even usage.
      revive_limit: dead codes moved onto encodings of the batch, at most, a group and update.
      revive_warmup: updates during which `revive_limit` does not hold.
    Raises:
      ValueError: a value that cannot work, named with what is allowed.
    Source: van den Oord et al. 2017, https://arxiv.org/abs/1711.00937 (EMA, appendix A); Yu et al. 2021,
      https://arxiv.org/abs/2110.04627 (small, normalised codes); Mentzer et al. 2023,
      https://arxiv.org/abs/2309.15505 (fsq); Chiu et al. 2022, https://arxiv.org/abs/2202.01855 (random).
    """
    shape = (num_groups, num_codes, code_dim)
    usage_update = partial(_update_usage, decay=codebook_decay)
    if kind == "fsq":
        levels = _fsq_levels(num_codes, code_dim)
        return Quantizer(
            init=lambda rng_key: ({}, _empty_state(shape)),
            quantise=partial(_fsq_quantise, shape=shape, levels=levels),
            update=usage_update,
            code_vectors=lambda params, state: _fsq_vectors(shape, levels),
        )
    if kind == "random":
        return Quantizer(
            init=partial(_random_init, shape=shape, input_dim=input_dim, distance=distance),
            quantise=partial(_random_quantise, distance=distance),
            update=usage_update,
            code_vectors=lambda params, state: _on_space(state.codebook, distance),
        )
    if kind == "identity":
        if code_dim != num_codes:
            raise ValueError(
                f"code_dim={code_dim}: identity codes are one-hot. Allowed: num_codes. Nearest: {num_codes}"
            )
        return Quantizer(
            init=lambda rng_key: ({}, _empty_state(shape)),
            quantise=partial(_identity_quantise, num_codes=num_codes),
            update=usage_update,
            code_vectors=lambda params, state: jnp.broadcast_to(jnp.eye(num_codes), shape),
        )
    by_gradient = kind == "vq_grad"
    return Quantizer(
        init=partial(_vq_init, shape=shape, distance=distance, by_gradient=by_gradient),
        quantise=partial(_vq_quantise, distance=distance, commitment=commitment, by_gradient=by_gradient),
        update=partial(
            _vq_update,
            distance=distance,
            decay=codebook_decay,
            kmeans_iterations=kmeans_iterations,
            revive_below=revive_below,
            revive_limit=revive_limit,
            revive_warmup=revive_warmup,
            by_gradient=by_gradient,
        ),
        code_vectors=lambda params, state: _on_space(params["codebook"] if by_gradient else state.codebook, distance),
    )


@jax.custom_vjp
def straight_through(encoding: Array, vectors: Array) -> Array:
    """Returns `vectors` bit for bit; the gradient goes to `encoding` bit for bit, `vectors` gets zero.

    `z + stop_gradient(q - z)` rounds: its value is not a row of the codebook.
    """
    chex.assert_equal_shape([encoding, vectors])
    return vectors


def _straight_through_forward(encoding: Array, vectors: Array) -> tuple[Array, None]:
    return straight_through(encoding, vectors), None


def _straight_through_backward(_: None, gradient: Array) -> tuple[Array, Array]:
    return gradient, jnp.zeros_like(gradient)


straight_through.defvjp(_straight_through_forward, _straight_through_backward)


def normalise(vectors: Array) -> Array:
    """Scales the last axis to length 1; a zero vector stays zero, with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.sum(vectors**2, axis=-1, keepdims=True) + 1e-12)


def nearest(encoding: Array, codebook: Array) -> Array:
    """The index of the nearest code by squared distance, `[..., G, D]`, `[G, V, D]` -> `[..., G]` int32.

    On the unit sphere this is also the largest cosine. Full float32 products: an
    accelerator's short ones would choose other codes than the CPU does.
    """
    products = jnp.einsum("...gd,gvd->...gv", encoding, codebook, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.sum(codebook**2, axis=-1)
    lengths = lengths.reshape((1,) * (products.ndim - 2) + lengths.shape)
    return jnp.argmin(lengths - 2.0 * products, axis=-1).astype(jnp.int32)


def look_up(codebook: Array, codes: Array) -> Array:
    """The rows of `[G, V, D]` that `[..., G]` codes name, `[..., G, D]`."""
    return codebook[jnp.arange(codebook.shape[0]).reshape((1,) * (codes.ndim - 1) + (-1,)), codes]


def perplexity(usage: Array) -> Array:
    """exp of the entropy of each group's usage, mean over groups: 1 where one code does all, V where all share."""
    shares = usage / jnp.maximum(jnp.sum(usage, axis=-1, keepdims=True), 1e-12)
    return jnp.mean(jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares), axis=-1)))


def kmeans(points: Array, rng_key: Array, *, num_codes: int, num_iterations: int, distance: str) -> Array:
    """Lloyd's algorithm from random points, `[M, G, D]` -> `[G, V, D]`; an empty cluster keeps its place."""
    centres = _draw_points(points, rng_key, num_codes)

    def step(_: int, centres: Array) -> Array:
        counts, sums = _count(points, nearest(points, centres), num_codes)
        means = _on_space(sums / jnp.maximum(counts, 1.0)[..., None], distance)
        return jnp.where(counts[..., None] > 0.0, means, centres)

    return jax.lax.fori_loop(0, num_iterations, step, centres)


def _on_space(vectors: Array, distance: str) -> Array:
    """Puts vectors where the distance is measured: on the unit sphere for cosine."""
    return normalise(vectors) if distance == "cosine" else vectors


def _count(points: Array, codes: Array, num_codes: int) -> tuple[Array, Array]:
    """How often each code was chosen, `[G, V]`, and the sum of the points it was chosen for, `[G, V, D]`."""
    chosen = jax.nn.one_hot(codes, num_codes, dtype=jnp.float32)
    sums = jnp.einsum("mgv,mgd->gvd", chosen, points, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(chosen, axis=0), sums


def _draw_points(points: Array, rng_key: Array, num_codes: int) -> Array:
    """V points for each group, `[M, G, D]` -> `[G, V, D]`; none twice where M >= V."""
    num_points, num_groups, _ = points.shape

    def draw(key: Array) -> Array:
        return jnp.resize(jax.random.permutation(key, num_points), (num_codes,))

    rows = jax.vmap(draw)(jax.random.split(rng_key, num_groups))
    return points[rows, jnp.arange(num_groups)[:, None]]


def _empty_state(shape: tuple[int, int, int]) -> QuantizerState:
    """Even usage of nothing yet; no codebook."""
    none = jnp.zeros((0,), jnp.float32)
    return QuantizerState(
        codebook=none,
        projection=none,
        usage=jnp.zeros(shape[:2], jnp.float32),
        sums=none,
        num_updates=jnp.zeros((), jnp.int32),
    )


def _running_usage(usage: Array, counts: Array, num_updates: Array, decay: float) -> Array:
    """The running mean of counts; the first update's counts start it."""
    return jnp.where(num_updates == 0, counts, decay * usage + (1.0 - decay) * counts)


def _update_usage(
    params: Params, state: QuantizerState, encoding: Array, codes: Array, rng_key: Array, *, decay: float
) -> tuple[Params, QuantizerState]:
    """For the kinds that only watch which codes are used."""
    del encoding, rng_key
    num_groups, num_codes = state.usage.shape
    counts = jnp.sum(jax.nn.one_hot(codes.reshape(-1, num_groups), num_codes, dtype=jnp.float32), axis=0)
    usage = _running_usage(state.usage, counts, state.num_updates, decay)
    return params, state.replace(usage=usage, num_updates=state.num_updates + 1)


def _vq_init(
    rng_key: Array, *, shape: tuple[int, int, int], distance: str, by_gradient: bool
) -> tuple[Params, QuantizerState]:
    codebook = _on_space(jax.random.normal(rng_key, shape, jnp.float32), distance)
    if by_gradient:
        return {"codebook": codebook}, _empty_state(shape)
    return {}, _empty_state(shape).replace(codebook=codebook, sums=jnp.zeros(shape, jnp.float32))


def _vq_quantise(
    params: Params, state: QuantizerState, encoding: Array, *, distance: str, commitment: float, by_gradient: bool
) -> Quantised:
    """Nearest code; loss = commitment mean((z - sg(e))^2), vq_grad adds mean((sg(z) - e)^2)."""
    codebook = _on_space(params["codebook"] if by_gradient else state.codebook, distance)
    num_groups, _, code_dim = codebook.shape
    chex.assert_shape(encoding, (None, None, num_groups * code_dim))
    points = _on_space(encoding.reshape(*encoding.shape[:2], num_groups, code_dim), distance)
    fixed = jax.lax.stop_gradient(points)
    codes = nearest(fixed, jax.lax.stop_gradient(codebook))
    rows = look_up(codebook, codes)
    loss = commitment * jnp.mean((points - jax.lax.stop_gradient(rows)) ** 2)
    if by_gradient:
        loss = loss + jnp.mean((fixed - rows) ** 2)
    vectors = straight_through(points, jax.lax.stop_gradient(rows))
    return Quantised(vectors=vectors, codes=codes, encoding=fixed, loss=loss)


def _vq_update(
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
    """Starts the codebook by k-means, afterwards decays every running mean and revives dead codes."""
    start_key, revive_key = jax.random.split(rng_key)
    num_groups, num_codes = state.usage.shape
    points = encoding.reshape(-1, *encoding.shape[2:])
    codes = codes.reshape(-1, num_groups)
    old = params["codebook"] if by_gradient else state.codebook

    def start() -> tuple[Array, Array, Array]:
        codebook = kmeans(points, start_key, num_codes=num_codes, num_iterations=kmeans_iterations, distance=distance)
        counts, _ = _count(points, nearest(points, codebook), num_codes)
        return codebook, counts, codebook * counts[..., None]

    def follow() -> tuple[Array, Array, Array]:
        counts, sums = _count(points, codes, num_codes)
        usage = decay * state.usage + (1.0 - decay) * counts
        if by_gradient:
            return old, usage, jnp.zeros_like(sums)
        sums = decay * state.sums + (1.0 - decay) * sums
        # A code nobody ever chose has no mean: it stays where it is.
        means = _on_space(sums / jnp.maximum(usage, 1e-12)[..., None], distance)
        return jnp.where(usage[..., None] > 1e-12, means, old), usage, sums

    codebook, usage, sums = jax.lax.cond(state.num_updates == 0, start, follow)

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


def _fsq_levels(num_codes: int, code_dim: int) -> int:
    """L with L^D = V."""
    levels = max(2, round(num_codes ** (1.0 / code_dim)))
    if levels**code_dim != num_codes:
        raise ValueError(
            f"num_codes={num_codes}: fsq rounds code_dim={code_dim} scalars to L levels each. "
            f"Allowed: L**{code_dim}, L >= 2. Nearest: {levels**code_dim}"
        )
    return levels


def _fsq_vectors(shape: tuple[int, int, int], levels: int) -> Array:
    """All codes, `[G, V, D]` in [-1, 1); the first scalar is the lowest digit of the index."""
    digits = jnp.arange(shape[1])[:, None] // levels ** jnp.arange(shape[2])[None, :] % levels
    half = levels // 2
    return jnp.broadcast_to((digits - half) / half, shape).astype(jnp.float32)


def _fsq_quantise(
    params: Params, state: QuantizerState, encoding: Array, *, shape: tuple[int, int, int], levels: int
) -> Quantised:
    """Bounds each scalar by tanh, rounds it to a level; the gradient passes the rounding only."""
    del params, state
    num_groups, _, code_dim = shape
    chex.assert_shape(encoding, (None, None, num_groups * code_dim))
    encoding = encoding.reshape(*encoding.shape[:2], num_groups, code_dim)
    # An even number of levels lies off centre by half a level (the paper's appendix A).
    half_width = (levels - 1) * (1.0 + 1e-3) / 2.0
    offset = 0.5 if levels % 2 == 0 else 0.0
    shift = jnp.arctanh(offset / half_width)
    half = levels // 2
    bounded = jnp.tanh(encoding + shift) * half_width - offset
    digits = (jnp.round(bounded) + half).astype(jnp.int32)
    weights = (levels ** jnp.arange(code_dim)).reshape(1, 1, 1, code_dim)
    codes = jnp.sum(digits * weights, axis=-1).astype(jnp.int32)
    points = bounded / half
    vectors = straight_through(points, look_up(_fsq_vectors(shape, levels), codes))
    return Quantised(
        vectors=vectors, codes=codes, encoding=jax.lax.stop_gradient(points), loss=jnp.zeros((), jnp.float32)
    )


def _random_init(
    rng_key: Array, *, shape: tuple[int, int, int], input_dim: int, distance: str
) -> tuple[Params, QuantizerState]:
    projection_key, codebook_key = jax.random.split(rng_key)
    projection = jax.random.normal(projection_key, (shape[0], input_dim, shape[2])) / jnp.sqrt(float(input_dim))
    codebook = _on_space(jax.random.normal(codebook_key, shape), distance)
    return {}, _empty_state(shape).replace(codebook=codebook, projection=projection)


def _random_quantise(params: Params, state: QuantizerState, encoding: Array, *, distance: str) -> Quantised:
    """Nearest frozen code of a frozen projection; nothing to learn, no gradient."""
    del params
    chex.assert_shape(encoding, (None, None, state.projection.shape[1]))
    points = jnp.einsum("bnk,gkd->bngd", encoding, state.projection, precision=jax.lax.Precision.HIGHEST)
    points = jax.lax.stop_gradient(_on_space(points, distance))
    codebook = _on_space(state.codebook, distance)
    codes = nearest(points, codebook)
    rows = jax.lax.stop_gradient(look_up(codebook, codes))
    return Quantised(vectors=rows, codes=codes, encoding=points, loss=jnp.zeros((), jnp.float32))


def _identity_quantise(params: Params, state: QuantizerState, encoding: Array, *, num_codes: int) -> Quantised:
    """The integers themselves; one that is no code (>= V) becomes the last code."""
    del params, state
    codes = jnp.clip(encoding.astype(jnp.int32), 0, num_codes - 1)
    vectors = jax.nn.one_hot(codes, num_codes, dtype=jnp.float32)
    return Quantised(vectors=vectors, codes=codes, encoding=vectors, loss=jnp.zeros((), jnp.float32))
