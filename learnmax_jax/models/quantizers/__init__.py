"""Encodings to integer codes: six quantisers behind one signature.

    vq_ema    nearest code; the codebook is a running mean of what it was chosen for
    vq_grad   nearest code; the codebook is a parameter and learns by gradient
    fsq       no codebook: each of D bounded scalars is rounded to L levels, V = L^D
    random    frozen random projection and codebook: codes that never drift
    growing   nearest patch ever kept; a new one is added where a patch is far from all and badly shown
    identity  integers stay what they are

Every function is pure. `quantise` never changes the state; `update` takes what
`quantise` saw, so codes are always those of the codebook before the update.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

from learnmax_jax.models.quantizers import fsq, growing, identity, random_projection, vq
from learnmax_jax.models.quantizers.codes import (
    Quantised,
    QuantizerState,
    Seen,
    codes_used,
    empty_state,
    on_space,
    update_usage,
)
from learnmax_jax.types import Array, Params

KINDS = ("vq_ema", "vq_grad", "fsq", "random", "growing", "identity")
RAW_KINDS = ("random", "growing")  # encode raw pixels
DISTANCES = ("cosine", "l2")


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """A quantiser as pure functions.

    Attributes:
      init: rng_key -> (params, QuantizerState).
      quantise: (params, state, encoding `[B, N, K]`) -> Quantised; K = G D save for random and identity.
      update: (params, state, Seen, rng_key) -> (params, state).
      code_vectors: (params, state) -> `[G, V, D]` float32.
      codes_used: state -> float32, codes in use, mean over groups.
    """

    init: Callable[[Array], tuple[Params, QuantizerState]]
    quantise: Callable[[Params, QuantizerState, Array], Quantised]
    update: Callable[[Params, QuantizerState, Seen, Array], tuple[Params, QuantizerState]]
    code_vectors: Callable[[Params, QuantizerState], Array]
    codes_used: Callable[[QuantizerState], Array]


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
    growth: Mapping[str, Any] | None = None,
) -> Quantizer:
    """Builds one kind of quantiser.

    Args:
      kind: one of `KINDS`.
      distance: cosine (encodings and codes on the unit sphere) or l2; of vq_ema and vq_grad.
      num_groups: G, codes a token.
      num_codes: V, codes a group; fsq: L^D for a whole L >= 2.
      code_dim: D; identity: equal to V (one-hot); growing: equal to K, the pixels of a patch.
      input_dim: K, width of an encoding; only the kinds of raw pixels ask.
      commitment: weight of the pull of encodings towards their codes (vq_ema, vq_grad).
      codebook_decay: of the running means, an update; reached step by step from the first.
      kmeans_iterations: Lloyd steps on the first update's encodings, which start the codebook.
      revive_below: a code is dead where its usage is under this share of even usage.
      revive_limit: dead codes moved onto badly quantised encodings of the batch, at most, a group and update.
      revive_warmup: updates during which `revive_limit` does not hold.
      growth: of growing only: distance and error, above both of which a patch becomes a code (root mean square over
        its pixels, grey levels), and limit, codes added in an update.
    Raises:
      ValueError: a value that cannot work, named with what is allowed.
    """
    shape = (num_groups, num_codes, code_dim)
    by_usage = partial(codes_used, used_from=revive_below)
    usage_update = partial(update_usage, decay=codebook_decay)
    if kind == "fsq":
        levels = fsq.num_levels(num_codes, code_dim)
        return Quantizer(
            init=lambda rng_key: ({}, empty_state(shape)),
            quantise=partial(fsq.quantise, shape=shape, levels=levels),
            update=usage_update,
            code_vectors=lambda params, state: fsq.code_vectors(shape, levels),
            codes_used=by_usage,
        )
    if kind == "random":
        return Quantizer(
            init=partial(random_projection.init, shape=shape, input_dim=input_dim),
            quantise=random_projection.quantise,
            update=partial(random_projection.update, decay=codebook_decay),
            code_vectors=lambda params, state: state.codebook,
            codes_used=by_usage,
        )
    if kind == "growing":
        if (num_groups, code_dim) != (1, input_dim) or growth is None:
            raise ValueError(
                f"code_dim={code_dim}: growing keeps patches as they are, with num_groups={num_groups} and "
                f"growth={growth}. Allowed: code_dim {input_dim} with num_groups 1 and a growth. Nearest: {input_dim}"
            )
        return Quantizer(
            init=partial(growing.init, shape=shape),
            quantise=partial(growing.quantise, distance=growth["distance"] / 255.0),
            update=partial(
                growing.update,
                decay=codebook_decay,
                distance=growth["distance"] / 255.0,
                error_above=growth["error"] / 255.0,
                limit=growth["limit"],
            ),
            code_vectors=lambda params, state: growing.code_vectors(state),
            codes_used=growing.codes_used,
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
            codes_used=by_usage,
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
        codes_used=by_usage,
    )
