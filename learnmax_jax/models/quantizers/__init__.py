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

import jax.numpy as jnp

from learnmax_jax.models.quantizers import fsq, identity, random_projection, vq
from learnmax_jax.models.quantizers.codes import Quantised, QuantizerState, empty_state, on_space, update_usage
from learnmax_jax.types import Array, Params

KINDS = ("vq_ema", "vq_grad", "fsq", "random", "identity")
DISTANCES = ("cosine", "l2")


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
      distance: cosine (encodings and codes on the unit sphere) or l2; of vq_ema and vq_grad.
      num_groups: G, codes a token.
      num_codes: V, codes a group; fsq: L^D for a whole L >= 2.
      code_dim: D; identity: equal to V (one-hot).
      input_dim: K, width of an encoding; only the random projection asks.
      commitment: weight of the pull of encodings towards their codes (vq_ema, vq_grad).
      codebook_decay: of the running means, an update; reached step by step from the first.
      kmeans_iterations: Lloyd steps on the first update's encodings, which start the codebook.
      revive_below: a code is dead where its usage is under this share of even usage.
      revive_limit: dead codes moved onto encodings of the batch, at most, a group and update.
      revive_warmup: updates during which `revive_limit` does not hold.
    Raises:
      ValueError: a value that cannot work, named with what is allowed.
    """
    shape = (num_groups, num_codes, code_dim)
    usage_update = partial(update_usage, decay=codebook_decay)
    if kind == "fsq":
        levels = fsq.num_levels(num_codes, code_dim)
        return Quantizer(
            init=lambda rng_key: ({}, empty_state(shape)),
            quantise=partial(fsq.quantise, shape=shape, levels=levels),
            update=usage_update,
            code_vectors=lambda params, state: fsq.code_vectors(shape, levels),
        )
    if kind == "random":
        return Quantizer(
            init=partial(random_projection.init, shape=shape, input_dim=input_dim),
            quantise=random_projection.quantise,
            update=partial(random_projection.update, decay=codebook_decay),
            code_vectors=lambda params, state: state.codebook,
        )
    if kind == "identity":
        if code_dim != num_codes:
            raise ValueError(
                f"code_dim={code_dim}: identity codes are one-hot. Allowed: num_codes. Nearest: {num_codes}"
            )
        return Quantizer(
            init=lambda rng_key: ({}, empty_state(shape)),
            quantise=partial(identity.quantise, num_codes=num_codes),
            update=usage_update,
            code_vectors=lambda params, state: jnp.broadcast_to(jnp.eye(num_codes), shape),
        )
    by_gradient = kind == "vq_grad"
    return Quantizer(
        init=partial(vq.init, shape=shape, distance=distance, by_gradient=by_gradient),
        quantise=partial(vq.quantise, distance=distance, commitment=commitment, by_gradient=by_gradient),
        update=partial(
            vq.update,
            distance=distance,
            decay=codebook_decay,
            kmeans_iterations=kmeans_iterations,
            revive_below=revive_below,
            revive_limit=revive_limit,
            revive_warmup=revive_warmup,
            by_gradient=by_gradient,
        ),
        code_vectors=lambda params, state: on_space(params["codebook"] if by_gradient else state.codebook, distance),
    )
